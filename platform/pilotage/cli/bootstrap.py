"""From an empty or half-made home to champions: lands the sample data, runs the first lineage, promotes.

Every step is a process of its own (a Dagster run, or another ``pilotage`` command), so that it can be stopped and its
memory is given back. ``missing.py`` says what is left to do; here it is done, side by side where steps don't wait for
each other.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotage.cli import home, runs
from pilotage.cli.board import Board, Step
from pilotage.cli.release import PLATFORM
from pilotage.cli.runs import RunResult, Work
from pilotage.settings import Settings

SIDE_BY_SIDE = 2
"""Steps that run at once. Two cores are what the platform promises to be quick on."""
CAUSE = "bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One step: what it waits for, and how its process is made."""

    name: str
    make: Callable[[Callable[[str], None]], Work]
    after: Sequence[str] = ()
    told: Callable[[RunResult], str] = lambda _: ""
    """The few words that stay beside a step that is done."""


@dataclass(slots=True)
class Outcome:
    """What became of the bootstrap."""

    failures: list[str] = field(default_factory=list)
    champions: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Name, state, seconds and Dagster run of each step."""


class Bootstrap:
    """Runs in a thread of its own; ``stop`` ends it from any other."""

    def __init__(self, settings: Settings, board: Board, *, before_runs: Callable[[], bool]) -> None:
        """Prepares; ``before_runs`` waits until runs may begin, and says whether they may."""
        self.outcome = Outcome()
        self._settings = settings
        self._board = board
        self._before_runs = before_runs
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: set[Work] = set()

    def make_dagster_store(self) -> bool:
        """Makes Dagster's databases, once, and by one process: two that open new ones at once break them for good."""
        mark = home.dagster_mark(self._settings)
        if mark.exists():
            return True
        made = self.perform([Task(name="Dagster store", make=lambda _: runs.dagster_store(self._settings))])
        if made:
            mark.touch()
        return made

    def furnish(self, *, sample: bool) -> bool:
        """Makes what a new home lacks: MLflow's store, and the sample data in its landing folder.

        MLflow's store is made before anything uses it: several processes on a fresh one would break it for good.
        """
        store = Task(name="MLflow store", make=self._pilotage("setup", "store", log="store"))
        return self.perform([store, *([self._land()] if sample else [])])

    def run(self) -> None:
        """Does everything that is missing. Failures are in ``outcome``; a stop leaves it unfinished."""
        missing = self._missing()
        if missing is not None and missing["land"]:
            missing = self._missing() if self.perform([self._land()]) else None
        if missing is None:
            return
        self.outcome.champions = missing["champions"]
        self._board.champions = self.outcome.champions
        if missing["models"] and self._before_runs():
            self.perform(self.lineage(missing))

    def lineage(self, missing: dict[str, Any]) -> list[Task]:
        """The tasks that lead from landed data to champions."""
        tasks: list[Task] = []
        todo = [name for name in missing["models"] if name not in missing["releasable"]]
        daily = [name for name in todo if name in missing["daily"]]
        if missing["tables"]:
            tasks.append(self._job("Ingest tables", "ingest_tables"))
        tables = [task.name for task in tasks]
        # Where days are still to be ingested, one run takes them all the way to features.
        step = "data" if missing["ingest"] else "features"
        span = sorted([*(missing["ingest"] or []), *(missing["features"] or [])])
        for name in sorted(todo, key=lambda model: model in daily):
            # The lineage of a model on tables is the shorter one, and goes first.
            before = tables
            if name in daily and span:
                title = f"{step.capitalize()} of {name}"
                tasks.append(self._job(title, f"{step}_{name}", days=[span[0], span[-1]], after=before))
                before = [title]
            tasks.append(self._job(f"Train {name}", f"train_{name}", after=before))
        release = [
            Task(
                name=f"Release {name}",
                make=self._pilotage("setup", "release", name, log=f"release_{name}"),
                after=[f"Train {name}"] if name in todo else [],
                told=self._released,
            )
            for name in missing["models"]
        ]
        return tasks + release

    def stop(self) -> None:
        """Ends what runs; nothing else is begun. Doesn't wait."""
        with self._lock:
            self._stopped.set()
            running = list(self._running)
        for work in running:
            work.stop()

    def _missing(self) -> dict[str, Any] | None:
        step = self._board.begin("Looking at what is there")
        work = self._pilotage("setup", "missing", log="missing")(lambda _: None)
        result = self._work(work)
        if not result.ok:
            self._failed(step, result, work.log)
            return None
        found: dict[str, Any] = json.loads(result.answer)
        names = ", ".join(found["models"])
        self._board.end(step, "done", f"no champion yet: {names}" if names else "every champion is there")
        return found

    def _land(self) -> Task:
        return Task(name="Sample data", make=self._pilotage("setup", "land", log="land"), told=_answer)

    def perform(self, tasks: Sequence[Task]) -> bool:
        """Runs tasks in their order, some side by side; what waits for a failed one is left out."""
        left = {task.name: task for task in tasks}
        done: set[str] = set()
        failed: set[str] = set()
        changed = threading.Condition()
        active: set[str] = set()

        def work(task: Task) -> None:
            ok = False
            try:
                ok = self._task(task)
            finally:
                with changed:
                    active.discard(task.name)
                    (done if ok else failed).add(task.name)
                    changed.notify()

        with changed:
            while (left or active) and not (self._stopped.is_set() and not active):
                for name, task in list(left.items()):
                    if failed & set(task.after):
                        failed.add(name)
                        del left[name]
                        self._board.end(self._board.begin(name), "skipped", f"waits for {task.after[0]}, which failed")
                ready = [task for task in left.values() if set(task.after) <= done]
                for task in ready[: SIDE_BY_SIDE - len(active)]:
                    if not self._stopped.is_set():
                        del left[task.name]
                        active.add(task.name)
                        threading.Thread(target=work, args=(task,), name=task.name, daemon=True).start()
                changed.wait(0.5)
        return not failed and not self._stopped.is_set()

    def _task(self, task: Task) -> bool:
        step = self._board.begin(task.name)
        try:
            return self._carry_out(task, step)
        except Exception as error:  # The boundary of the step's thread: shown, and what waits for the step is left out.
            self._failed(step, RunResult(ok=False, error=f"{type(error).__name__}: {error}"), home.logs(self._settings))
            return False

    def _carry_out(self, task: Task, step: Step) -> bool:
        work = task.make(lambda text: self._board.detail(step, text))
        result = self._work(work)
        if result.run_id:
            step.url = f"{self._settings.dagster_ui}/runs/{result.run_id}"
        if not result.ok:
            self._failed(step, result, work.log)
            return False
        try:
            words = task.told(result)
        except (ValueError, KeyError) as error:
            self._failed(step, RunResult(ok=False, error=f"unreadable answer: {error!r}"), work.log)
            return False
        self._board.end(step, "done", words)
        self._record(task.name, "done", result)
        return True

    def _work(self, work: Work) -> RunResult:
        with self._lock:
            if self._stopped.is_set():
                return RunResult(ok=False, error="stopped")
            self._running.add(work)
        try:
            return work.run()
        finally:
            with self._lock:
                self._running.discard(work)

    def _failed(self, step: Step, result: RunResult, log: Path) -> None:
        if self._stopped.is_set():
            self._board.end(step, "skipped", "stopped")
            return
        culprit = f"{runs.readable(result.failed_step)}: " if result.failed_step else ""
        where = f"{step.url} and {log}" if step.url else str(log)
        told = f"{step.name}: {culprit}{result.error} See {where}"
        self._board.end(step, "failed", f"{culprit}{result.error}")
        self._board.note(told)
        self.outcome.failures.append(told)
        self._record(step.name, "failed", result)

    def _record(self, name: str, state: str, result: RunResult) -> None:
        self.outcome.steps.append(
            {"name": name, "state": state, "seconds": round(result.seconds, 1), "run_id": result.run_id}
        )

    def _released(self, result: RunResult) -> str:
        entry = json.loads(result.answer)
        with self._lock:
            self.outcome.champions = [*self.outcome.champions, entry]
            self._board.champions = self.outcome.champions
        return f"version {entry['version']} is in production"

    def _job(self, name: str, job: str, *, days: Sequence[str] | None = None, after: Sequence[str] = ()) -> Task:
        tags = runs.days(days[0], days[1]) if days else {}

        def make(progress: Callable[[str], None]) -> Work:
            return runs.dagster_job(
                job, settings=self._settings, cause=CAUSE, actor=PLATFORM, progress=progress, tags=tags
            )

        return Task(name=name, make=make, after=tuple(after), told=lambda result: f"run {result.run_id[:8]}")

    def _pilotage(self, *arguments: str, log: str) -> Callable[[Callable[[str], None]], Work]:
        return lambda progress: runs.pilotage(*arguments, settings=self._settings, log=log, progress=progress)


def _answer(result: RunResult) -> str:
    return result.answer
