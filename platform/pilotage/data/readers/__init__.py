"""Ways to get at a source's data: landed files, SQL tables, REST endpoints, behind one protocol.

A reader lists what is there (``offers``), fetches one of them whole (``fetch``), and only then reads its rows. It
writes nothing and keeps nothing; what has been ingested already is ``ingest.py``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Protocol

import polars as pl

from pilotage.data.schema_changes import SchemaChange
from pilotage.errors import DeclarationError

if TYPE_CHECKING:
    from pilotage.data.source import SourceSpec
    from pilotage.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that can be fetched: a file, a day of an endpoint, the next rows of a table."""

    name: str
    """File name, URL without secrets, or table. It goes into ``source_file`` of the rows."""
    day: date | None
    """The day that it holds, for a daily source whose parcels hold one."""
    modified_ns: int = 0
    """When it was last modified, nanoseconds since 1970; of two for the same day the newer one counts."""
    size: int = 0
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows as declared."""

    frame: pl.DataFrame
    """The source's columns, and ``unparsed``."""
    extra: tuple[SchemaChange, ...] = ()
    """Columns that came along and are ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What was fetched, whole, before its rows are read."""

    sha256: str
    """Of the bytes as they were delivered."""
    rows: Callable[[], Rows] = field(repr=False)
    """Raises ``UnreadableFile`` or ``SchemaChanged``."""
    position: int | None = None
    """The cursor after this parcel, for a reader that adds."""


class Reader(Protocol):
    """One way to get at a source's data. A parcel replaces its day, or the whole table; those of ``SqlReader`` add."""

    def offers(self, days: Sequence[date] | None, *, position: int | None) -> list[Offer]:
        """What is there for these days (``None``: all), beyond ``position`` for a reader that adds.

        Raises:
            SourceUnavailable: The source can't be reached.
        """
        ...

    def fetch(self, offer: Offer, *, position: int | None) -> Parcel:
        """Fetches one of them whole.

        Raises:
            SourceUnavailable: The source can't be reached, or stopped half way.
            UnreadableFile: It is gone, or can't be read as what it says it is.
        """
        ...


def reader_for(spec: SourceSpec, settings: Settings) -> Reader:
    """The reader that ``spec.read`` asks for.

    Raises:
        DeclarationError: ``read.url_setting`` names no setting.
    """
    from pilotage.data.readers.files import FilesReader
    from pilotage.data.readers.rest import RestReader
    from pilotage.data.readers.sql import SqlReader
    from pilotage.data.source import Files, SqlTable

    if isinstance(spec.read, Files):
        return FilesReader(spec, spec.read, settings.landing / spec.name)
    if isinstance(spec.read, SqlTable):
        url = settings.database(spec.read.url_setting)
        if url is None:
            raise DeclarationError(
                f"SourceSpec({spec.name!r}): there is no setting {spec.read.url_setting} that holds a database URL.",
                fix=f"Set PILOTAGE_DATABASES__{spec.read.url_setting.upper()}=dialect://user:password@host/database.",
            )
        return SqlReader(spec, spec.read, url)
    return RestReader(spec, spec.read)
