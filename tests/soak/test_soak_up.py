"""A whole platform in use for a long time: days land, sensors tick, people look at the UI; no program of it grows."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest

from assets.models import load_models
from pilotage.cli.servers import LOCATIONS
from pilotage.data.sample import publish_flights, publish_weather
from pilotage.settings import Settings
from tests.e2e.conftest import House, house, stop
from tests.soak.gauge import Gauge

__all__ = ["house"]

pytestmark = pytest.mark.timeout(12 * 3600)

PATIENCE_S = 900.0
PAUSE_S = 0.5
DAY_S = 90.0
"""Seconds after which another day of flights lands."""
FIRST = date(2013, 3, 1)
TICKS = """query { sensorsOrError(
  repositorySelector: {repositoryLocationName: "pilotage", repositoryName: "__repository__"}
) { ... on Sensors { results { name sensorState { ticks(limit: 20) { status timestamp } } } } } }"""
RUNS = "query { runsOrError(limit: 200) { ... on Runs { results { status jobName } } } }"


def programs(house: House) -> dict[str, psutil.Process]:
    """Every process of the platform by its command, but for the leashes."""
    found = {}
    for process in house.processes():
        with suppress(psutil.Error):
            words = [Path(word).name for word in process.cmdline()[1:5] if word not in ("-m", "-W", "ignore")]
            if "pilotage.cli.leash" not in words:
                found[f"{' '.join(words)[:24]} {process.pid}"] = process
    return found


def test_no_program_grows_and_no_run_fails(house: House, seconds: float, tell: Callable[[str], None]) -> None:
    started = house.start()
    started.until("Serving at", seconds=PATIENCE_S)
    tell("serving")
    settings = Settings(home=house.home)
    examples = {name: {field.name: field.example for field in spec.request} for name, spec in load_models().items()}
    days = (FIRST + timedelta(days=number) for number in itertools.count())
    asked = 0
    with Gauge(lambda: programs(house), every_s=10.0) as gauge:
        until = landed = time.monotonic()
        until += seconds
        while time.monotonic() < until:
            for name, example in examples.items():
                answer = house.get("service", f"/{name}/predict", example)
                assert answer["answered_by"] == "model", answer
                asked += 1
            for query in (LOCATIONS, RUNS, TICKS):
                assert "errors" not in house.get("dagster", "/graphql", {"query": query})
            if time.monotonic() - landed > DAY_S:
                landed, day = time.monotonic(), next(days)
                publish_flights(settings.landing, first=day, last=day)
                publish_weather(settings.landing, first=day, last=day)
                tell(f"{asked} predictions; {day} landed")
            time.sleep(PAUSE_S)
    runs = house.get("dagster", "/graphql", {"query": RUNS})["data"]["runsOrError"]["results"]
    told = Counter((run["jobName"], run["status"]) for run in runs)
    tell(f"{asked} predictions, {dict(told)}\n{gauge}")
    assert stop(started) == 0
    assert [job for job, status in told if status == "FAILURE"] == []
    assert any(job == "data_flight_delay" for job, _ in told), "what landed was ingested"
    # Dagster keeps some memory of each tick, so another process takes over in the end: ADR 19.
    assert gauge.growth(bounded=["dagster api grpc"]) == []
