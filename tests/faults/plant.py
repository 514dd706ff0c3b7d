"""A real Dagster daemon with its code server and run workers, in a home of its own, to be killed in parts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil

from pilotage.data import sample
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining.records import Request, RetrainingState
from pilotage.release.retraining.requests import request
from pilotage.release.stages import ModelState
from pilotage.release.state import fold
from pilotage.settings import PROJECT, Settings

MODEL = "loan_approval"
MODULE = "tests.faults.retraining_definitions"
PATIENCE_S = 900.0
"""Longest wait for something that must happen, on a machine that is busy."""
T = TypeVar("T")

DAGSTER_YAML = """
telemetry: {enabled: false}
run_monitoring: {enabled: true, poll_interval_seconds: 2, start_timeout_seconds: 60, cancel_timeout_seconds: 10}
run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}
concurrency:
  runs: {max_concurrent_runs: 4, tag_concurrency_limits: [{key: retrain, limit: 1}]}
"""


class Plant:
    """A home, and the daemon that runs in it."""

    def __init__(self, home: Path, *, executor: str = "in_process") -> None:
        self.settings = Settings(home=home / "pilotage")
        self.dagster_home = home / "dagster"
        self.dagster_home.mkdir(parents=True)
        (self.dagster_home / "dagster.yaml").write_text(DAGSTER_YAML)
        self.log = home / "daemon.log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.dagster_home),
            "PILOTAGE_HOME": str(self.settings.home),
            "FAULTS_EXECUTOR": executor,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        self.settings.landing.mkdir(parents=True)
        sample.publish_loans(self.settings.loans)
        self._dagster("job", "execute", "-m", MODULE, "-d", str(PROJECT), "-j", "ingest_loans")
        self.instance = dg.DagsterInstance.from_config(str(self.dagster_home))

    def _dagster(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dagster", *arguments]
        done = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def start(self) -> None:
        """Starts the daemon, which starts its code server."""
        command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-m", MODULE, "-d", str(PROJECT)]
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                command, cwd=PROJECT, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """The daemon, and the end of everything that it started."""
        self.start()
        try:
            yield
        finally:
            self.look()
            for process in self._seen.values():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if self.daemon is not None:
                self.daemon.wait()

    def look(self) -> dict[str, list[psutil.Process]]:
        """The living processes by what they are. Those of a killed parent are remembered."""
        if self.daemon is not None and self.daemon.poll() is None:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(self.daemon.pid)
                for each in [root, *root.children(recursive=True)]:
                    self._seen.setdefault(each.pid, each)
        for parent in list(self._seen.values()):
            with suppress(psutil.NoSuchProcess):
                for each in parent.children(recursive=True):
                    self._seen.setdefault(each.pid, each)
        found: dict[str, list[psutil.Process]] = {"daemon": [], "code_server": [], "run_worker": [], "step": []}
        for each in self._seen.values():
            with suppress(psutil.NoSuchProcess):
                if not each.is_running() or each.status() == psutil.STATUS_ZOMBIE:
                    continue
                kind = _kind(" ".join(each.cmdline()), each)
                if kind is not None:
                    found[kind].append(each)
        return found

    def kill(self, victim: str) -> int:
        """Kills every process of a kind; how many. A daemon comes back, as its supervisor would have it."""
        gone = self.look()[victim]
        for each in gone:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(gone, timeout=30)
        if victim == "daemon":
            if self.daemon is not None:
                self.daemon.wait()
            self.start()
        return len(gone)

    def asks(self, occasion: str) -> int:
        """Asks for a retraining; the number of the request that it is part of."""
        made = self.tells_again(occasion)
        assert made is not None
        return made.number

    def tells_again(self, occasion: str) -> Request | None:
        """Asks, perhaps for the second time."""
        evidence = {"alarm": occasion}
        return request(MODEL, "drift", evidence, settings=self.settings, actor="faults", why=occasion, once=occasion)

    @property
    def model(self) -> ModelState:
        """By the ledger."""
        book = SqlLedger(self.settings.ledger)
        try:
            return fold(book.events()).get(MODEL, ModelState(model=MODEL))
        finally:
            book.close()

    @property
    def state(self) -> RetrainingState:
        return self.model.retraining

    def steps_begun(self, number: int) -> set[str]:
        """Steps that the runs of a request have begun: ``features``, ``training_set`` …"""
        begun: set[str] = set()
        for run in self.instance.get_runs(dg.RunsFilter(tags={"pilotage/request": str(number)})):
            logs = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
            begun |= {str(entry.step_key).removeprefix(f"{MODEL}__") for entry in logs}
        return begun

    def unfinished_runs(self) -> list[str]:
        """Runs that Dagster takes for alive."""
        over = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        return [run.run_id for run in self.instance.get_runs() if run.status not in over]

    def forget_cursors(self) -> None:
        """As an operator may do who resets every sensor."""
        for state in self.instance.all_instigator_state():
            data = state.instigator_data
            if data is not None and hasattr(data, "cursor"):
                self.instance.update_instigator_state(state.with_data(data._replace(cursor=None)))

    def until(self, look: Callable[[], T], accept: Callable[[T], bool], *, what: str) -> T:
        """Looks until it is accepted.

        Raises:
            TimeoutError: It never is; with the end of the daemon's log.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not accept(found := look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: {found}\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        return found

    def until_closed(self, number: int) -> Request:
        """Waits until a request has ended."""
        found = self.until(
            lambda: self.state.find(number), lambda r: r is not None and r.outcome is not None, what=f"request {number}"
        )
        assert found is not None
        return found


def _kind(command: str, process: psutil.Process) -> str | None:
    if "dagster-daemon" in command:
        return "daemon"
    if "grpc" in command or "code-server" in command:
        return "code_server"
    if "multiprocessing" in command and "resource_tracker" not in command:
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            above = " ".join(parent.cmdline()) if parent is not None else ""
            return "step" if "multiprocessing" in above else "run_worker"
    return None
