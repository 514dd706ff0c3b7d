"""Several processes that ingest at once end in one consistent result."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.sample import publish_flights, publish_loans
from pilotage.settings import Settings

FIRST = date(2013, 3, 1)
DAYS = [FIRST + timedelta(days=offset) for offset in range(3)]
RUNS = 3
ROUNDS = 6


def _ingest(source: str, homes: list[Path], number: int, start: Barrier, failures: Any) -> None:
    """One of the processes: with the others, ingests into each home, in a different order of days."""
    from assets.sources import load_sources

    spec = load_sources()[source]
    for home in homes:
        settings = Settings(home=home)
        days = DAYS[number % len(DAYS) :] + DAYS[: number % len(DAYS)]
        start.wait(60)
        try:
            ingest(spec, lake=Lake(settings.lake), settings=settings, days=days, run_id=f"run-{number}")
        except Exception as error:
            failures.put(f"{type(error).__name__}: {error}")


def _replace_and_append(homes: list[Path], number: int, start: Barrier, failures: Any) -> None:
    """One of the processes: writes the same day and the same sequence as the others."""
    for home in homes:
        lake = Lake(str(home))
        rows = pl.DataFrame({"day": [FIRST] * 3, "writer": [number] * 3})
        start.wait(60)
        try:
            lake.replace_days("raw/trips", rows, [FIRST], note={"run_id": f"run-{number}"})
            lake.append("raw/loans", pl.DataFrame({"id": [1, 2]}), note={}, app_id="ingest", sequence=2)
        except Exception as error:
            failures.put(f"{type(error).__name__}: {error}")


def at_once(work: Callable[..., None], *arguments: object) -> list[str]:
    """Runs the work in several processes, released together each round. Returns what failed."""
    context = multiprocessing.get_context("spawn")
    start, failures = context.Barrier(RUNS), context.Queue()
    processes = [context.Process(target=work, args=(*arguments, number, start, failures)) for number in range(RUNS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * RUNS
    failed = []
    while not failures.empty():
        failed.append(failures.get())
    return failed


def test_a_table_is_made_once_and_a_day_has_one_writers_rows(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(ROUNDS)]
    assert at_once(_replace_and_append, homes) == []
    for home in homes:
        lake = Lake(str(home))
        written = lake.scan("raw/trips").collect()
        assert (written.height, written["writer"].n_unique()) == (3, 1)
        assert lake.scan("raw/loans").collect()["id"].sort().to_list() == [1, 2]


def test_the_same_days_ingested_at_once_are_there_once_with_the_newest_files(tmp_path: Path) -> None:
    publish_flights(tmp_path / "published", first=DAYS[0], last=DAYS[-1])
    homes = [tmp_path / str(number) for number in range(ROUNDS)]
    expected = {}
    for home in homes:
        folder = Settings(home=home).landing / "flights"
        shutil.copytree(tmp_path / "published" / "flights", folder)
        corrected = folder / f"flights_{FIRST}_corrected.csv"
        original = gzip.decompress((folder / f"flights_{FIRST}.csv.gz").read_bytes())
        corrected.write_bytes(b"".join(original.splitlines(keepends=True)[:11]))
        os.utime(folder / f"flights_{FIRST}.csv.gz", (1_000_000_000, 1_000_000_000))
        expected[home] = {FIRST: 10} | {
            day: gzip.decompress((folder / f"flights_{day}.csv.gz").read_bytes()).count(b"\n") - 1 for day in DAYS[1:]
        }
    assert at_once(_ingest, "flights", homes) == []
    for home in homes:
        lake = Lake(Settings(home=home).lake)
        rows = lake.scan("raw/flights").group_by("day", "source_file").len().sort("day").collect()
        assert dict(rows.select("day", "len").iter_rows()) == expected[home]
        assert rows["source_file"].to_list()[0] == f"flights_{FIRST}_corrected.csv"
        noted = [file["day"] for commit in lake.history("raw/flights", 100) for file in json.loads(commit["files"])]
        assert set(noted) == {str(day) for day in DAYS}


def test_rows_of_a_database_read_at_once_are_there_once(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(2)]
    for home in homes:
        publish_loans(Settings(home=home).loans)
        with sqlite3.connect(Settings(home=home).landing / "loans.db") as connection:
            connection.execute("DELETE FROM applications WHERE loan_id > 300")
        connection.close()
    assert at_once(_ingest, "loans", homes) == []
    for home in homes:
        ids = Lake(Settings(home=home).lake).scan("raw/loans").collect()["loan_id"].sort().to_list()
        assert ids == list(range(1, 301))
