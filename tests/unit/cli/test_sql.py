"""``pilotage sql`` prints what can be read: a table where it fits, else each row as a list of its fields."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pilotage.cli.sql import show
from pilotage.data.lake import Lake
from pilotage.errors import ConfigError
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


ODD = "select ['a', 'b'] as list, {'at': date '2013-02-12', 'x': 'nan'::double} as part, encode('ü') as bytes, null"


def test_csv_has_values_of_several_parts_as_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    show(settings, ODD, form="csv", limit=100)
    frame = pl.read_csv(capsys.readouterr().out.encode())
    assert frame.row(0) == ('["a", "b"]', '{"at": "2013-02-12", "x": null}', "ü", None)


def test_json_has_no_nan(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    show(settings, "select 'nan'::double as a, ['inf'::double, 1] as b, encode('ü') as c", form="json", limit=100)
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == [{"a": None, "b": [None, 1.0], "c": "ü"}]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_columns_of_one_name_and_durations_are_shown(
    settings: Settings, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    show(settings, "select 1 as a, 2 as a, interval 1 day as span", form=form, limit=100)
    printed = capsys.readouterr().out
    assert "a_1" in printed
    assert "1 day" in printed


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_value_that_can_not_be_shown_is_no_traceback(settings: Settings, form: str) -> None:
    with pytest.raises(ConfigError, match="can't be shown"):
        show(settings, "select timestamp 'infinity' as never", form=form, limit=100)


def test_large_numbers_and_bits_are_what_they_are(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select sum(range) as total, 340282366920938463463374607431768211455::uhugeint as most, '1011'::bit as bits"
    show(settings, f"{query} from range(4)", form="json", limit=1)
    told = json.loads(capsys.readouterr().out)
    assert told == [{"total": 6, "most": "340282366920938463463374607431768211455", "bits": "1011"}]
