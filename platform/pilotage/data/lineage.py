"""What a table was made from, back to the files that were delivered: read from the notes of the lake's own commits.

A commit of ``features/…`` names the versions of the ``validated/…`` tables that it read, a commit of ``validated/…``
that of the ``raw/…`` table, and a raw row the file that delivered it. Tables are told as they were at the last commit:
of a day that was corrected after its features were built, and before others were, that is the corrected file. Delta
forgets commits in time; what it forgot is told, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.raw import SOURCE_FILE, SOURCE_SHA256
from pilotage.errors import UnpublishedData

DAY = "day"
_RAW_VERSION = "raw_version"
_VERSIONS = "versions"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that delivered rows."""

    name: str
    sha256: str | None
    rows: int
    """That the raw table has of it, of the days that were asked for."""
    first: date | None
    """First day of these rows; ``None`` for a table without days."""
    last: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A validated table, and what it was made from."""

    table: str
    version: int
    raw_table: str
    raw_version: int | None
    """``None`` if the lake does not know any more."""
    files: tuple[SourceFile, ...]
    """By day and name."""
    missing: str | None = None
    """Why there are no files, if there are none."""


def validated_versions(lake: Lake, table: str, version: int) -> dict[str, int] | None:
    """The validated tables that a features table was made from, at its last commit up to a version.

    Returns:
        ``validated/<source>`` → Delta version; ``None`` if the lake does not know any more.

    Raises:
        UnpublishedData: There is no such table.
    """
    note = _note(lake, table, version, _VERSIONS)
    return None if note is None else {name: int(number) for name, number in json.loads(note[_VERSIONS]).items()}


def origin(lake: Lake, table: str, version: int, *, last: date | None = None) -> Origin:
    """Where the rows of a validated table are from.

    Args:
        lake: The lake.
        table: ``validated/<source>``.
        version: Its Delta version.
        last: Leaves out days after it; nothing in a table without days.
    """
    raw = f"raw/{table.partition('/')[2]}"
    try:
        note = _note(lake, table, version, _RAW_VERSION)
        if note is None:
            return _lost(table, version, raw, None, f"the commits of {table} up to version {version} are forgotten")
        raw_version = int(note[_RAW_VERSION])
    except UnpublishedData as error:
        return _lost(table, version, raw, None, error.message)
    try:
        rows = lake.scan(raw, version=raw_version)
        files = _files(rows, last)
    except (UnpublishedData, OSError, pl.exceptions.PolarsError) as error:
        return _lost(table, version, raw, raw_version, f"{raw} version {raw_version} can't be read: {error}")
    return Origin(table=table, version=version, raw_table=raw, raw_version=raw_version, files=files)


def _files(rows: pl.LazyFrame, last: date | None) -> tuple[SourceFile, ...]:
    columns = rows.collect_schema()
    day = pl.col(DAY) if DAY in columns else pl.lit(None, pl.Date())
    if DAY in columns and last is not None:
        rows = rows.filter(pl.col(DAY) <= last)
    found = rows.group_by(SOURCE_FILE, SOURCE_SHA256).agg(
        pl.len().alias("rows"), day.min().alias("first"), day.max().alias("last")
    )
    return tuple(
        SourceFile(
            name=row[SOURCE_FILE], sha256=row[SOURCE_SHA256], rows=row["rows"], first=row["first"], last=row["last"]
        )
        for row in found.sort("first", SOURCE_FILE).collect().iter_rows(named=True)
    )


def _note(lake: Lake, table: str, version: int, key: str) -> Mapping[str, Any] | None:
    """The note of the last commit up to a version that has a key."""
    commits = lake.history(table, limit=lake.version(table) + 1)
    return next((commit for commit in commits if commit["version"] <= version and key in commit), None)


def _lost(table: str, version: int, raw: str, raw_version: int | None, why: str) -> Origin:
    return Origin(table=table, version=version, raw_table=raw, raw_version=raw_version, files=(), missing=why)
