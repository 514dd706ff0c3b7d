"""The whole path of a prediction over HTTP, against what a team would otherwise run.

    python -m tests.bench.bench_serving [HOME]

Each server has one core, the clients the other; a closed loop at 1, 16 and 64 connections. Pilotage authenticates,
limits, checks, looks up state, computes features, predicts, calibrates, decides, and has the record on disk before it
answers; more different requests are sent than it remembers answers of. The others are sent finished features: a plain
typed BentoML endpoint around the same Booster, ``mlflow models serve`` of a model with a signature, and a bare uvicorn
handler that only parses and predicts.
CPU is that of the server's processes; the core's is all that ran on its core, with the kernel's threads.
Targets, by the server's CPU time a request: a quarter of BentoML's or less, a fifteenth of MLflow's or less, as near to
twice the bare handler's as can be; p99 at 16 connections a tenth of BentoML's; median with one connection under 1 ms;
memory a worker at most 1.3 times BentoML's.
Before the servers, the disk: each answer of Pilotage waits for a commit there, and the core grows cold meanwhile. So
"in memory" is Pilotage once more, with a home in a file system that has no disk (``/dev/shm``): what the code takes
without the wait. The targets hold for the disk.
A HOME that is given is kept, and used again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tests.bench.serving.disk import commits_ms
from tests.bench.serving.home import Prepared, prepare
from tests.bench.serving.load import Load, closed_loop, request_bytes
from tests.bench.serving.mlflow_model import payload
from tests.bench.serving.server import CLIENT_CORE, SERVER_CORE, Server, free_port, started

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = (1, 16, 64)
SECONDS = 4.0
BULK = 100
"""Rows of a request in bulk."""
MEMORY = Path("/dev/shm")
OURS = ("pilotage", "in memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One server at one number of connections."""

    load: Load
    cpu_us: float
    """CPU of all its processes, a request."""
    core_us: float
    """CPU of its core, a request: the kernel's part as well, and whatever else ran there."""
    worker_mb: float


def measure(server: Server, requests: list[bytes], connections: int, *, seconds: float = SECONDS) -> Measured:
    """One closed loop, after one that warms up."""
    closed_loop(server.port, requests, connections=connections, seconds=min(1.0, seconds))
    before, core_before = server.cpu_s(), server.core_s()
    load = closed_loop(server.port, requests, connections=connections, seconds=seconds)
    spent, core_spent = server.cpu_s() - before, server.core_s() - core_before
    if load.failed or not load.latencies:
        raise RuntimeError(f"{load.failed} of {len(load.latencies)} requests failed: {load.statuses}.")
    each = 1e6 / len(load.latencies)
    return Measured(load=load, cpu_us=spent * each, core_us=core_spent * each, worker_mb=server.largest_mb())


@contextmanager
def pilotage(
    prepared: Prepared,
    work: Path,
    *,
    service: str = "tests.bench.serving.flight_service:FlightService",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """The service, with one worker."""
    port = free_port()
    environment = {"PILOTAGE_HOME": str(prepared.settings.home), "PYTHONDONTWRITEBYTECODE": "", **variables}
    command = [sys.executable, "-m", "serving", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--service", service]
    with started(
        command, port=port, ready="/readyz", cwd=ROOT, environment=environment, log=work / "pilotage.log"
    ) as server:
        yield server


@contextmanager
def in_memory(prepared: Prepared, work: Path) -> Iterator[Server]:
    """The service once more, without a disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        home = Path(temporary) / "home"
        shutil.copytree(prepared.settings.home, home, ignore=shutil.ignore_patterns("prediction-log", "bench"))
        there = dataclasses.replace(prepared, settings=prepared.settings.model_copy(update={"home": home}))
        with pilotage(there, work) as server:
            yield server


@contextmanager
def bentoml_plain(prepared: Prepared, work: Path) -> Iterator[Server]:
    """``bentoml serve`` with its defaults."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "tests.bench.serving.plain_bentoml:Plain"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {"BUNDLE": str(prepared.bundle), "BENTOML_DO_NOT_TRACK": "True"}
    with started(
        command, port=port, ready="/readyz", cwd=ROOT, environment=environment, log=work / "bentoml.log"
    ) as server:
        yield server


@contextmanager
def mlflow_serve(prepared: Prepared, work: Path) -> Iterator[Server]:
    """``mlflow models serve`` with its defaults, and one worker."""
    import subprocess

    port = free_port()
    environment = {"BUNDLE": str(prepared.bundle), "MLFLOW_DISABLE_TELEMETRY": "true"}
    # It starts uvicorn by its name.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    model = work / "mlflow-model"
    if not model.exists():
        made = [sys.executable, "-m", "tests.bench.serving.mlflow_model", str(model)]
        subprocess.run(made, check=True, cwd=ROOT, env={**os.environ, **environment}, capture_output=True)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port), "--workers", "1"]
    with started(command, port=port, ready="/ping", cwd=work, environment=environment, log=work / "mlflow.log") as up:
        yield up


