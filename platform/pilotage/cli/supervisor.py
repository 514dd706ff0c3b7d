"""Keeps programs running: starts each on a leash, restarts one that dies, stops all in order.

Nothing here knows what the programs are (``servers.py`` does) or how they are shown (``board.py``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import psutil

from pilotage.cli.orphans import MARK, end_orphans
from pilotage.settings import PROJECT

State = Literal["waiting", "starting", "healthy", "unwell", "restarting", "failed", "stopping", "stopped"]

BACK_OFF = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds before each restart; a program that dies once more after the last is given up."""
STEADY_SECONDS = 120.0
"""A program that ran this long starts again with the first back-off."""
LEASH_GRACE = 8.0
"""Seconds a program gets to end by itself."""


class Lasting(str):
    """What is wrong with a program that answers, and that no waiting mends."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, and how to see that it is well."""

    name: str
    command: Sequence[str]
    log: Path
    check: Callable[[], str | None] | None = None
    """Asks the program over HTTP: ``None`` if it is well, else what is wrong in a few words. May block for seconds.

    A ``Lasting`` trouble is told at once, also of a program that is only starting."""
    url: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    grace: float = LEASH_GRACE


def leashed(
    program: Sequence[str], *, variables: Mapping[str, str], output: IO[bytes] | int, grace: float = LEASH_GRACE
) -> subprocess.Popen[bytes]:
    """Starts a program that ends, with all its descendants, when this process does.

    Args:
        program: Command line.
        variables: Environment variables on top of this process's own.
        output: Where standard output and error go: a file, or ``subprocess.PIPE``.
        grace: Seconds between SIGTERM and SIGKILL when it is stopped.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "pilotage.cli.leash", "--grace", str(grace), "--", *program],
        # Not among the arguments, where every process list would show a password.
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,  # Its closing tells the leash that we are gone.
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=PROJECT,
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we stop things in order.
    )


class Supervised:
    """One program under supervision. ``tick`` is called often, by one thread; ``state`` may be read by any."""

    def __init__(self, program: Program, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.program = program
        self.state: State = "waiting"
        self.detail = ""
        self.restarts = 0
        """Restarts since it last ran steadily."""
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id of its leash."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        with self.program.log.open("ab") as log:
            self._process = leashed(
                self.program.command, variables=self.program.variables, output=log, grace=self.program.grace
            )
        self._started = self._clock()
        self._restart_at = None
        self.state, self.detail = "starting", ""

    def tick(self) -> None:
        """Notices that the program died, and starts it again when its back-off is over."""
        now = self._clock()
        if self._restart_at is not None and now >= self._restart_at:
            self.start()
        if self._process is None or self._restart_at is not None or (code := self._process.poll()) is None:
            return
        self._release()
        if mark := self.program.variables.get(MARK):
            # Where its leash was killed, what is left would keep the port, and go on beside the next one.
            end_orphans(lambda found: found == mark)
        if now - self._started >= STEADY_SECONDS:
            self.restarts = 0
        ended = f"{_ending(code)}, see {self.program.log}"
        if self.restarts == len(BACK_OFF):
            self.state, self.detail = "failed", f"{ended}; given up after {self.restarts} restarts"
            return
        delay = BACK_OFF[self.restarts]
        self.restarts += 1
        self._restart_at = now + delay
        self.state, self.detail = "restarting", f"{ended}; restart {self.restarts} in {delay:.0f} s"

    def ask(self) -> None:
        """Asks the program how it is. May block for seconds, so a thread of its own calls it."""
        process = self._process
        if process is None or self.state not in ("starting", "healthy", "unwell"):
            return
        trouble = self._trouble()
        if self._process is not process or self.state not in ("starting", "healthy", "unwell"):
            return  # It died meanwhile: the answer is old.
        if trouble is None:
            self.state, self.detail = "healthy", ""
        elif self.state == "starting" and not isinstance(trouble, Lasting):
            self.detail = trouble
        else:
            self.state, self.detail = "unwell", trouble

    def _trouble(self) -> str | None:
        try:
            return self.program.check() if self.program.check else None
        except Exception as error:  # Whatever a program answers: the thread that asks is there for the others, too.
            return f"can't be asked: {type(error).__name__}: {error}"

    def order_stop(self, *, harsh: bool = False) -> None:
        """Asks the leash to end the program; a second order ends it at once."""
        self._restart_at = None
        if self._process is None:
            self.state = "stopped"
            return
        self.state, self.detail = "stopping", ""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
            if harsh:
                self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kills the leash and everything below it: the last resort."""
        if self._process is None:
            return
        everything = tree(self._process.pid)
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(everything, timeout=2)
        self._release()

    def ended(self) -> bool:
        """Whether nothing of it runs any more, after ``order_stop``."""
        if self._process is not None and self._process.poll() is not None:
            self._release()
        if self._process is None:
            self.state, self.detail = "stopped", ""
        return self._process is None

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


class Supervisor:
    """All programs of one ``pilotage up``, in the order in which they were added; they stop in the reverse order."""

    def __init__(self) -> None:
        self.programs: list[Supervised] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def add(self, program: Program) -> Supervised:
        supervised = Supervised(program)
        with self._lock:
            self.programs.append(supervised)
        return supervised

    def start(self, supervised: Supervised) -> None:
        """Starts a program, unless everything is being stopped."""
        with self._lock:
            if not self._stopping.is_set():
                supervised.start()

    def tick(self) -> None:
        with self._lock:
            if not self._stopping.is_set():
                for supervised in self.programs:
                    supervised.tick()

    def watch(self, seconds: float = 1.0) -> threading.Thread:
        """Starts the thread that asks every program how it is, until everything is stopped."""
        thread = threading.Thread(target=self._ask, args=(seconds,), name="health", daemon=True)
        thread.start()
        return thread

    def _ask(self, seconds: float) -> None:
        while not self._stopping.wait(seconds):
            for supervised in list(self.programs):
                supervised.ask()

    def stop(self, *, harsh: Callable[[], bool] = lambda: False, patience: float = LEASH_GRACE + 4) -> list[str]:
        """Stops everything, the last added first, side by side within one deadline.

        Args:
            harsh: Asked all along: whether to end things at once.
            patience: Seconds before things are ended at once anyway.

        Returns:
            Names of programs whose leash did not end in time and was killed; empty when all is well.
        """
        with self._lock:
            self._stopping.set()
        left = list(reversed(self.programs))
        for supervised in left:
            supervised.order_stop()
        deadline, pressed = time.monotonic() + patience, False
        while left := [supervised for supervised in left if not supervised.ended()]:
            late = time.monotonic() >= deadline
            if (harsh() or late) and not pressed:
                pressed, deadline = True, time.monotonic() + 4
                for supervised in left:
                    supervised.order_stop(harsh=True)
            elif late:
                break
            time.sleep(0.05)
        for supervised in left:
            supervised.kill()
        return [supervised.program.name for supervised in left]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants, the process itself first."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _ending(code: int) -> str:
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}"
