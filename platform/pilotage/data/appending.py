"""Deliveries that add: the rows of a table above its cursor, a chunk a commit, each exactly once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.ingest_run import IngestRun
from pilotage.data.ingested import IngestedFile, IngestReport
from pilotage.data.lake_commits import DAY
from pilotage.data.raw import SOURCE_FILE, SOURCE_SHA256, commit_note, days_of, raw_name, raw_rows
from pilotage.data.readers import Parcel, Rows
from pilotage.data.readers.sql import SqlReader
from pilotage.data.source import SourceSpec
from pilotage.errors import CommitConflict

OVERTAKEN = 20
"""Times in a row that another run may append the same rows first."""

_ORIGIN = (SOURCE_FILE, SOURCE_SHA256, DAY)


@dataclass(slots=True, kw_only=True)
class Appending(IngestRun):
    """Appends the rows above the highest cursor that the lake holds. The cursor is part of each commit, so that a run
    that stops between two chunks, or runs beside another, neither loses rows nor writes them twice."""

    reader: SqlReader
    _files: list[IngestedFile] = field(init=False, default_factory=list)
    _days: set[date] = field(init=False, default_factory=set)
    _extra: list[str] = field(init=False, default_factory=list)

    @property
    def _app(self) -> str:
        return f"ingest/{self.spec.name}"

    def run(self) -> IngestReport:
        overtaken = 0
        while True:
            try:
                if not self._next():
                    return self._report()
                overtaken = 0
            except CommitConflict:
                overtaken += 1
                if overtaken >= OVERTAKEN:
                    raise

    def _next(self) -> bool:
        """Appends the next chunk, and before it the rows that came late below it. Whether there was a chunk."""
        position = self.lake.sequence(self.table, self._app)
        offers = self.reader.offers(None, position=position)
        # The chunk is read before the late rows: what is late beside the position is then seen before it is passed.
        parcel = self.reader.fetch(offers[0], position=position) if offers else None
        if position is not None:
            self._append_late(position)
        if parcel is None:
            return False
        rows = parcel.rows()
        name = f"{offers[0].name} to {parcel.position}"
        raw = self.forget(_raw(self.spec, rows.frame, name, parcel))
        self._append(raw, rows, name, parcel, app=self._app, sequence=parcel.position or 0, after=position)
        return True

    def _append_late(self, position: int) -> None:
        app = f"{self._app}/late"
        after = self.lake.sequence(self.table, app)
        parcel = self.reader.late(position)
        if parcel is None:
            return
        rows = parcel.rows()
        name = f"{self.reader.table}, late below {position}"
        cursor = pl.col(raw_name(self.reader.cursor)).cast(pl.Int64)
        last_second = (cursor > self.reader.before(position)) & (cursor <= position)
        raw = self.forget(_raw(self.spec, rows.frame, name, parcel)).filter(last_second)
        unknown = raw.filter(_unknown(raw, self.lake.scan(self.table).filter(last_second).collect()))
        if unknown.height:
            self._append(unknown, rows, name, parcel, app=app, sequence=(after or 0) + 1, after=after)

    def _append(
        self,
        raw: pl.DataFrame,
        rows: Rows,
        name: str,
        parcel: Parcel,
        *,
        app: str,
        sequence: int,
        after: int | None,
    ) -> None:
        unparsed = raw.filter(pl.col(UNPARSED).list.len() > 0).height
        file = IngestedFile(name=name, sha256=parcel.sha256, day=None, rows=raw.height, unparsed=unparsed)
        commit = self.lake.append(
            self.table,
            raw,
            note=commit_note(self.spec, self.run_id, [file]),
            app_id=app,
            sequence=sequence,
            after=after,
            by_day=self.spec.daily is not None,
            retypes=True,
        )
        if commit.rows:
            self._files.append(file)
            self._days |= set(commit.days)
            self._extra += [change.column for change in rows.extra if change.column not in self._extra]
            self.progress(f"Added {raw.height:,} rows to {self.table}, up to {parcel.position}.")

    def _report(self) -> IngestReport:
        return IngestReport(
            source=self.spec.name,
            rows=sum(file.rows for file in self._files),
            days=sorted(self._days),
            files=self._files,
            unchanged=[],
            rejected=[],
            set_aside=[],
            missing_days=[],
            extra_columns=self._extra,
            version=self.lake.version(self.table) if self.lake.exists(self.table) else None,
        )


def _unknown(raw: pl.DataFrame, held: pl.DataFrame) -> pl.Series:
    """Which rows are not among those held, by their content; of two alike, one held covers one.

    A column that was declared otherwise when the held ones were read says nothing.
    """
    alike = [column for column, dtype in raw.schema.items() if held.schema.get(column) == dtype]
    columns = [column for column in alike if column not in _ORIGIN]
    known = Counter(map(repr, held.select(columns).iter_rows()))
    unknown = []
    for row in map(repr, raw.select(columns).iter_rows()):
        unknown.append(known[row] == 0)
        known[row] -= known[row] > 0
    return pl.Series(unknown, dtype=pl.Boolean)


def _raw(spec: SourceSpec, rows: pl.DataFrame, name: str, parcel: Parcel) -> pl.DataFrame:
    raw = raw_rows(spec, rows, name=name, sha256=parcel.sha256, day=None)
    if spec.daily is None:
        return raw
    days = days_of(spec, raw.with_columns(pl.lit(None, pl.Date).alias(DAY)))
    first, last = spec.daily.first, spec.daily.last or date.max
    known = days.is_between(first, last)
    # A row whose day can't be read, or is none of the source's, goes with the last day of its chunk, where the contract
    # quarantines it. A day that has not begun is checked when it has.
    home = days.filter(days.is_between(first, spec.daily.newest)).max() or first
    return raw.with_columns(pl.when(known).then(days).otherwise(pl.lit(home)).alias(DAY))
