"""A small daily source and what its files look like, for the tests of ingestion."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.source import Daily, Files, SourceSpec
from pilotage.settings import Settings

MONDAY, TUESDAY, WEDNESDAY = date(2013, 1, 7), date(2013, 1, 8), date(2013, 1, 9)

HEADER = "day,carrier,delay,share,seen_at"
COLUMNS: dict[str, Any] = {
    "day": pl.String,
    "carrier": pl.String,
    "delay": pl.Int64,
    "share": pl.Float64,
    "seen_at": pl.Datetime("us", "UTC"),
}


def _prepare(raw: pl.LazyFrame) -> pl.LazyFrame:
    return raw.with_columns(day=pl.col("delivered_day").str.to_date(strict=False)).drop("delivered_day")


def _no_contract() -> Any:
    raise NotImplementedError("ingestion does not validate")


def source(**changes: Any) -> SourceSpec:
    """The source ``trips``: daily CSV files, unless something else is said."""
    declared: dict[str, Any] = {
        "name": "trips",
        "title": "Trips",
        "description": "Trips",
        "owner": "team:tests",
        "read": Files(
            pattern=r"trips_(?P<day>\d{4}-\d{2}-\d{2}).*\.csv(\.gz|\.zip)?", format="csv", null_values=("NA", "")
        ),
        "columns": COLUMNS,
        "prepare": _prepare,
        "contract": _no_contract,
        "key": ("carrier",),
        "daily": Daily(column="day", first=date(2013, 1, 1), last=date(2013, 12, 31)),
    }
    return SourceSpec(**(declared | changes))


def csv_of(day: date, *delays: object, header: str = HEADER) -> bytes:
    """A file of one row a delay."""
    rows = [f"{day},UA,{delay},0.5,{day}T10:00:00Z" for delay in delays]
    return "\n".join([header, *rows, ""]).encode()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zipped(data: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("inside.csv",):
            archive.writestr(name, data)
    return buffer.getvalue()


class Landing:
    """A landing folder with a clock of its own, so that no test waits for the disk's."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.lake = Lake(str(home / "lake"))
        self.folder = self.settings.landing / "trips"
        self.folder.mkdir(parents=True)
        self._seconds = 0

    def land(self, name: str, data: bytes) -> Path:
        """Lands a file that is newer than all before it."""
        self._seconds += 1
        path = self.folder / name
        path.write_bytes(data)
        landed_at = int(timedelta(days=15_000, seconds=self._seconds).total_seconds())
        os.utime(path, (landed_at, landed_at))
        return path

    def delays(self) -> dict[date, list[int | None]]:
        """What the lake holds: day → delays."""
        if not self.lake.exists("raw/trips"):
            return {}
        held = self.lake.scan("raw/trips").group_by("day").agg(pl.col("delay").sort()).sort("day").collect()
        return dict(held.iter_rows())
