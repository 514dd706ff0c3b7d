"""The real replay and its engine-only form decide alike: the same nights, the same training sets, the same verdicts.

A minute a day, so `make test` leaves it out: `make replays` runs it over two months, and over less with
``REPLAY_TO=2013-03-10``. It starts a platform of its own, on ports of its own; or takes what was replayed already, in
the home that ``REPLAY_HOME`` names.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from assets.models.flight_delay import MODEL
from pilotage.cli.replay import progress_file
from pilotage.data.lake import Lake
from pilotage.release.champions import states
from pilotage.release.ledger import SqlLedger
from pilotage.replay.history import History
from pilotage.replay.keeper import Pilotage
from pilotage.replay.nights import days, night
from pilotage.replay.progress import Progress
from pilotage.replay.report_rows import Nights
from pilotage.replay.season import Season
from pilotage.replay.workshop import Workshop
from pilotage.settings import PROJECT, Settings
from pilotage.training.config import TrainConfig

FIRST = date(2013, 3, 1)
LAST = date.fromisoformat(os.environ.get("REPLAY_TO", "2013-04-30"))
PILOTAGE = [sys.executable, "-m", "pilotage.cli.main"]
Decision = tuple[date, str, str]
"""Replayed day, what was done, and what identifies it: a training set's SHA-256, or nothing."""

pytestmark = pytest.mark.timeout(12 * 3600)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform that has replayed the days, and still runs."""
    if (replayed := os.environ.get("REPLAY_HOME")) is not None:
        yield Settings(home=Path(replayed))
        return
    home = tmp_path_factory.mktemp("alike")
    ports = [_free_port() for _ in range(4)]
    names = ("DAGSTER_PORT", "MLFLOW_PORT", "SERVICE_PORT", "REPORTS_PORT")
    chosen = dict(zip((f"PILOTAGE_{name}" for name in names), map(str, ports), strict=True))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOTAGE_")}
    environment = {**kept, **chosen, "PILOTAGE_HOME": str(home)}
    log = home.parent / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [*PILOTAGE, "up", "--plain"], cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _until_serving(up, log)
        replay = [*PILOTAGE, "replay", MODEL.name, "--from", str(FIRST), "--to", str(LAST)]
        subprocess.run(replay, cwd=PROJECT, env=environment, check=True)
        yield Settings(
            home=home,
            dagster_port=ports[0],
            mlflow_port=ports[1],
            service_port=ports[2],
            reports_port=ports[3],
        )
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(120)


def test_the_real_replay_and_the_engine_decide_alike(settings: Settings, tmp_path: Path) -> None:
    platform, engine = decided_by_the_platform(settings), decided_by_the_engine(settings, tmp_path)
    print(*(f"{day} {did} {what[:12]}" for day, did, what in platform), sep="\n")
    assert platform == engine
    # Alike in nothing would be alike as well.
    assert any(did in ("registered", "refused") for _, did, _ in platform)


def decided_by_the_platform(settings: Settings) -> list[Decision]:
    """What the ledger and the runs' own training sets say."""
    progress = Progress(progress_file(settings, MODEL.name, "year"), model=MODEL.name, first=FIRST, last=LAST)
    nights = Nights(
        began=progress.began, done={day: (at, facts) for day, step, at, facts in progress.facts() if step == "reacted"}
    )
    progress.close()
    assert sorted(nights.done) == [*days(FIRST, LAST)]
    ledger = SqlLedger.of(settings)
    events = [event for event in ledger.events() if event.model == MODEL.name]
    ledger.close()
    found: list[Decision] = []
    for request in states(settings=settings)[MODEL.name].retraining.closed:
        made = settings.candidates / MODEL.name / request.attempts[-1].run / "training_set.parquet"
        day = date.fromisoformat(request.asks[-1].evidence["night"])
        found.append((day, str(request.outcome), hashlib.sha256(made.read_bytes()).hexdigest()))
    for event in events:
        day = nights.of(event)
        if day is not None and event.kind in ("promoted", "rejected", "rolled_back"):
            found.append((day, event.kind, ""))
    return sorted(found)


def decided_by_the_engine(settings: Settings, cache: Path) -> list[Decision]:
    """The same days in one process, from the platform's own first champion and over its own lake."""
    history = History.read(MODEL, Lake(settings.lake), last=LAST)
    workshop = Workshop(history=history, cache=cache, threads=settings.threads)
    first = states(settings=settings)[MODEL.name].history[0]
    eve = FIRST - timedelta(days=1)
    champion = workshop.adopt(
        Path(first.bundle), first.bundle_sha256, day=eve, moment=night(MODEL, eve), config=TrainConfig()
    )
    # Monitoring does not run in the engine: when its alarms asked is the platform's word, what came of it is compared.
    alarms = {
        date.fromisoformat(request.asks[-1].evidence["night"])
        for request in states(settings=settings)[MODEL.name].retraining.closed
        if set(request.causes) != {"nightly"}
    }
    policy = Pilotage(MODEL, alarms=alarms)
    season = Season(history, workshop, policy, TrainConfig()).run(FIRST, LAST, champion=champion)
    sets = {version.number: version.training_set_sha256 for version in season.trained}
    trained = {"passed": "registered", "refused": "refused"}
    released = ("promoted", "rejected", "rolled_back")
    return sorted(
        (event.day, trained.get(event.did, event.did), sets[event.version or 0] if event.did in trained else "")
        for event in season.events
        if event.did in (*trained, *released)
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until_serving(up: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 1200
    while "Serving at" not in log.read_text():
        if up.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the platform did not start:\n{log.read_text()[-3000:]}")
        time.sleep(1)
