"""The service in use for a long time, with all that happens to one: it grows in nothing, and loses nothing."""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pilotage.errors import NotReleasable
from pilotage.monitoring.predictions import move_log
from pilotage.release import commands
from tests.faults.crowd import Crowd
from tests.faults.models import SPECS
from tests.faults.world import Serving, World
from tests.soak.gauge import Gauge

pytestmark = pytest.mark.timeout(12 * 3600)

TURN_S = 5.0
PAGES = ("/metrics", "/workers", "/models", "/docs.json", "/readyz", "/no-such-page")
DROPPED = (
    b"",
    b"POST /tiny/predict HTTP/1.1\r\nHost: x\r\nContent-Le",
    b'POST /tiny/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"or',
    b"NONSENSE\r\n\r\n",
)
"""What clients sent that went away in the middle."""


class Operator:
    """Does in turn what people and sensors do to a running service."""

    def __init__(self, world: World, serving: Serving, draw: random.Random) -> None:
        self.world, self.serving, self.draw = world, serving, draw
        self.did: Counter[str] = Counter()
        self.moved = 0
        self._versions = itertools.count(2)
        self._turns = itertools.cycle(
            (self.releases, self.rude_clients, self.moves, self.kills, self.outcomes, self.rolls_back, self.new_state)
        )

    def turn(self) -> None:
        """The next of them."""
        act = next(self._turns)
        act()
        self.did[act.__name__] += 1
        for page in PAGES:
            self.serving.running.get(page)

    def releases(self) -> None:
        self.world.release(self.draw.choice(list(SPECS)), next(self._versions))

    def rolls_back(self) -> None:
        model = self.draw.choice(list(SPECS))
        with suppress(NotReleasable):
            commands.rollback(model, settings=self.world.settings, actor="soak", why="soak")

    def kills(self) -> None:
        settings, model = self.world.settings, self.draw.choice(list(SPECS))
        state = commands.kill(model, settings=settings, actor="soak", why="soak")
        self.serving.until_sequence(model, state.sequence)
        commands.resume(model, settings=settings, actor="soak", why="soak")

    def moves(self) -> None:
        report = move_log(self.world.settings, self.world.lake, models=SPECS)
        assert report.problems == ()
        self.moved += sum(report.rows.values())

    def new_state(self) -> None:
        self.world.make_online()

    def outcomes(self) -> None:
        for number in range(20):
            body = {"outcomes": [{"entity": {"order_id": f"A-{number}"}, "label": number % 2 == 0}]}
            self.serving.post("/tiny/outcomes", body)

    def rude_clients(self) -> None:
        for sent in DROPPED * 10:
            with socket.create_connection(("127.0.0.1", self.serving.port)) as connection:
                connection.sendall(sent)
        for body in ({}, {"order_id": 5}, {"requests": []}):
            assert self.serving.post("/tiny/predict", body).status_code in (400, 422)


def service_processes(serving: Serving) -> dict[str, psutil.Process]:
    workers = sorted(worker["pid"] for worker in serving.workers())
    named = {f"worker {pid}": psutil.Process(pid) for pid in workers}
    return {"arbiter": psutil.Process(serving.running.process.pid), **named}


def test_it_grows_in_nothing_and_loses_nothing(tmp_path: Path, seconds: float, tell: Callable[[str], None]) -> None:
    world, draw = World(tmp_path / "home"), random.Random(7)
    with world.serving() as serving:
        operator = Operator(world, serving, draw)
        workers = {worker["pid"] for worker in serving.workers()}
        crowd = Crowd(serving.port, draw, models=list(SPECS), connections=4, named=0.2)
        with Gauge(lambda: service_processes(serving)) as gauge, crowd:
            until, said = time.monotonic() + seconds, time.monotonic()
            while time.monotonic() < until:
                crowd.keep_on(TURN_S)
                operator.turn()
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    tell(f"{len(crowd.seen)} orders; {_size_mb(world.settings.prediction_log):.0f} MB of log not moved")
        assert {worker["pid"] for worker in serving.workers()} == workers, "no worker died"
    move_log(world.settings, world.lake, models=SPECS, quiet_s=0.0)
    tell(f"{len(crowd.seen)} orders, {dict(operator.did)}\n{gauge}")
    told = Counter(each.status for each in crowd.seen)
    acknowledged = [each.answer for each in crowd.seen if each.status == 200]
    assert (set(told), all(answer["logged"] for answer in acknowledged)) == ({200}, True), told
    kept: list[str] = []
    for model in SPECS:
        kept += world.lake.scan(f"predictions/{model}").select("prediction_id").collect()["prediction_id"].to_list()
    assert sorted(kept) == sorted({answer["prediction_id"] for answer in acknowledged}), "in the lake, exactly once"
    assert _size_mb(world.settings.prediction_log) < 1, "all of the log was moved"
    assert "Traceback" not in world.logs()
    assert gauge.growth() == []


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) / 2**20
