"""Whoever is erased stays so: no file, correction or late row brings them back, and others come in as ever."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.erased import forgets, keep_out, table_of
from pilotage.data.erasing import erase
from pilotage.data.ingest import ingest
from pilotage.data.source import SourceSpec, SqlTable
from pilotage.errors import ConfigError, DeclarationError
from pilotage.governance.whom import as_delivered, by_columns
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings
from tests.unit.data.landing import MONDAY, TUESDAY, Landing, csv_of, source
from tests.unit.data.test_sql import Database


def forget(landing: Landing | Database, column: str, value: object) -> None:
    """As an erasure does: the list first, then the rows."""
    keep_out("trips", {column: value}, lake=landing.lake, pseudonyms=Pseudonyms.of(landing.settings))
    erase(landing.lake, "raw/trips", by_columns({column: value}), note={})


def take(landing: Landing) -> list[date]:
    report = ingest(source(), lake=landing.lake, settings=landing.settings, days=None, run_id="r")
    return report.days


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def test_neither_the_file_that_is_still_there_nor_a_correction_brings_them_back(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1, 2, 3))
    landing.land(f"trips_{TUESDAY}.csv", csv_of(TUESDAY, 2))
    take(landing)
    forget(landing, "delay", 2)
    assert landing.delays() == {MONDAY: [1, 3]}
    assert (take(landing), landing.delays()) == ([], {MONDAY: [1, 3]})
    version = landing.lake.version("raw/trips")
    assert (take(landing), landing.lake.version("raw/trips")) == ([], version), "a day that was all theirs is settled"
    landing.land(f"trips_{MONDAY}-again.csv", csv_of(MONDAY, 1, 2, 4))
    landing.land(f"trips_{TUESDAY}-again.csv", csv_of(TUESDAY, 2, 5))
    assert (take(landing), landing.delays()) == ([MONDAY, TUESDAY], {MONDAY: [1, 4], TUESDAY: [5]})


def test_a_late_row_of_the_last_second_is_taken_and_theirs_in_it_is_not(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with sqlite3.connect(database.path) as connection:
        connection.execute("CREATE TABLE events (at TEXT, number INTEGER)")
        second = "2013-01-07 10:00:05"
        connection.executemany("INSERT INTO events VALUES (?, ?)", [(second, 1), (second, 2)])
        connection.commit()
        spec = _events()
        assert database.ingest(spec) == 2
        forget(database, "number", 2)
        connection.execute("INSERT INTO events VALUES (?, ?)", (second, 3))
        connection.commit()
        assert database.ingest(spec) == 1
    connection.close()
    assert database.lake.scan("raw/trips").collect()["number"].sort().to_list() == [1, 3]


def test_who_was_last_in_a_table_is_not_read_again_and_the_next_one_is(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.add(1, 2, 3)
    database.ingest()
    forget(database, "id", 3)
    assert (database.ingest(), database.held()) == (0, [1, 2])
    database.add(4)
    assert (database.ingest(), database.held()) == (1, [1, 2, 4])


def test_the_list_names_nobody_once_and_needs_its_key(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1, 987654))
    take(landing)
    for _ in range(2):
        forget(landing, "delay", 987654)
    listed = landing.lake.scan(table_of("trips")).collect()
    assert listed.height == 1
    assert "987654" not in repr(listed.to_dicts())
    landing.settings.pseudonym_key.write_bytes(b"another key of the tests")
    with pytest.raises(ConfigError, match="Who was erased of trips can't be recognised"):
        take(landing)


def _events() -> SourceSpec:
    return source(
        read=SqlTable(url_setting="loans", table="events", cursor="at"),
        columns={"at": pl.Datetime("us", "UTC"), "number": pl.Int64},
        daily=None,
        prepare=lambda raw: raw,
        key=("number",),
    )


def test_a_home_without_any_list_has_no_key_made_for_it(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1))
    take(landing)
    assert not Settings(home=tmp_path).pseudonym_key.exists()


def test_a_prepare_that_drops_rows_is_refused_rather_than_the_wrong_rows_left_out(landing: Landing) -> None:
    landing.land(f"trips_{MONDAY}.csv", csv_of(MONDAY, 1, 2, 3))
    take(landing)
    forget(landing, "delay", 2)
    dropping = source(prepare=lambda raw: source().prepare(raw).head(1))
    whole = landing.lake.scan("raw/trips").collect()
    with pytest.raises(DeclarationError, match="prepare made 1 rows of 2"):
        forgets(dropping, lake=landing.lake, settings=landing.settings)(whole)
    with pytest.raises(DeclarationError, match="prepare made 1 rows of 2"):
        as_delivered(dropping, {"delay": 3})(whole)