@contextmanager
def bare(prepared: Prepared, work: Path) -> Iterator[Server]:
    """uvicorn alone."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.serving.bare", str(port)]
    environment = {"BUNDLE": str(prepared.bundle)}
    with started(command, port=port, ready="/", cwd=ROOT, environment=environment, log=work / "bare.log") as server:
        yield server


def main(home: Path) -> None:
    prepared = prepare(home)
    os.sched_setaffinity(0, [CLIENT_CORE])
    theirs = [json.dumps(row).encode() for row in prepared.features]
    wrapped = [json.dumps({"features": row}).encode() for row in prepared.features]
    split = [payload([row], prepared.bundle) for row in prepared.features]
    key = _key(prepared)
    auth = [f"Authorization: Bearer {key}"]
    work = home / "bench"
    work.mkdir(exist_ok=True)
    ours = [request_bytes("/flight_delay/predict", json.dumps(row).encode(), headers=auth) for row in prepared.requests]
    servers = {
        "pilotage": (pilotage, ours),
        "in memory": (in_memory, ours),
        "bare": (bare, [request_bytes("/", body) for body in theirs]),
        "bentoml": (bentoml_plain, [request_bytes("/predict", body) for body in wrapped]),
        "mlflow": (mlflow_serve, [request_bytes("/invocations", body) for body in split]),
    }
    results: dict[tuple[str, int], Measured] = {}
    bulk: dict[str, Measured] = {}
    os.sched_setaffinity(0, [SERVER_CORE])
    disk = np.percentile(commits_ms(work), (50, 99))
    os.sched_setaffinity(0, [CLIENT_CORE])
    print(f"the disk alone: a commit takes {disk[0]:.2f} ms, the 99th percentile {disk[1]:.2f} ms")
    print(f"{'server':10} {'conn':>4} {'CPU µs':>8} {'core µs':>8} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'MB':>5}")
    for name, (start, requests) in servers.items():
        with start(prepared, work) as server:
            for connections in CONNECTIONS:
                got = measure(server, requests, connections)
                results[name, connections] = got
                print(
                    f"{name:10} {connections:4} {got.cpu_us:8.0f} {got.core_us:8.0f} {got.load.rate:8.0f}"
                    f" {got.load.percentile(50):8.2f} {got.load.percentile(99):8.2f} {got.worker_mb:5.0f}",
                    flush=True,
                )
            if name in OURS:
                rows = [json.dumps({"requests": each}).encode() for each in _batches(prepared.requests)]
                bulk[name] = measure(
                    server, [request_bytes("/flight_delay/predict/batch", body, headers=auth) for body in rows], 4
                )
            if name == "mlflow":
                rows = [payload(each, prepared.bundle) for each in _batches(prepared.features)]
                bulk[name] = measure(server, [request_bytes("/invocations", body) for body in rows], 4)
    for name in OURS:
        print(f"-- {name}, against the others")
        _compare(name, results, bulk)


def _compare(name: str, results: Mapping[tuple[str, int], Measured], bulk: Mapping[str, Measured]) -> None:
    for connections in CONNECTIONS:
        mine = results[name, connections]
        ratios = " ".join(
            f"{other} {results[other, connections].cpu_us / mine.cpu_us:.2f}x CPU"
            f" {mine.load.rate / results[other, connections].load.rate:.2f}x req/s;"
            for other in ("bentoml", "mlflow", "bare")
        )
        print(f"{connections:2} connections: {ratios}")
    p99, theirs = (results[each, 16].load.percentile(99) for each in (name, "bentoml"))
    print(f"p99 at 16 connections: {p99:.2f} ms, BentoML {theirs / p99:.1f} times that")
    print(f"median with one connection: {results[name, 1].load.percentile(50):.3f} ms")
    memory = results[name, 64].worker_mb / results["bentoml", 64].worker_mb
    print(f"memory of a worker: {memory:.2f} times BentoML's")
    rate, others = (bulk[each].load.rate * BULK for each in (name, "mlflow"))
    print(f"{BULK} rows a request: {rate:,.0f} rows/s, {rate / others:.1f} times MLflow's")


def _batches(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [rows[first : first + BULK] for first in range(0, len(rows), BULK)]


def _key(prepared: Prepared) -> str:
    """A key with a limit that this load does not reach."""
    from pilotage.runtime.access.caller import Limit
    from pilotage.runtime.access.keyfile import create_key

    limit = Limit(per_second=100_000, burst=100_000)
    return create_key(prepared.settings.api_keys, "bench", roles=["predict"], limit=limit)[1]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
