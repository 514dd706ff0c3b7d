"""The shape of a raw table: the delivered columns, and where each row came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.ingested import IngestedFile
from pilotage.data.lake_commits import DAY
from pilotage.data.source import SourceSpec
from pilotage.errors import DeclarationError

SOURCE_FILE, SOURCE_SHA256 = "source_file", "source_sha256"

_OURS = (DAY, UNPARSED, SOURCE_FILE, SOURCE_SHA256)


def raw_name(column: str) -> str:
    """What a delivered column is called in the raw table."""
    return f"delivered_{column}" if column in _OURS else column


def raw_rows(spec: SourceSpec, rows: pl.DataFrame, *, name: str, sha256: str, day: date | None) -> pl.DataFrame:
    """Delivered rows as the raw table holds them. Delivered columns with one of our names become ``delivered_…``.

    Args:
        rows: The declared columns, and ``unparsed``.
        day: The partition; ``None`` for a source without days, or where each row has its own.
    """
    taken = {column: raw_name(column) for column in spec.columns if column in _OURS}
    delivered = rows.rename(taken) if taken else rows
    origin = {SOURCE_FILE: pl.Series([name]), SOURCE_SHA256: pl.Series([sha256])}
    if day is not None:
        origin[DAY] = pl.Series([day])
    return delivered.hstack([value.new_from_index(0, rows.height).alias(key) for key, value in origin.items()])


def days_of(spec: SourceSpec, raw: pl.DataFrame) -> pl.Series:
    """The day that each raw row says it is of; null where it can't be read. Only for a daily source.

    Raises:
        DeclarationError: ``prepare`` of the source fails, or drops or adds rows.
    """
    if spec.daily is None:
        raise DeclarationError(f"SourceSpec({spec.name!r}) is not daily.", fix="Give daily=Daily(…).")
    try:
        days = spec.prepare(raw.lazy()).select(spec.daily.column).collect().to_series()
    except pl.exceptions.PolarsError as error:
        raise DeclarationError(
            f"SourceSpec({spec.name!r}): prepare fails on rows of {raw[SOURCE_FILE][0]}: {error}",
            fix="Make prepare read every value (strict=False), and leave judging to the contract.",
        ) from error
    if days.len() != raw.height or days.dtype != pl.Date:
        raise DeclarationError(
            f"SourceSpec({spec.name!r}): prepare makes {days.len()} values of {spec.daily.column} ({days.dtype}) "
            f"out of {raw.height} rows.",
            fix=f"Keep every row, and make {spec.daily.column} a pl.Date.",
        )
    return days


def commit_note(spec: SourceSpec, run_id: str, files: Sequence[IngestedFile]) -> dict[str, str]:
    """What the commit says of where its rows came from."""
    listed = [
        {"name": file.name, "sha256": file.sha256, "day": str(file.day) if file.day else None, "rows": file.rows}
        for file in files
    ]
    return {"pilotage": "ingest", "source": spec.name, "run_id": run_id, "files": json.dumps(listed)}
