"""A lake in a folder: its paths, its disk, and its days whatever is written."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.lake import Lake
from pilotage.data.lake_commits import day_ranges
from pilotage.errors import ConfigError, LakeError
from tests.lakes import MONDAY, TUESDAY, WEDNESDAY, counts, rows


@pytest.mark.parametrize("folder", ["a b", "é日", "a#b?c", "a'b"])
def test_a_home_with_unusual_characters_works(tmp_path: Path, folder: str) -> None:
    lake = Lake(str(tmp_path / folder))
    lake.replace_days("raw/flights", rows(monday=2), [MONDAY], note={})
    lake.replace("raw/planes", pl.DataFrame({"x": [1]}), note={})
    assert counts(lake) == {MONDAY: 2}
    assert lake.scan("raw/planes").collect()["x"].to_list() == [1]
    assert all(Path(file).is_file() for file in lake.file_uris("raw/flights"))


def test_a_home_that_delta_can_not_have_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't have \[ \] in their path"):
        Lake(str(tmp_path / "a[1]"))


def test_a_year_becomes_one_range_and_a_gap_two() -> None:
    assert day_ranges([MONDAY, TUESDAY]) == "(day >= '2013-01-07' AND day <= '2013-01-08')"
    assert day_ranges([MONDAY, WEDNESDAY]).count(" OR ") == 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 4), st.integers(0, 3), min_size=1), min_size=1, max_size=5))
def test_any_replacements_leave_what_a_dictionary_of_days_would(
    tmp_path_factory: pytest.TempPathFactory, replacements: list[dict[int, int]]
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    expected: dict[date, int] = {}
    for replacement in replacements:
        days = {MONDAY + timedelta(offset): count for offset, count in replacement.items()}
        frame = pl.DataFrame(
            {"day": [day for day, count in days.items() for _ in range(count)]}, schema={"day": pl.Date}
        ).with_columns(x=pl.lit(1, pl.Int64))
        lake.replace_days("raw/flights", frame, list(days), note={})
        expected |= days
    assert counts(lake) == {day: count for day, count in sorted(expected.items()) if count}


def test_what_was_committed_can_be_put_on_the_disk_and_a_disk_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.append("raw/loans", pl.DataFrame({"id": [1]}), note={}, app_id="ingest", sequence=1)
    lake.sync()
    from pilotage.data import lake_commits

    class Failing:
        def __init__(self, *args: object, **kwargs: object) -> None: ...

        @staticmethod
        def syncfs(_: int) -> int:
            import ctypes

            ctypes.set_errno(5)
            return -1

    monkeypatch.setattr("ctypes.CDLL", Failing)
    with pytest.raises(LakeError, match="Input/output error"):
        lake_commits.onto_disk(Path(lake.uri))
