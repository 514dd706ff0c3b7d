"""Source → raw table, idempotent: the lake ends up holding the newest readable delivery of every day.

Ingesting compares what is delivered with what the lake holds, writes the difference, and looks again. So it does not
matter in which order files land, how often it runs, or how many run at once. What a good row is, is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta

from pilotage.data.appending import Appending
from pilotage.data.erased import forgets
from pilotage.data.ingested import IngestedFile, IngestReport, LandedFile, RejectedFile, SetAside
from pilotage.data.lake import Lake
from pilotage.data.readers import reader_for
from pilotage.data.readers.files import FilesReader, Misfit
from pilotage.data.readers.sql import SqlReader
from pilotage.data.reconciling import Reconciliation
from pilotage.data.source import SourceSpec
from pilotage.settings import Settings

__all__ = [
    "IngestReport",
    "IngestedFile",
    "LandedFile",
    "Misfit",
    "RejectedFile",
    "SetAside",
    "ingest",
    "landed",
    "unmatched",
]


def landed(spec: SourceSpec, settings: Settings) -> list[LandedFile]:
    """The files that have landed for a source, sorted by name, unopened. None for a source that has no files."""
    reader = reader_for(spec, settings)
    if not isinstance(reader, FilesReader):
        return []
    return [
        LandedFile(name=offer.name, day=offer.day, size=offer.size, modified_ns=offer.modified_ns)
        for offer in reader.listing()[0]
    ]


def unmatched(spec: SourceSpec, settings: Settings) -> list[Misfit]:
    """The files in the source's landing folder whose names fit no day of it, each with the reason and the fix."""
    reader = reader_for(spec, settings)
    return reader.listing()[1] if isinstance(reader, FilesReader) else []


def ingest(
    spec: SourceSpec,
    *,
    lake: Lake,
    settings: Settings,
    days: Sequence[date] | None,
    run_id: str,
    progress: Callable[[str], None] = lambda _sentence: None,
) -> IngestReport:
    """Brings ``raw/<source>`` up to what the source delivers, without the rows of who was erased.

    Args:
        days: Days to look at; ``None`` means all that are delivered. A source without days ignores it.
        run_id: Goes into the commit, beside the names and SHA-256s of the files.

    Returns:
        What was written and what was not. A file that can't be used is in ``rejected``; the others go on.

    Raises:
        SourceUnavailable: A server can't be reached or stopped half way; nothing of what was being read is written.
        SchemaChanged: The table of a database has other columns than the source declares.
        CommitConflict, StorageFull: As ``Lake`` says; nothing of that commit is written.
        ConfigError: The key by which the erased are recognised is not here.
    """
    reader, forget = reader_for(spec, settings), forgets(spec, lake=lake, settings=settings)
    if isinstance(reader, SqlReader):
        return Appending(spec=spec, reader=reader, lake=lake, run_id=run_id, forget=forget, progress=progress).run()
    asked = days if spec.daily else None
    done = Reconciliation(spec=spec, reader=reader, lake=lake, run_id=run_id, forget=forget, progress=progress).run(
        asked
    )
    misfits = [
        RejectedFile(name=misfit.name, day=None, reason=f"{misfit.name}: {misfit.reason}.", fix=misfit.fix)
        for misfit in unmatched(spec, settings)
    ]
    table = f"raw/{spec.name}"
    return IngestReport(
        source=spec.name,
        rows=sum(file.rows for file in done.files),
        days=sorted({file.day for file in done.files if file.day}),
        files=done.files,
        unchanged=done.unchanged,
        rejected=done.rejected + misfits,
        set_aside=done.set_aside,
        missing_days=_missing(asked, done.offered, lake.days(table)) if spec.daily else [],
        extra_columns=done.extra_columns,
        version=lake.version(table) if lake.exists(table) else None,
    )


def _missing(asked: Sequence[date] | None, offered: set[date], held: list[date]) -> list[date]:
    there = offered | set(held)
    if asked is None:
        first, last = min(offered, default=None), max(offered, default=None)
        if first is None or last is None:
            return []
        asked = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    return sorted(set(asked) - there)
