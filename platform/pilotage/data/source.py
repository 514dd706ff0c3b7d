"""What a person declares of a dataset. Only declarations; ``ingest.py`` and ``validate.py`` carry them out."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import polars as pl
from pydantic import Field as Bounded
from pydantic import field_validator, model_validator

from pilotage.declaration import Declaration, DeclarationProblem, Finite, Name

if TYPE_CHECKING:
    import pandera.polars as pa

    MakesContract = Callable[[], pa.DataFrameSchema]
else:  # pydantic resolves annotations when a spec is made; pandera takes two seconds to load.
    MakesContract = Callable

Share = Annotated[float, Bounded(ge=0, le=1)]


class Files(Declaration):
    """Files that another system drops into ``<landing>/<source>/``, in any order, late, repeated or corrected."""

    pattern: str
    """Regular expression for the file's name; a group ``(?P<day>…)`` (``YYYY-MM-DD``) names the day it holds.
    Files that do not match are reported, not skipped in silence."""
    format: Literal["csv", "parquet", "ndjson"]
    """Also inside ``.gz`` or ``.zip`` (one member)."""
    separator: Annotated[str, Bounded(min_length=1, max_length=1)] = ","
    null_values: tuple[str, ...] = ("",)
    largest: Annotated[int, Bounded(ge=1)] = 1024**3
    """Bytes of a file, as it lies there and unpacked; a larger one is rejected. A few kilobytes can unpack to more than
    there is memory."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise DeclarationProblem(
                f"pattern {pattern!r} is no regular expression: {error}", fix="Correct it."
            ) from None
        return pattern


class SqlTable(Declaration):
    """A table of another system's database, read incrementally by a column that only grows."""

    url_setting: Name
    """Name of a database; ``PILOTAGE_DATABASES__<NAME>`` holds its SQLAlchemy URL. So no secret stands in code."""
    table: str
    """``table``, or ``schema.table``."""
    cursor: str
    """Column that only grows, such as an id; rows above the highest ingested value are new."""


class RestEndpoint(Declaration):
    """A paged JSON endpoint."""

    url: Annotated[str, Bounded(pattern=r"^https?://")]
    """``{day}`` in it is replaced by the day asked for."""
    records: str
    """Key of the list of records in a page."""
    next_page: str | None = None
    """Key of the next page's URL in a page; ``None`` or null in the page ends the reading."""
    attempts: Annotated[int, Bounded(ge=1, le=10)] = 4
    timeout: timedelta = timedelta(seconds=20)


class Daily(Declaration):
    """The source is partitioned by day of event time."""

    column: str
    """Date column of the validated rows."""
    first: date
    last: date | None = None
    """Last day there will ever be; ``None`` for a source that goes on."""

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise DeclarationProblem(f"the last day {self.last} is before the first, {self.first}", fix="Swap them.")
        return self

    @property
    def newest(self) -> date:
        """The last day that can have begun: ``last``, or what is tomorrow by UTC and today further east."""
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        return min(self.last or tomorrow, tomorrow)


class Expectation(Declaration):
    """A number that DuckDB computes for every batch (a day, or the whole table), and the band it must lie in."""

    name: Name
    sql: str
    """Aggregate over the batch's validated and quarantined-free rows, e.g. ``avg(cancelled::int)``."""
    low: Finite | None = None
    high: Finite | None = None
    learned: Annotated[float, Bounded(gt=0)] | None = None
    """Width of the band learned from earlier days: median ± ``learned`` robust standard deviations (1.4826 MAD)."""
    narrowest: Annotated[float, Bounded(ge=0)] = 0.0
    """Half width that a learned band has at least, in the unit of the number."""
    severity: Literal["block", "warn"]
    """``block`` keeps the batch from being published; ``warn`` only says so."""
    why: str

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.low is None and self.high is None and self.learned is None:
            raise DeclarationProblem("no bound is given, so it can't fail", fix="Give low, high or learned.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DeclarationProblem(f"no number is from {self.low:g} to {self.high:g}", fix="Swap low and high.")
        return self


class SourceSpec(Declaration):
    """A dataset: where it comes from, what a good row is, what a good day is."""

    name: Name
    title: str
    description: str
    owner: Annotated[str, Bounded(pattern=r"^(team:[a-z0-9_-]+|[^@\s]+@[^@\s]+)$")]
    read: Files | SqlTable | RestEndpoint
    columns: dict[str, pl.DataType]
    """Columns as they are delivered, with the types they are read as.

    In the raw table a delivered column called ``day``, ``source_file``, ``source_sha256`` or ``unparsed`` is named
    ``delivered_<name>``, since those are the platform's own."""
    optional: tuple[str, ...] = ()
    """Delivered columns that may be missing; they are then null."""
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame]
    """Rows of the raw table → typed rows, one for one: derives, never drops a row, never fails on a value."""
    contract: MakesContract
    """Makes the pandera schema of a prepared row. A function, so that pandera loads only where rows are checked."""
    key: Annotated[tuple[str, ...], Bounded(min_length=1)]
    """Columns of the prepared rows that are unique within a batch: a day, or the whole table.

    Days are not compared with each other. Where a key may come again on another day, as in a table that is read by the
    time of a change, name the day's column in it, and let features take the newest row."""
    tolerated: Share = 0.05
    """Share of rows in a batch that may break the contract and be quarantined before the batch is refused."""
    daily: Daily | None = None
    expected_every: timedelta | None = None
    """By the wall clock, how long until a new day (of a table: a new version) has to be there, lest an alert is raised;
    ``None`` for a source that is not live."""
    expectations: tuple[Expectation, ...] = ()

    @field_validator("columns", mode="before")
    @classmethod
    def _instances(cls, columns: Any) -> Any:
        return {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in dict(columns).items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.read, Files) and (self.daily is not None) != ("(?P<day>" in self.read.pattern):
            raise DeclarationProblem(
                "a daily source of files needs (?P<day>…) in read.pattern, and only a daily one", fix="Add or drop it."
            )
        if isinstance(self.read, RestEndpoint) and (self.daily is not None) != ("{day}" in self.read.url):
            raise DeclarationProblem(
                "a daily source of an endpoint needs {day} in read.url, and only a daily one", fix="Add or drop it."
            )
        if isinstance(self.read, SqlTable) and self.read.cursor not in self.columns:
            raise DeclarationProblem(
                f"read.cursor={self.read.cursor!r} is not among columns", fix=f"Use one of: {', '.join(self.columns)}."
            )
        if unknown := sorted(set(self.optional) - set(self.columns)):
            raise DeclarationProblem(f"optional names {unknown[0]}, which is not among columns", fix="Add or drop it.")
        names = [item.name for item in self.expectations]
        reserved = ("contract", "day", "passed", "unmet")
        if taken := sorted(name for name in names if names.count(name) > 1 or name in reserved):
            raise DeclarationProblem(f"the name {taken[0]} of an expectation is taken", fix="Rename it.")
        if self.daily is None and any(item.learned for item in self.expectations):
            raise DeclarationProblem(
                "an expectation learns from earlier days, and the source has none", fix="Give low or high, or daily=…."
            )
        return self
