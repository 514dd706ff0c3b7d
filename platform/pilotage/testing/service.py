"""A running prediction service to test against: its own process, a free port on loopback, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.settings import PROJECT, Settings

_START_S = 120.0
"""Seconds that a server gets to answer; it needs about ten, and more on a machine that is busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A service that answers ``/livez``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client
    """Kept open: to make one for each request costs 0.1 s."""

    def get(self, path: str) -> httpx.Response:
        """A GET request."""
        return self.client.get(self.url + path)

    def predict(self, model: str, request: object) -> httpx.Response:
        """Asks for a prediction."""
        return self.client.post(f"{self.url}/{model}/predict", json=request)

    def until(self, path: str, accept: int = 200) -> httpx.Response:
        """Asks again and again, until the answer has a status.

        Raises:
            TimeoutError: It never has.
        """
        return self.until_answer(lambda: self.get(path), lambda answer: answer.status_code == accept)

    def until_answer(self, ask, accept) -> httpx.Response:  # type: ignore[no-untyped-def]
        """Asks again and again, until an answer is accepted."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            answer: httpx.Response = ask()
            if accept(answer):
                return answer
            time.sleep(0.05)
        raise TimeoutError(f"last answer: {answer.status_code} {answer.text[:300]}\n{self.log.read_text()[-3000:]}")

    def stop(self) -> list[int]:
        """Stops it with SIGTERM. Returns the processes that were left over (none, one hopes), which are killed."""
        try:
            family = [*psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return [self.process.pid]
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        return [process.pid for process in left]


@contextmanager
def running_service(settings: Settings, *, service: str, log: Path) -> Iterator[RunningService]:
    """Starts ``python -m serving`` on a free port and waits until it is alive (which is not yet ready).

    Args:
        settings: Whose home and ledger it reads, with how many workers, and how it logs and traces.
        service: ``MODULE:SERVICE``, importable from the project.
        log: Where its output goes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Nothing of the caller's platform settings leaks in.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOTAGE_")}
    environment = {**kept, "PILOTAGE_HOME": str(settings.home)}
    if settings.ledger_url:
        environment["PILOTAGE_LEDGER_URL"] = settings.ledger_url
    if settings.otel_endpoint:
        environment["PILOTAGE_OTEL_ENDPOINT"] = settings.otel_endpoint
    environment["PILOTAGE_LOG_FORMAT"] = settings.log_format
    command = [sys.executable, "-m", "serving", "--host", "127.0.0.1", "--port", str(port), "--service", service]
    command += ["--workers", str(settings.service_workers)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    with httpx.Client(timeout=30) as client:
        running = RunningService(url=f"http://127.0.0.1:{port}", process=process, log=log, client=client)
        try:
            _until_alive(running)
            yield running
        finally:
            running.stop()


def register_bundle(
    settings: Settings,
    model: str,
    bundle: Path,
    sha256: str,
    *,
    version: int,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Tells the ledger of a version, and of what it was trained on, without MLflow."""
    payload = {
        "bundle": str(bundle),
        "bundle_sha256": sha256,
        "mlflow_run_id": f"run-{version}",
        "run_url": "",
        "trained_at": "2024-01-01T00:00:00+00:00",
        "facts": dict(facts),
    }
    _append(
        settings, Draft(model=model, kind="registered", version=version, actor="test", cause="test", payload=payload)
    )


def release_bundle(settings: Settings, model: str, bundle: Path, sha256: str, *, version: int) -> None:
    """Tells the ledger of a version and of its promotion, without MLflow."""
    register_bundle(settings, model, bundle, sha256, version=version)
    _append(settings, Draft(model=model, kind="promoted", version=version, actor="test", cause="test", payload={}))


def _append(settings: Settings, draft: Draft) -> None:
    ledger = SqlLedger.of(settings)
    try:
        ledger.append(draft)
    finally:
        ledger.close()


def _until_alive(running: RunningService) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        try:
            if running.get("/livez").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the service did not start:\n{running.log.read_text()[-3000:]}")
