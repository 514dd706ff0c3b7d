"""History through the real service: what it answers is what was known, and a replay that is stopped doubles nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, load_sources, planes, weather
from pilotage.data import sample
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.validate import validate
from pilotage.features.build import build_features
from pilotage.features.online import build_online
from pilotage.monitoring.moving import move_log
from pilotage.monitoring.predictions import labelled, read_log
from pilotage.replay.drive import Drive, Told
from pilotage.replay.history import History
from pilotage.replay.landing import archive_of
from pilotage.replay.nights import night
from pilotage.replay.progress import Progress
from pilotage.replay.report import write_report
from pilotage.replay.sender import Sender
from pilotage.runtime.bundle import read_bundle
from pilotage.settings import Settings
from pilotage.testing.service import RunningService, release_bundle, running_service
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble
from pilotage.training.train import train

BEGAN, EVE = date(2013, 1, 1), date(2013, 1, 24)
FIRST, LAST = date(2013, 1, 25), date(2013, 1, 26)
CONFIG = TrainConfig.from_values(
    {"split": {"folds": 0, "holdout_days": 4, "calibration_days": 4}, "rounds": 30, "threads": 1}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The platform's steps without Dagster: each is done when it is waited for."""

    settings: Settings
    lake: Lake
    service: Callable[[], RunningService]

    def take_up(self, days: list[date] | None) -> None:
        for module in (flights, weather, planes, airports):
            source = module.SOURCE.model_copy(update={"expectations": ()})
            chosen = days if source.daily else None
            ingest(source, lake=self.lake, settings=self.settings, days=chosen, run_id="test")
            validate(source, lake=self.lake, reports=self.settings.reports, days=chosen, run_id="test")
        build_features(MODEL, lake=self.lake, days=days, run_id="test")
        build_online(MODEL, lake=self.lake, path=self.settings.online / f"{MODEL.name}.db", run_id="test")

    def taken_up(self, day: date, *, stop: Callable[[], bool]) -> dict[str, Any]:
        del stop
        self.take_up([each for each in (day - timedelta(days=1), day) if each >= FIRST])
        through = build_online(
            MODEL, lake=self.lake, path=self.settings.online / f"{MODEL.name}.db", run_id="test"
        ).meta.materialised_through
        assert through is not None
        told = through.isoformat().replace("+00:00", "Z")
        self.service().until_answer(
            lambda: self.service().get("/models"),
            lambda answer: any(each.get("state_through") == told for each in answer.json()["models"]),
        )
        return {"state_through": told}

    def night(self, day: date, *, retraining_due: bool, said: Callable[[str], None], stop: Callable[[], bool]) -> Any:
        del day, said, stop
        # In its own time the platform moves what the service logged; read is what waits as well as what was moved.
        move_log(self.settings, self.lake, models={MODEL.name: MODEL})
        return {"retraining_due": retraining_due}


@dataclass(slots=True)
class World:
    settings: Settings
    lake: Lake
    service: RunningService
    bundle: Path

    def drive(self, progress: Progress, *, last: date = LAST, tell: Any = None, stop: Any = None) -> Drive:
        return Drive(
            spec=MODEL,
            archive=archive_of(MODEL, load_sources()),
            platform=Engine(settings=self.settings, lake=self.lake, service=lambda: self.service),
            sender=Sender(self.service.url, MODEL.name, at_once=8),
            progress=progress,
            first=FIRST,
            last=last,
            tell=tell or (lambda _: None),
            stop=stop or (lambda: False),
        )

    def progress(self) -> Progress:
        path = self.settings.home / "replay" / MODEL.name / "test.db"
        return Progress(path, model=MODEL.name, first=FIRST, last=LAST)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("replay")
    settings = Settings(home=home)
    lake = Lake(settings.lake)
    sample.publish_flights(settings.landing, first=BEGAN, last=EVE)
    sample.publish_weather(settings.landing, first=BEGAN, last=EVE)
    sample.publish_reference(settings.landing)
    Engine(settings=settings, lake=lake, service=lambda: service).take_up(None)
    made = assemble(MODEL, lake=lake, config=CONFIG, directory=home / "run")
    candidate = train(MODEL, made, config=CONFIG, directory=home / "run", threads=1)
    release_bundle(settings, MODEL.name, Path(candidate.bundle), candidate.bundle_sha256, version=1)
    with running_service(settings, service="serving.service:PredictionService", log=home / "service.log") as service:
        service.until("/models")
        yield World(settings=settings, lake=lake, service=service, bundle=Path(candidate.bundle))


