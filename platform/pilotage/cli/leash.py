"""Runs one program so that nothing of it outlives the process that asked for it.

    python -m pilotage.cli.leash [--grace SECONDS] -- PROGRAM [ARGUMENT]…

The servers and jobs that ``pilotage up`` starts have children of their own (code servers, workers, runs), which a
signal to the first process does not reach. A leash adopts all of them (Linux: it is their subreaper) and ends them:

- when the program ends, with whatever it left behind;
- on SIGTERM or SIGINT: the program first, and after ``--grace`` seconds everything by SIGKILL; at once on a second one;
- when its own standard input closes: that is how it sees that its owner is gone, even after ``kill -9``. (A
  parent-death signal alone would not do: it fires when the *thread* that started the program ends.)

It exits with the program's exit code, 128 + N for signal N. Only the standard library and psutil are used here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SWEEP_SECONDS = 2.0
"""Seconds that descendants which outlive the program get between SIGTERM and SIGKILL."""


def main(arguments: Sequence[str]) -> int:
    """Parses the command line above and runs the program to its end."""
    grace, program = 10.0, list(arguments)
    while program and program[0] != "--":
        option, value = program.pop(0), program.pop(0)
        if option == "--grace":
            grace = float(value)
        else:
            raise SystemExit(f"leash: unknown option {option}")
    return Leash(program[1:], grace=grace).run()


class Leash:
    """One program and all its descendants."""

    def __init__(self, program: Sequence[str], *, grace: float) -> None:
        self.program = list(program)
        self.grace = grace
        self._asked = 0
        self._owner_here = True

    def run(self) -> int:
        """Starts the program, waits for its end or for the order to end it, and leaves no descendant behind."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        # A handler, not SIG_IGN: a program inherits an ignored signal (a shell ignores SIGINT for background jobs, and
        # Dagster maps SIGTERM to SIGINT's handler), while a handled one is back at its default in it.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_order)
        child = subprocess.Popen(
            self.program,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread, so it is safe
        )
        code = self._wait(child, read)
        self._sweep(child.pid)
        return code if code >= 0 else 128 - code

    def _on_order(self, *_: object) -> None:
        self._asked += 1

    def _wait(self, child: subprocess.Popen[bytes], wakeup: int) -> int:
        deadline, obeyed = None, 0
        while True:
            if (code := child.poll()) is not None:
                return code
            if self._asked > obeyed:
                obeyed = self._asked
                child.terminate()
                deadline = time.monotonic() + (self.grace if obeyed == 1 else 0)
            if deadline is not None and time.monotonic() >= deadline:
                child.kill()
                deadline = None
            watched = [wakeup, sys.stdin.fileno()] if self._owner_here else [wakeup]
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select(watched, [], [], timeout)
            if wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, 512)
                _collect_orphans(child.pid)
            if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 512):
                self._owner_here = False
                self._asked = max(self._asked, 1)

    def _sweep(self, session: int) -> None:
        """Ends every descendant that is still there; orphans among them became children of this process."""
        deadline = time.monotonic() + (SWEEP_SECONDS if self._asked < 2 else 0)
        told: set[int] = set()
        while left := _alive(session):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if time.monotonic() >= deadline:
                        process.kill()
                    elif process.pid not in told:
                        told.add(process.pid)
                        process.terminate()
            psutil.wait_procs(left, timeout=0.1)


def _alive(session: int) -> list[psutil.Process]:
    """Descendants of this process, and (where there is no subreaper) whatever else is in the program's session."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    if not sys.platform.startswith("linux"):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == session:
                    found[process.pid] = process
    return [process for process in found.values() if _runs(process)]


def _collect_orphans(program: int) -> None:
    """Reaps adopted processes that ended; the program itself is left to ``Popen``."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != program:
            os.waitpid(ended.si_pid, os.WNOHANG)


def _runs(process: psutil.Process) -> bool:
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return True
    except psutil.NoSuchProcess:
        return False
    # An orphan that ended: nobody else will collect it.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return False


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
