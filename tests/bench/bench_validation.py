"""Validation of the flights at 1, 4 and 16 times the year: ``python -m tests.bench.bench_validation [years …]``.

Each size runs in a process of its own. Printed: rows a second, how the time grows against the rows, and peak memory.
The libraries are loaded before the clock starts; loading them is printed apart, since it doesn't grow.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from assets.sources.flights import SOURCE
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.sample import publish_flights
from pilotage.data.validate import validate
from pilotage.settings import Settings

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)
YEAR = 364
"""Days by which a copy is moved: whole weeks, so that its Saturdays stay Saturdays."""


def ingested(home: Path) -> pl.DataFrame:
    """The raw year, read from its 365 files."""
    settings = Settings(home=home)
    publish_flights(settings.landing, first=FIRST, last=LAST)
    lake = Lake(settings.lake)
    ingest(SOURCE, lake=lake, settings=settings, days=None, run_id="bench")
    return lake.scan("raw/flights").filter(pl.col("day") < LAST).collect()


def moved(raw: pl.DataFrame, years: int) -> pl.DataFrame:
    """The year again, as if it had been so many years later."""
    offset = pl.duration(days=YEAR * years)
    day = pl.col("day") + offset
    return raw.with_columns(
        day,
        pl.col("time_hour") + offset,
        year=day.dt.year().cast(pl.Int64),
        month=day.dt.month().cast(pl.Int64),
        delivered_day=day.dt.day().cast(pl.Int64),
    )


def measure(years: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        raw = ingested(home)
        lake = Lake(str(home / "bench"))
        for number in range(years):
            copy = moved(raw, number)
            lake.replace_days("raw/flights", copy, copy["day"].unique().to_list(), note={})
        del raw, copy
        started = time.perf_counter()
        import great_expectations.expectations  # noqa: F401
        import pandera.polars  # noqa: F401

        loading = time.perf_counter() - started
        days = [FIRST + timedelta(days=number) for number in range(YEAR * years)]
        started = time.perf_counter()
        cpu = time.process_time()
        report = validate(SOURCE, lake=lake, reports=home / "reports", days=days, run_id="bench")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{years} {report.rows_in} {report.rows_published} {seconds:.3f} {cpu:.3f} {peak:.0f} {loading:.3f}")


def main(sizes: list[int]) -> None:
    first: tuple[int, float] | None = None
    for years in sizes:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.bench_validation", "--measure", str(years)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        _, rows, published, seconds, cpu, peak, loading = (float(word) for word in done.stdout.split())
        first = first or (int(rows), seconds)
        growth = (seconds / first[1]) / (rows / first[0])
        print(
            f"{years:>3} x the year: {rows:>10,.0f} rows, {published:>10,.0f} published, {seconds:6.1f} s "
            f"({cpu:.1f} s of CPU), {rows / seconds:>9,.0f} rows/s, {growth:.2f} x the time a row, {peak:>6,.0f} MB; "
            f"loading the libraries {loading:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(int(sys.argv[2]))
    else:
        main([int(size) for size in sys.argv[1:]] or [1, 4, 16])
