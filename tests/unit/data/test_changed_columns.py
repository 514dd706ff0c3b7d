"""A source whose declared columns are changed, as the report of a changed delivery advises."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from pilotage.data.ingest import IngestReport, ingest
from pilotage.data.source import SourceSpec, SqlTable
from pilotage.data.validate import validate
from pilotage.errors import LakeError
from pilotage.settings import Settings
from tests.unit.data.landing import COLUMNS, MONDAY, TUESDAY, WEDNESDAY, Landing, csv_of, source

SHARES = COLUMNS | {"delay": pl.Float64}


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def run(landing: Landing, *days: date, **changes: Any) -> IngestReport:
    return ingest(
        source(**changes), lake=landing.lake, settings=landing.settings, days=list(days) or None, run_id="run"
    )


def test_a_type_that_is_changed_as_advised_reads_the_rejected_file_and_those_before(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1, 2))
    run(landing)
    landing.land(f"trips_{TUESDAY}.csv", csv_of(TUESDAY, *(number + 0.5 for number in range(20))))
    (rejected,) = run(landing).rejected
    assert rejected.fix == "Deliver delay as Int64 again, or change its type in `columns` of the source."

    report = run(landing, columns=SHARES)

    assert (report.days, report.rejected) == ([MONDAY, TUESDAY], [])
    assert landing.lake.schema("raw/trips")["delay"] == pl.Float64
    assert landing.delays() == {MONDAY: [1.0, 2.0], TUESDAY: [number + 0.5 for number in range(20)]}
    assert len(run(landing, columns=SHARES).unchanged) == 2


def test_days_that_are_not_asked_for_keep_their_values_and_are_read_again_when_they_are(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1, 1.5))
    landing.land(f"trips_{TUESDAY}.csv", csv_of(TUESDAY, 2))
    run(landing)

    assert run(landing, TUESDAY, columns=SHARES).days == [TUESDAY]
    assert landing.delays() == {MONDAY: [None, 1.0], TUESDAY: [2.0]}

    assert run(landing, MONDAY, TUESDAY, columns=SHARES).days == [MONDAY]
    assert landing.delays() == {MONDAY: [1.0, 1.5], TUESDAY: [2.0]}


def test_a_type_that_would_lose_values_of_other_days_is_refused_with_a_way_that_works(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1.5))
    landing.land(f"trips_{TUESDAY}.csv", csv_of(TUESDAY, 2))
    run(landing, columns=SHARES)

    with pytest.raises(LakeError, match=r"delay is to be Int64, and 1 rows of 2013-01-07 .* such as 1\.5") as refused:
        run(landing, TUESDAY)
    assert landing.delays() == {MONDAY: [1.5], TUESDAY: [2.0]}

    assert "all days at once" in str(refused.value.fix)
    assert run(landing).days == [MONDAY, TUESDAY]
    assert landing.delays() == {MONDAY: [None], TUESDAY: [2]}


def test_a_column_that_is_declared_later_is_read_from_the_files_that_landed_before(landing: Landing) -> None:
    header = "day,carrier,delay,share,seen_at"
    before = {name: dtype for name, dtype in COLUMNS.items() if name != "share"}
    for day in (MONDAY, TUESDAY):
        landing.land(f"trips_{day}.csv", csv_of(day, 1, header=header))
    assert run(landing, columns=before).extra_columns == ["share"]

    assert run(landing).days == [MONDAY, TUESDAY]

    assert landing.lake.scan("raw/trips").collect()["share"].to_list() == [0.5, 0.5]
    assert len(run(landing).unchanged) == 2


def test_rows_that_were_checked_before_are_published_with_the_new_type(landing: Landing) -> None:
    def checked(columns: dict[str, Any], **keys: Any) -> SourceSpec:
        schema = pa.DataFrameSchema({"delay": pa.Column(columns["delay"], nullable=True)})
        return source(columns=columns, contract=lambda: schema, key=("delay", "day"), **keys)

    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1))
    landing.land(f"trips_{TUESDAY}.csv", csv_of(TUESDAY, 2))
    run(landing)
    validate(checked(COLUMNS), lake=landing.lake, reports=landing.settings.home, days=None, run_id="one")
    landing.land(f"trips_{WEDNESDAY}.csv", csv_of(WEDNESDAY, 2.5))
    run(landing, columns=SHARES)

    report = validate(checked(SHARES), lake=landing.lake, reports=landing.settings.home, days=[WEDNESDAY], run_id="two")

    assert report.published == [WEDNESDAY]
    published = landing.lake.scan("validated/trips").sort("day").collect()
    assert published["delay"].to_list() == [1.0, 2.0, 2.5]
    assert landing.lake.days("validated/trips") == [MONDAY, TUESDAY, WEDNESDAY]


def test_the_table_of_a_database_changes_its_type_with_the_next_rows(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    database = tmp_path / "orders.db"
    settings = Settings(home=tmp_path, loans_url=f"sqlite:///{database}")

    def added(amount: type[pl.DataType], *rows: tuple[int, float]) -> int:
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, amount NUMERIC)")
            connection.executemany("INSERT INTO orders VALUES (?, ?)", rows)
        connection.close()
        spec = source(
            read=SqlTable(url_setting="loans", table="orders", cursor="id"),
            columns={"id": pl.Int64, "amount": amount},
            daily=None,
            prepare=lambda raw: raw,
            key=("id",),
        )
        return ingest(spec, lake=landing.lake, settings=settings, days=None, run_id="r").rows

    assert added(pl.Int64, (1, 5)) == 1
    assert added(pl.Float64, (2, 5.5)) == 1
    assert added(pl.Float64) == 0
    assert landing.lake.scan("raw/trips").sort("id").collect()["amount"].to_list() == [5.0, 5.5]
