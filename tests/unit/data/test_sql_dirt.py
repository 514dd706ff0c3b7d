"""What databases of other people hold: rows without a cursor, values of other types, days that there can't be."""

from __future__ import annotations

import sqlite3
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from jobs.daily_reads import days_to_read
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.source import Daily, SourceSpec, SqlTable
from pilotage.data.validate import validate
from pilotage.errors import DeclarationError, UnreadableFile
from pilotage.settings import Settings
from tests.unit.data.landing import source

MONDAY = date(2013, 1, 7)


class Warehouse:
    """A SQLite database that a setting of its own names, and a lake."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = home / "warehouse.db"
        monkeypatch.setenv("PILOTAGE_HOME", str(home))
        monkeypatch.setenv("PILOTAGE_DATABASES__WAREHOUSE", f"sqlite:///{self.path}")
        self.settings = Settings.load()
        self.lake = Lake(self.settings.lake)

    def execute(self, script: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.executescript(script)
        connection.close()

    def ingest(self, spec: SourceSpec) -> pl.DataFrame:
        """What the lake then holds."""
        ingest(spec, lake=self.lake, settings=self.settings, days=None, run_id="r")
        return self.lake.scan("raw/trips").collect()


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return Warehouse(tmp_path, monkeypatch)


def bookings(**changes: Any) -> SourceSpec:
    declared: dict[str, Any] = {
        "read": SqlTable(url_setting="warehouse", table="bookings", cursor="id"),
        "columns": {"id": pl.Int64, "on": pl.Date},
        "prepare": lambda raw: raw.select("id", "on"),
        "contract": lambda: pa.DataFrameSchema({"id": pa.Column(pl.Int64), "on": pa.Column(pl.Date)}),
        "key": ("id",),
        "daily": None,
    }
    return source(**(declared | changes))


def test_a_database_needs_no_more_than_a_variable_with_its_address(warehouse: Warehouse) -> None:
    warehouse.execute("CREATE TABLE bookings (id INTEGER, 'on' DATE); INSERT INTO bookings VALUES (1, '2013-01-07')")
    assert warehouse.ingest(bookings())["on"].to_list() == [MONDAY]


def test_a_database_without_an_address_is_answered_with_the_variable(warehouse: Warehouse) -> None:
    elsewhere = bookings(read=SqlTable(url_setting="elsewhere", table="bookings", cursor="id"))
    with pytest.raises(DeclarationError, match="Set PILOTAGE_DATABASES__ELSEWHERE=dialect://"):
        warehouse.ingest(elsewhere)


def test_a_table_may_be_in_a_schema(warehouse: Warehouse) -> None:
    warehouse.execute("CREATE TABLE bookings (id INTEGER, 'on' DATE); INSERT INTO bookings VALUES (1, '2013-01-07')")
    spec = bookings(read=SqlTable(url_setting="warehouse", table="main.bookings", cursor="id"))
    assert warehouse.ingest(spec)["source_file"].to_list() == ["main.bookings to 1"]


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "NUMERIC(9, 2)"])
def test_a_value_that_its_column_can_not_have_keeps_its_row_and_stops_no_other(warehouse: Warehouse, kind: str) -> None:
    warehouse.execute(
        f"CREATE TABLE bookings (id INTEGER, 'on' {kind});"
        "INSERT INTO bookings VALUES (1, 'next week'), (2, '2013-01-07')"
    )
    held = warehouse.ingest(bookings()).sort("id")
    assert held["unparsed"].to_list() == [["on=next week"], []]
    assert held["on"].to_list() == [None, MONDAY]


def test_a_cursor_that_its_column_can_not_have_is_named(warehouse: Warehouse) -> None:
    warehouse.execute("CREATE TABLE bookings (id INTEGER, at TIMESTAMP); INSERT INTO bookings VALUES (1, 'soon')")
    read = SqlTable(url_setting="warehouse", table="bookings", cursor="at")
    with pytest.raises(UnreadableFile, match="bookings: at of 1 rows is no Datetime"):
        warehouse.ingest(bookings(read=read, columns={"id": pl.Int64, "at": pl.Datetime("us")}))


def test_a_row_without_a_cursor_is_refused_whenever_it_comes(warehouse: Warehouse) -> None:
    warehouse.execute("CREATE TABLE bookings (id INTEGER, 'on' DATE); INSERT INTO bookings VALUES (1, '2013-01-07')")
    warehouse.ingest(bookings())
    warehouse.execute("INSERT INTO bookings VALUES (NULL, '2013-01-08'), (2, '2013-01-08')")
    with pytest.raises(UnreadableFile, match="bookings: id of 1 rows is no Int64"):
        warehouse.ingest(bookings())
    warehouse.execute("UPDATE bookings SET id = 3 WHERE id IS NULL")
    assert warehouse.ingest(bookings())["id"].sort().to_list() == [1, 2, 3]


def test_a_row_of_a_day_that_the_source_has_not_is_quarantined_and_one_of_the_future_waits(
    warehouse: Warehouse,
) -> None:
    good = ", ".join(f"({number}, '2013-01-0{7 + number % 2}')" for number in range(100))
    warehouse.execute(
        f"CREATE TABLE bookings (id INTEGER, 'on' DATE); INSERT INTO bookings VALUES {good};"
        "INSERT INTO bookings VALUES (101, '1900-01-01'), (102, '9999-12-31')"
    )
    spec = bookings(daily=Daily(column="on", first=MONDAY))
    warehouse.ingest(spec)
    assert spec.daily is not None
    night = days_to_read(spec, spec.daily, warehouse.lake, today=date(2013, 1, 10))

    for days in (night, None):  # As every night does, and all that there are.
        report = validate(spec, lake=warehouse.lake, reports=warehouse.settings.reports, days=days, run_id="r")
        assert report.published == [MONDAY, MONDAY + timedelta(days=1)]
        [bad] = warehouse.lake.scan("quarantine/trips").collect().to_dicts()
        assert (bad["id"], bad["reasons"]) == (101, ["on: 1900-01-01 is not the day of its file, 2013-01-08"])
    assert warehouse.lake.days("raw/trips")[-1] == date(9999, 12, 31)
