"""``pilotage sql`` prints what can be read: a table where it fits, else each row as a list of its fields."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pilotage.cli.sql import show
from pilotage.data.lake import Lake
from pilotage.settings import Settings

DAY = date(2013, 2, 12)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("COLUMNS", "80")
    made = Settings(home=tmp_path)
    wide = {f"column_number_{number}": [f"value {number}", None] for number in range(20)}
    frame = pl.DataFrame({"day": [DAY, DAY], **wide})
    Lake(made.lake).replace_days("raw/wide", frame, [DAY], note={})
    return made


def test_a_table_that_fits_is_a_table(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    show(settings, "select day, 1.5 as half, column_number_7 from raw.wide", form="table", limit=100)
    printed = capsys.readouterr()
    first, _, *rows = printed.out.splitlines()
    assert first.split() == ["day", "┃", "half", "┃", "column_number_7"]
    assert sorted(row.split("│")[2].strip() for row in rows) == ["null", "value 7"]
    assert printed.err.strip() == "2 rows"


def test_a_table_that_is_too_wide_lists_every_field_of_each_row(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    show(settings, "select * from raw.wide where column_number_0 is not null", form="table", limit=100)
    printed = capsys.readouterr()
    assert "column_number_19  value 19" in [line.strip() for line in printed.out.splitlines()]
    assert len(printed.out.splitlines()) == 1 + 21
    assert printed.err.strip() == "1 row"


def test_the_rest_of_a_long_result_is_told(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    show(settings, "select * from range(7)", form="table", limit=3)
    assert capsys.readouterr().err.strip() == "7 rows; 3 shown, see --limit"


def test_csv_and_json_print_every_row_and_column(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    show(settings, "select * from raw.wide", form="csv", limit=1)
    assert pl.read_csv(capsys.readouterr().out.encode()).shape == (2, 21)
    show(settings, "select day from raw.wide", form="json", limit=1)
    assert json.loads(capsys.readouterr().out) == [{"day": "2013-02-12"}, {"day": "2013-02-12"}]
