"""Validations that overlap: whichever ends last, what is published is one thing, and of the newest rows."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from pilotage.data.lake import Lake
from pilotage.data.report import ValidationReport
from pilotage.data.validate import validate
from tests.unit.data.readings import day, land, ordinary, row, rows_of, source


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def _validate_quietly(home: str, run_id: str) -> int:
    spec = source(expectations=())
    return validate(spec, lake=Lake(f"{home}/lake"), reports=Path(home), days=None, run_id=run_id).rows_published


def test_two_runs_at_once_over_the_same_days_end_in_one_consistent_result(lake: Lake, tmp_path: Path) -> None:
    land(lake, {day(number): [*ordinary(day(number)), row("x", day(number))] for number in range(5)})

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        published = list(pool.map(_validate_quietly, [str(tmp_path)] * 4, ["r1", "r2", "r3", "r4"]))

    assert published == [15] * 4
    assert lake.scan("validated/readings").collect().height == 15
    assert lake.scan("quarantine/readings").collect().height == 5
    assert rows_of(lake, "verdict/readings")[0]["run_id"] in {"r1", "r2", "r3", "r4"}


def test_a_run_that_was_overtaken_by_one_of_newer_rows_publishes_these(lake: Lake, tmp_path: Path) -> None:
    checked = partial(validate, source(), lake=lake, reports=tmp_path, days=None)
    land(lake, {day(1): ordinary(day(1))})
    meanwhile: list[ValidationReport] = []

    def overtake(words: str) -> None:
        if "publishing" in words and not meanwhile:
            land(lake, {day(1): [*ordinary(day(1)), row("n1", day(1))]})
            meanwhile.append(checked(run_id="newer"))

    older = checked(run_id="older", progress=overtake)
    assert older.rows_published == meanwhile[0].rows_published
    assert len(rows_of(lake, "validated/readings")) == meanwhile[0].rows_published
    assert checked(run_id="again").rows_published == older.rows_published