@pytest.fixture(scope="module")
def replayed(world: World) -> pl.DataFrame:
    """Two days, stopped in the middle of the first and of the second, each time by somebody who goes on later."""
    said: list[Told] = []

    def stop_after(count: int, day: date) -> Callable[[], bool]:
        return lambda: any(told.day == day and told.requests >= count for told in said)

    for stop in (stop_after(200, FIRST), stop_after(300, LAST), lambda: False):
        progress = world.progress()
        finished = world.drive(progress, tell=said.append, stop=stop).run()
        answers = progress.answers()
        progress.close()
        said.clear()
    assert finished
    return answers


def test_every_request_is_answered_once_however_often_the_replay_is_stopped(
    world: World, replayed: pl.DataFrame
) -> None:
    logged = read_log(world.settings, MODEL.name, lake=world.lake)
    assert logged["prediction_id"].sort().to_list() == replayed["prediction_id"].sort().to_list()
    history = History.read(MODEL, world.lake)
    rows = history.rows[history.between(FIRST, LAST)]
    asked = {entity.removeprefix('{"flight_id": "').removesuffix('"}') for entity in replayed["entity"]}
    assert asked == set(rows["flight_id"])


def test_the_service_answers_what_was_known_at_the_moment_though_the_whole_day_has_landed(
    world: World, replayed: pl.DataFrame
) -> None:
    history = History.read(MODEL, world.lake)
    rows = history.rows[history.between(FIRST, LAST)]
    bundle = read_bundle(world.bundle)
    offline = dict(zip(rows["flight_id"].to_list(), bundle.score(rows).tolist(), strict=True))
    served = {
        entity.removeprefix('{"flight_id": "').removesuffix('"}'): probability
        for entity, probability in replayed.select("entity", "probability").iter_rows()
    }
    gaps = np.array([abs(served[flight] - probability) for flight, probability in offline.items()])
    assert len(gaps) > 1_500
    assert gaps.max() == 0.0


def test_outcomes_are_those_that_were_known_by_their_night_and_no_later_one(
    world: World, replayed: pl.DataFrame
) -> None:
    known = labelled(world.settings, MODEL.name, lake=world.lake)
    assert known.height == replayed["label"].count()
    assert known["label_known_at"].max() <= night(MODEL, LAST)
    archive = archive_of(MODEL, load_sources())
    truth = pl.concat([archive.events(day) for day in (FIRST, LAST)])
    expected = truth.filter(pl.col("late").is_not_null() & (pl.col("arr_known_at") <= night(MODEL, LAST)))
    told = {row["request_flight_id"]: row["label"] for row in known.select("request_flight_id", "label").to_dicts()}
    for row in expected.to_dicts():
        if row["flight_id"] in told:
            assert told[row["flight_id"]] == row["late"]
    # Flights before four in the morning's moment belong to the day before the replay.
    assert len(told) > 0.95 * expected.height


def test_the_report_tells_the_days_and_loads_nothing_from_elsewhere(world: World, replayed: pl.DataFrame) -> None:
    progress = world.progress()
    path = write_report(MODEL, settings=world.settings, progress=progress, first=FIRST, last=LAST)
    progress.close()
    page = path.read_text(encoding="utf-8")
    assert path.is_relative_to(world.settings.reports)
    assert f"{replayed.height:,} requests were answered" in page
    assert "2013-01-25" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page
    assert "https://" not in page
