"""Deliveries that add: the rows of a table above its cursor, a chunk a commit, each exactly once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.ingested import IngestedFile, IngestReport
from pilotage.data.lake import Lake
from pilotage.data.lake_commits import DAY
from pilotage.data.raw import commit_note, days_of, raw_rows
from pilotage.data.readers import Offer, Parcel, Reader, Rows
from pilotage.data.source import SourceSpec
from pilotage.errors import CommitConflict

OVERTAKEN = 20
"""Times in a row that another run may append the same rows first."""


def append_new(
    spec: SourceSpec, reader: Reader, *, lake: Lake, run_id: str, progress: Callable[[str], None]
) -> IngestReport:
    """Appends the rows above the highest cursor that the lake holds. The cursor is part of each commit, so that a run
    that stops between two chunks, or runs beside another, neither loses rows nor writes them twice."""
    table, app_id = f"raw/{spec.name}", f"ingest/{spec.name}"
    files: list[IngestedFile] = []
    extra: list[str] = []
    days: set[date] = set()
    overtaken = 0
    while True:
        position = lake.sequence(table, app_id)
        offers = reader.offers(None, position=position)
        if not offers:
            break
        offer, parcel = offers[0], reader.fetch(offers[0], position=position)
        rows = parcel.rows()
        raw = _raw(spec, offer, parcel, rows)
        file = IngestedFile(
            name=f"{offer.name} to {parcel.position}",
            sha256=parcel.sha256,
            day=None,
            rows=raw.height,
            unparsed=raw.filter(pl.col(UNPARSED).list.len() > 0).height,
        )
        try:
            commit = lake.append(
                table,
                raw,
                note=commit_note(spec, run_id, [file]),
                app_id=app_id,
                sequence=parcel.position or 0,
                after=position,
                by_day=spec.daily is not None,
            )
        except CommitConflict:
            overtaken += 1
            if overtaken >= OVERTAKEN:
                raise
            continue
        if commit.rows:
            files.append(file)
            days |= set(commit.days)
            extra += [change.column for change in rows.extra if change.column not in extra]
            progress(f"Added {raw.height:,} rows to {table}, up to {parcel.position}.")
    return IngestReport(
        source=spec.name,
        rows=sum(file.rows for file in files),
        days=sorted(days),
        files=files,
        unchanged=[],
        rejected=[],
        set_aside=[],
        missing_days=[],
        extra_columns=extra,
        version=lake.version(table) if lake.exists(table) else None,
    )


def _raw(spec: SourceSpec, offer: Offer, parcel: Parcel, rows: Rows) -> pl.DataFrame:
    raw = raw_rows(spec, rows.frame, name=f"{offer.name} to {parcel.position}", sha256=parcel.sha256, day=None)
    if spec.daily is None:
        return raw
    days = days_of(spec, raw.with_columns(pl.lit(None, pl.Date).alias(DAY)))
    # A row whose day can't be read goes with the last day of its chunk, where the contract quarantines it.
    return raw.with_columns(days.fill_null(days.max() or spec.daily.first).alias(DAY))
