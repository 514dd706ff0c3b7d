"""Ingesting a year of daily files against a bare Polars loop that does the same: read, concatenate, write one table.

Run it as ``python -m tests.bench.bench_ingest``. Each side runs in processes of its own, alternating; the best of
three counts, since other work on the machine only ever adds time.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import polars as pl

from assets.sources import load_sources
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.sample import publish_flights, publish_weather
from pilotage.settings import Settings

SOURCES = ("flights", "weather")
ROUNDS = 3


def bare(settings: Settings, target: Path) -> int:
    """What one would write without a platform: no hashes, no checks, no idempotence."""
    rows = 0
    for name in SOURCES:
        columns = load_sources()[name].columns
        plain = {column: dtype for column, dtype in columns.items() if not dtype.is_temporal()}
        files = sorted((settings.landing / name).iterdir())
        frame = pl.concat([pl.read_csv(file, schema_overrides=plain, null_values=["NA", ""]) for file in files])
        frame = frame.rename({"day": "day_of_month"}).with_columns(
            pl.col("time_hour").str.to_datetime("%+", time_unit="us", time_zone="UTC"),
            pl.date("year", "month", "day_of_month").alias("day"),
        )
        frame.write_delta(target / name, mode="error", delta_write_options={"partition_by": ["day"]})
        rows += frame.height
    return rows


def platform(settings: Settings, target: Path) -> int:
    lake = Lake(str(target))
    return sum(
        ingest(load_sources()[name], lake=lake, settings=settings, days=None, run_id="bench").rows for name in SOURCES
    )


def again(settings: Settings, target: Path) -> int:
    """A second ingest, of which everything is there already."""
    platform(settings, target)
    started = time.perf_counter()
    platform(settings, target)
    print(json.dumps({"again": time.perf_counter() - started}))
    return 0


def measure(side: str, home: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "tests.bench.bench_ingest", side, str(home), target]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    merged: dict[str, float] = {}
    for line in printed.splitlines():
        merged |= json.loads(line)
    return merged


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        landing = Settings(home=home).landing
        year = {"first": date(2013, 1, 1), "last": date(2013, 12, 31)}
        files = publish_flights(landing, **year) + publish_weather(landing, **year)
        sides: dict[str, list[dict[str, float]]] = {"bare": [], "platform": []}
        for _ in range(ROUNDS):
            for side, runs in sides.items():
                runs.append(measure(side, home))
        unchanged = measure("again", home)["again"]
    best = {side: {key: min(run[key] for run in runs) for key in runs[0]} for side, runs in sides.items()}
    print(f"{files} files, {best['platform']['rows']:,.0f} rows")
    for side, figures in best.items():
        print(
            f"{side:9} {figures['seconds']:6.2f} s  {figures['cpu_seconds']:6.2f} s CPU  {figures['megabytes']:6.0f} MB"
        )
    ratios = [best["platform"][key] / best["bare"][key] for key in ("seconds", "cpu_seconds", "megabytes")]
    print("ratio     {:6.2f}    {:6.2f}        {:6.2f}".format(*ratios))
    print(f"again     {unchanged:6.2f} s, nothing to do")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        started = time.perf_counter()
        rows = {"bare": bare, "platform": platform, "again": again}[sys.argv[1]](
            Settings(home=Path(sys.argv[2])), Path(sys.argv[3])
        )
        taken = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        print(json.dumps({"rows": rows, "seconds": taken, "cpu_seconds": cpu, "megabytes": peak}))
