"""The queries of docs/how-to/read-the-prediction-log.md, run as they stand there on a log that was moved."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.data.query import query
from pilotage.features.state import microseconds
from pilotage.monitoring.predictions import labelled, move_log, read_log
from pilotage.settings import PROJECT, Settings
from tests.unit.monitoring.logs import outcome, prediction, shadow, state, write_segment

PAGE = (PROJECT / "docs" / "how-to" / "read-the-prediction-log.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ID = "0123456789abcdef01234567"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings.load().model_copy(update={"home": tmp_path_factory.mktemp("home")})
    model, now = "flight_delay", microseconds(datetime.now(UTC))
    records = [
        state().__class__(state="s1", model=model, through=now, versions={"validated/flights": 4}),
        prediction(1, model=model, at=now, prediction_id=ID, state="s1", version=3),
        prediction(2, model=model, at=now, answered_by="rule", version=None, features=None),
        shadow(1, model=model, at=now, prediction_id=ID, version=4, decision=True),
        outcome(1, model=model, prediction_id=ID, known_at=now, received_at=now),
    ]
    write_segment(made.prediction_log, records)
    move_log(made, Lake(made.lake), quiet_s=0)
    scores = pl.DataFrame({"day": [date(2013, 1, 1)], "version": [3], "probability": [0.5], "decision": [True]})
    Lake(made.lake).replace_days("scores/flight_delay", scores, [date(2013, 1, 1)], note={})
    return made


def test_the_page_has_its_four_queries() -> None:
    assert len(QUERIES) == 4


def test_the_answers_of_yesterday_are_told_by_version_and_way(settings: Settings) -> None:
    rows = query(Lake(settings.lake), QUERIES[0]).to_dicts()
    assert {(row["version"], row["answered_by"], row["answers"]) for row in rows} == {
        (3, "model", 1),
        (None, "rule", 1),
    }


def test_one_answer_is_told_with_its_state(settings: Settings) -> None:
    [row] = query(Lake(settings.lake), QUERIES[1]).to_dicts()
    assert row["versions"] == [{"table": "validated/flights", "version": 4}]
    assert row["feature_amount"] == 11.0


def test_a_shadow_that_decides_otherwise_is_told(settings: Settings) -> None:
    assert query(Lake(settings.lake), QUERIES[2]).to_dicts() == [{"version": 4, "answers": 1, "otherwise": 1.0}]


def test_scores_are_told_by_day(settings: Settings) -> None:
    [row] = query(Lake(settings.lake), QUERIES[3]).to_dicts()
    assert (row["day"], row["flights"], row["flagged"]) == (date(2013, 1, 1), 1, 1)


def test_python_reads_the_same(settings: Settings) -> None:
    lake = Lake(settings.lake)
    assert read_log(settings, "flight_delay", lake=lake, version=3)["prediction_id"].to_list() == [ID]
    assert labelled(settings, "flight_delay", lake=lake, columns=["version", "probability"])["label"].to_list() == [
        True
    ]


def test_every_table_that_the_page_names_is_written_by_something() -> None:
    from pilotage.monitoring.log_frames import ROOMS

    named = set(re.findall(r"^\| `(\w+)\.<model>`", PAGE, re.MULTILINE))
    assert named == {*ROOMS.values(), "scores"}
    assert Path(PROJECT / "docs" / "runbooks" / "skew.md").exists()
