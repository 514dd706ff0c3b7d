"""The first step of a retraining under labels that may not be learned from, whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.lineage import model_assets
from pilotage.data.lake import Lake
from pilotage.features.state import microseconds
from pilotage.monitoring.labels import collect
from pilotage.monitoring.predictions import move_log
from pilotage.release.champions import states
from pilotage.release.retraining.records import RetrainingState
from pilotage.release.retraining.requests import request
from pilotage.run_tags import ATTEMPT, REQUEST
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from resources.records import RecordIOManager
from resources.training_run import TrainingRun
from tests.unit.monitoring.logs import prediction, write_segment
from tests.unit.training.conftest import parcel_spec, parcels, publish

KEY = dg.AssetKey(["parcel_late", "training_set"])


class House:
    """A model in use, and the step that makes its next training set."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.lake, self.instance, self.spec = Lake(self.settings.lake), instance, parcel_spec()
        self.platform = PlatformHome(home=str(home))
        self.rows = parcels()

    def delivered(self, rows: pl.DataFrame) -> None:
        publish(self.lake, self.spec, rows)

    def served(self) -> None:
        """Logs an answer to each parcel that knows nearly what will be true, and what became of it."""
        records = [
            prediction(
                number,
                model="parcel_late",
                entity={"parcel_id": row["parcel_id"]},
                at=microseconds(row["sent_at"]),
                moment=microseconds(row["sent_at"]),
                probability=0.6 if row["late"] else 0.2,
                request={},
                features={},
            )
            for number, row in enumerate(self.rows.iter_rows(named=True))
        ]
        write_segment(self.settings.prediction_log, records)
        move_log(self.settings, self.lake, models={self.spec.name: self.spec}, quiet_s=0)
        last = self.rows["delivered_at"].max()
        collect(self.spec, settings=self.settings, lake=self.lake, now=last)  # type: ignore[arg-type]

    def asks(self) -> None:
        request(self.spec.name, "nightly", {}, settings=self.settings, actor="schedule", why="the night")

    def makes_set(self, **tags: str) -> dg.ExecuteInProcessResult:
        sources: Any = {"parcels": SimpleNamespace(daily=None)}
        [step] = [each for each in model_assets(self.spec, sources) if each.key == KEY]
        resources = {
            "platform": self.platform,
            "training": TrainingRun(),
            "io_manager": RecordIOManager(platform=self.platform),
        }
        return dg.materialize(
            [step], instance=self.instance, resources=resources, tags=tags, raise_on_error=False, selection=[KEY]
        )

    def attempts(self) -> dg.ExecuteInProcessResult:
        self.asks()
        number = self.state.open.number if self.state.open else 0
        return self.makes_set(**{REQUEST: str(number), ATTEMPT: "1"})

    @property
    def state(self) -> RetrainingState:
        return states(settings=self.settings)[self.spec.name].retraining


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path / "home", instance)


def swapped(rows: pl.DataFrame, days: int) -> pl.DataFrame:
    newest = pl.col("day").is_in(rows["day"].unique().sort().tail(days).implode())
    return rows.with_columns(late=pl.when(newest).then(~pl.col("late")).otherwise("late"))


def test_sound_labels_are_trained_on_and_the_set_tells_its_last_day(house: House) -> None:
    house.delivered(house.rows)
    house.served()
    result = house.attempts()
    assert result.success
    [made] = result.get_asset_materialization_events()
    assert made.materialization.metadata["last_day"].value == str(house.rows["day"].max())
    assert house.state.open is not None and house.state.open.running is not None


def test_labels_that_are_swapped_block_a_nightly_retraining_too_and_call_a_person_with_the_evidence(
    house: House,
) -> None:
    # True and false are about as frequent: no rate jumps.
    house.delivered(swapped(house.rows, 3))
    house.served()
    assert not house.attempts().success
    [done] = house.state.closed
    assert (done.outcome, house.state.open) == ("blocked", None)
    assert "Are true and false swapped?" in done.why
    [call] = house.state.calls
    assert (call.about, call.evidence["labels"][0]["kind"]) == ("labels", "inverted_labels")


def test_a_rate_that_jumps_blocks_though_nothing_was_predicted(house: House) -> None:
    newest = pl.col("day") == house.rows["day"].max()
    house.delivered(house.rows.with_columns(late=(newest & (pl.int_range(pl.len()) % 33 > 0)) | pl.col("late")))
    assert not house.attempts().success
    [done] = house.state.closed
    assert done.outcome == "blocked"
    assert {each["kind"] for each in house.state.calls[0].evidence["labels"]} == {"label_rate"}


def test_a_person_who_trains_by_hand_is_told_and_not_stopped(house: House) -> None:
    house.delivered(swapped(house.rows, 3))
    house.served()
    assert house.makes_set().success
    assert house.spec.name not in states(settings=house.settings)
