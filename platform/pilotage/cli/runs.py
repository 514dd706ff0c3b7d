"""Runs one Dagster job in a process of its own and tells what it says.

The engine does not import Dagster; it runs its command line and reads its log lines, whose form
``tests/unit/cli/test_dagster_log_lines.py`` holds still.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.cli import home
from pilotage.cli.supervisor import leashed
from pilotage.run_tags import ACTOR, CAUSE, OWNER, RANGE_FIRST, RANGE_LAST
from pilotage.settings import PROJECT, Settings

RESULT = "result: "
"""How a ``pilotage`` command that is a step of another one marks the line that holds its result."""

_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ - dagster - (?P<level>[A-Z]+) - \S+ - (?P<run>[0-9a-f-]{36}) - (?P<rest>.*)$"
)
_EVENT = re.compile(r"^(?:(?P<pid>\d+) - )?(?:(?P<step>[\w\[\]?]+) - )?(?P<event>[A-Z]+(?:_[A-Z]+)*) - (?P<text>.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a run's log, as ``dagster job execute`` prints it."""

    level: str
    run_id: str
    step: str
    event: str
    """Dagster's event type; empty for what the step itself says."""
    text: str


def parse(line: str) -> LogLine | None:
    """Reads one line; ``None`` for a line that continues the one before, or is no log line."""
    found = _LINE.match(_COLOUR.sub("", line.rstrip("\n")))
    if found is None:
        return None
    event = _EVENT.match(found["rest"])
    if event is not None:
        return LogLine(
            level=found["level"],
            run_id=found["run"],
            step=event["step"] or "",
            event=event["event"],
            text=event["text"],
        )
    step, separator, text = found["rest"].partition(" - ")
    if not separator or " " in step:
        step, text = "", found["rest"]
    return LogLine(level=found["level"], run_id=found["run"], step=step, event="", text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a process ended that did one step of work."""

    ok: bool
    run_id: str = ""
    """Dagster's run; empty for a step that is no run."""
    failed_step: str = ""
    error: str = ""
    """What the failed step raised: its message, without the stack."""
    seconds: float = 0.0
    answer: str = ""
    """What another ``pilotage`` command gave as its result."""


class Transcript:
    """What a ``pilotage`` command says, line by line: progress, its result, its error."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.run_id = ""
        self.failed_step = ""
        self.error = ""
        self.answer = ""
        self.last = ""
        """The last line, for a failure that says no more."""

    def feed(self, line: str) -> None:
        """Takes one line."""
        text = line.strip()
        self.last = text or self.last
        if text.startswith(RESULT):
            self.answer = text.removeprefix(RESULT)
        elif text.startswith("Error: "):
            self.error = text.removeprefix("Error: ")
        elif text.startswith("Fix: ") and self.error:
            self.error = f"{self.error} {text}"
        elif text:
            self.progress(text)


_FAILED_STEPS = re.compile(r"Steps failed: \['(?P<first>[^']+)'")
_CAUSE = "The above exception was caused by the following exception:"
_FAILURE = "dagster._core.definitions.events.Failure: "
"""Before what a step fails with in plain words."""


class RunTranscript(Transcript):
    """What a Dagster run says, line by line: progress, and how it failed.

    On a busy machine Dagster now and then loses a step's failure. The run's own says the same once more.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        super().__init__(progress)
        self._collecting = False
        self._cause_wanted = False
        """Whether the run's failure is all there is, and its cause is still to come."""

    def feed(self, line: str) -> None:
        """Takes one line of the log."""
        self.last = line.strip() or self.last
        parsed = parse(line)
        if parsed is None:
            if self._collecting:
                self._collect(line.rstrip("\n"))
            elif self._cause_wanted and line.startswith(_CAUSE):
                self.error, self._collecting, self._cause_wanted = "", True, False
            elif self._cause_wanted and line.startswith(_FAILURE):
                self.error, self._collecting, self._cause_wanted = "", True, False
                self._collect(line)
            return
        self._collecting = self._cause_wanted = False
        self.run_id = parsed.run_id
        match parsed.event:
            case "STEP_START":
                self.progress(readable(parsed.step))
            case "STEP_FAILURE":
                self.failed_step = self.failed_step or parsed.step
                self._collecting = not self.error
            case "RUN_FAILURE" | "RUN_CANCELED":
                if not self.error:
                    self.error, self._cause_wanted = parsed.text, True
                if not self.failed_step and (named := _FAILED_STEPS.search(parsed.text)):
                    self.failed_step = named["first"]
            case "" if parsed.level in ("INFO", "WARNING", "ERROR", "CRITICAL") and parsed.text:
                self.progress(parsed.text)

    def _collect(self, line: str) -> None:
        """The message is between the name of Dagster's own wrapper error and the first stack trace."""
        if line.startswith("Stack Trace:"):
            self._collecting = False
        elif line.strip() and "dagster._core.errors.DagsterExecutionStepExecutionError" not in line:
            self.error = f"{self.error} {line.strip().removeprefix(_FAILURE)}".strip()


def readable(step: str) -> str:
    """A step's name for people: ``flight_delay__trained_model`` → ``flight_delay trained_model``."""
    return step.replace("__", " ")


class Work:
    """One process that does a step of work and can be stopped. ``run`` is called once."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        settings: Settings,
        log: Path,
        transcript: Transcript,
        temporary: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        self._temporary = temporary
        self._settings = settings
        self._transcript = transcript
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self) -> RunResult:
        """Runs it to its end; a copy of all it says goes to the log file."""
        began = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._stopped:
                return RunResult(ok=False, error="stopped")
            self._process = leashed(
                self.command, variables=home.variables(self._settings), output=subprocess.PIPE, grace=6
            )
        process = self._process
        with self.log.open("ab") as log, process:
            for raw in process.stdout or ():
                log.write(raw)
                log.flush()
                self._transcript.feed(raw.decode(errors="replace"))
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        heard = self._transcript
        error = heard.error or heard.last or f"exit code {process.returncode}"
        return RunResult(
            ok=process.returncode == 0,
            run_id=heard.run_id,
            failed_step=heard.failed_step,
            error="" if process.returncode == 0 else ("stopped" if self._stopped else error),
            seconds=time.monotonic() - began,
            answer=heard.answer,
        )

    def stop(self) -> None:
        """Ends it, with everything below it; ``run`` then returns. May be called from any thread, and again."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)


def dagster_job(
    job: str,
    *,
    settings: Settings,
    cause: str,
    actor: str,
    progress: Callable[[str], None],
    tags: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Work:
    """A Dagster job of the project, to be run in a process of its own. The run shows in the web UI.

    Args:
        job: Name of the job in ``definitions.py``.
        settings: Which home.
        cause: Why it runs: bootstrap, manual.
        actor: Who asks for it; what the run decides is recorded under this name.
        progress: Called with what the run says.
        tags: More run tags, such as the range of days.
        config: Run configuration.
    """
    told = {CAUSE: cause, ACTOR: actor, OWNER: owner(), **(tags or {})}
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute"]
    command += ["-m", "definitions", "-d", str(PROJECT), "-j", job, "--tags", json.dumps(told)]
    file = _write_config(settings, job, config) if config else None
    command += ["-c", str(file)] if file else []
    return Work(
        command,
        settings=settings,
        log=home.logs(settings) / f"{job}.log",
        transcript=RunTranscript(progress),
        temporary=file,
    )


def dagster_store(settings: Settings) -> Work:
    """Makes those of Dagster's databases that are not there yet."""
    # Whatever opens them makes them. This prints what they are, which is for the log; unlike `migrate` it does not go
    # through every run of a home that has some.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "instance", "info"]
    transcript = Transcript(lambda _: None)
    return Work(command, settings=settings, log=home.logs(settings) / "dagster_store.log", transcript=transcript)


def pilotage(*arguments: str, settings: Settings, log: str, progress: Callable[[str], None]) -> Work:
    """Another ``pilotage`` command in a process of its own: it frees its memory, and it can be stopped."""
    command = [sys.executable, "-W", "ignore", "-m", "pilotage.cli.main", *arguments]
    return Work(command, settings=settings, log=home.logs(settings) / f"{log}.log", transcript=Transcript(progress))


def owner() -> str:
    """This process, in a way that a later process with the same id is not taken for it."""
    import psutil

    return f"{os.getpid()}@{psutil.Process().create_time():.0f}"


def alive(owner: str) -> bool:
    """Whether the process that ``owner`` named still runs."""
    import psutil

    pid, _, created = owner.partition("@")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except (psutil.Error, ValueError):
        return False


def _write_config(settings: Settings, job: str, config: Mapping[str, Any]) -> Path:
    import yaml

    folder = home.logs(settings)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{job}.", suffix=".yaml", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(config), file, allow_unicode=True, sort_keys=False)
    return Path(name)


def days(first: str, last: str) -> dict[str, str]:
    """Tags of a run over a range of days, both included."""
    return {RANGE_FIRST: first, RANGE_LAST: last}
