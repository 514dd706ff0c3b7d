"""What a replay may know, and when."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import UnpublishedData
from pilotage.replay.history import History
from pilotage.replay.nights import night
from tests.unit.replay import parcels_year as year
from tests.unit.training.conftest import publish


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return year.history(tmp_path_factory.mktemp("history"))


def test_a_training_sees_no_label_that_became_known_after_its_night(history: History) -> None:
    day = date(2024, 3, 20)
    moment = night(history.spec, day)
    seen = history.training_rows(moment, first=None, last=day)
    assert seen["label_known_at"].max() <= moment
    assert seen["event_time"].dt.date().max() == day
    # Labels come two hours later: what was sent after two o'clock is known, what was sent on the next day is not read.
    everything = history.rows.filter(pl.col("day") <= day)
    assert seen.height == everything.height
    assert history.training_rows(moment - timedelta(hours=6), first=None, last=day).height < everything.height


def test_every_prediction_belongs_to_one_replayed_day(history: History) -> None:
    covered = sum(len(history.of_replay_day(day)) for day in history.rows["replay_day"].unique())
    assert covered == history.rows.height
    assert len(history.between(year.FIRST, year.FIRST)) == len(history.of_replay_day(year.FIRST))


def test_what_lies_beyond_the_last_day_is_not_even_read(tmp_path: Path) -> None:
    spec = year.spec()
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, spec, year.rows())
    history = History.read(spec, lake, last=date(2024, 3, 25))
    assert history.rows["day"].max() == date(2024, 3, 25)


def test_features_of_another_definition_are_refused(tmp_path: Path) -> None:
    spec = year.spec()
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, spec, year.rows())
    other = spec.model_copy(update={"features": spec.features[:2]})
    with pytest.raises(UnpublishedData, match="declares now"):
        History.read(other, lake)
