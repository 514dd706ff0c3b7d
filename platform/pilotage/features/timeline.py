"""Timelines: what a source said about each key, ordered by when it became known.

A timeline is a frame with columns ``k0…`` (the key), ``known_at`` (UTC) and ``p0…`` (the payload), sorted by them, with
one row per key and moment. Every as-of feature is one or two look-ups of the newest row at or before a moment, whether
in a frame (``asof.py``) or in the online store (``store.py``). Where rows come from and timelines go is not known here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import polars as pl
from polars.exceptions import PolarsError

from pilotage import expressions
from pilotage.errors import DataError, DeclarationError

KNOWN_AT = "known_at"
MOMENT = pl.Datetime("us", "UTC")
ALWAYS = datetime(1, 1, 1, tzinfo=UTC)
"""When reference data became known: before any prediction moment."""

_KEPT = (
    *(pl.Boolean(), pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.Float32(), pl.Float64(), pl.String()),
    *(pl.Date(), MOMENT),
)
STATE_TYPES: dict[str, pl.DataType] = {str(dtype): dtype for dtype in _KEPT}
"""The types that a payload column may have, by name: those that the lake and SQLite both keep exactly."""


def stored_type(dtype: pl.DataType) -> pl.DataType:
    """How a key or payload is kept in SQLite: integers (microseconds, days, 0 and 1), doubles or text."""
    if dtype.is_float():
        return pl.Float64()
    return pl.String() if dtype == pl.String() else pl.Int64()


@dataclass(frozen=True, kw_only=True)
class Timeline(ABC):
    """What a timeline is made of. Two declarations that need the same facts share one."""

    source: str
    keys: tuple[tuple[str, pl.DataType], ...]
    """Source columns of the key, with the types of the request columns that they are matched with."""
    known_at: str | None
    """Source column (UTC); ``None`` for reference data, which always was known."""

    @cached_property
    def name(self) -> str:
        """Names its content: the same in every process and for every spec that needs the same facts."""
        keys = [(column, str(dtype)) for column, dtype in self.keys]
        text = json.dumps([self.source, keys, self.known_at, self._content()])
        return f"{self.source}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @cached_property
    def key_names(self) -> list[str]:
        return [f"k{i}" for i in range(len(self.keys))]

    @cached_property
    def columns(self) -> set[str]:
        """Source columns that it reads."""
        known_at = set() if self.known_at is None else {self.known_at}
        return {name for name, _ in self.keys} | known_at | self._reads()

    @property
    @abstractmethod
    def payload(self) -> dict[str, pl.DataType]:
        """Payload columns with their types."""

    @abstractmethod
    def _content(self) -> object:
        """Everything, beyond source, key and ``known_at``, that the payload depends on; goes into JSON."""

    @abstractmethod
    def _reads(self) -> set[str]:
        """Source columns that the payload reads."""

    @abstractmethod
    def _facts(self, rows: pl.LazyFrame, named: list[pl.Expr]) -> pl.LazyFrame:
        """Selects key, ``known_at`` and payload of the rows that count, one row per fact."""

    @abstractmethod
    def _moments(self, facts: pl.LazyFrame) -> pl.LazyFrame:
        """Makes facts one row per key and moment, sorted."""

    def check(self, schema: pl.Schema) -> None:
        """Raises ``DataError`` if the source's rows lack a column, or don't say in UTC when they became known."""
        if missing := sorted(self.columns - set(schema)):
            raise DataError(
                f"Source {self.source} has no column {missing[0]}, which an as-of feature reads.",
                fix=f"Correct the declaration, or publish the column. There is: {', '.join(schema)}.",
                source=self.source,
                columns=missing,
            )
        if self.known_at is not None and schema[self.known_at] != MOMENT:
            raise DataError(
                f"{self.source}.{self.known_at} is {schema[self.known_at]}, not {MOMENT}.",
                fix="Convert it to UTC microseconds in the source's prepare.",
                source=self.source,
            )

    def build(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Makes the timeline of some rows of its source; their order does not matter.

        A row with a null in its key or without a ``known_at`` is no fact about anything, and is left out.

        Raises:
            DataError: A column is missing, or has a type that does not fit.
            DeclarationError: A window's value is no integer or boolean.
        """
        return self._collected(rows.lazy(), self._moments)

    def newest(self, rows: pl.LazyFrame, *, by: datetime) -> datetime | None:
        """When the newest fact became known, of those known by a moment (UTC); ``None`` if there is none.

        A row that does not count, such as one whose value is not there yet, is no fact. Raises as ``build`` does.
        """
        known = pl.col(KNOWN_AT)
        found = self._collected(rows, lambda facts: facts.select(known.filter(known <= by).max())).item()
        return found if isinstance(found, datetime) else None

    def _collected(self, rows: pl.LazyFrame, made: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """What is made of the facts that some rows tell."""
        self.check(rows.collect_schema())
        known_at = pl.lit(ALWAYS, MOMENT) if self.known_at is None else pl.col(self.known_at)
        keys = [pl.col(column).cast(dtype).alias(f"k{i}") for i, (column, dtype) in enumerate(self.keys)]
        try:
            facts = self._facts(rows, [*keys, known_at.alias(KNOWN_AT)])
            return made(facts.drop_nulls([*self.key_names, KNOWN_AT])).collect()
        except PolarsError as error:
            raise DataError(
                f"The as-of features of source {self.source} can't be computed: {error}.",
                fix="Correct the declared types and expressions, or the source.",
                source=self.source,
            ) from error


@dataclass(frozen=True, kw_only=True)
class Newest(Timeline):
    """Timeline of ``Latest``: the payload is the declared columns."""

    values: tuple[tuple[str, pl.DataType], ...]
    """Source columns with the types they are read as."""

    @property
    def payload(self) -> dict[str, pl.DataType]:
        return {f"p{i}": dtype for i, (_, dtype) in enumerate(self.values)}

    def _content(self) -> object:
        return [(name, str(dtype)) for name, dtype in self.values]

    def _reads(self) -> set[str]:
        return {name for name, _ in self.values}

    def _facts(self, rows: pl.LazyFrame, named: list[pl.Expr]) -> pl.LazyFrame:
        return rows.select(*named, *(_exact(name, dtype).alias(f"p{i}") for i, (name, dtype) in enumerate(self.values)))

    def _moments(self, facts: pl.LazyFrame) -> pl.LazyFrame:
        named = [*self.key_names, KNOWN_AT]
        # Of several rows known at the same moment the one with the greatest payload wins: any rule would do, as long as
        # it does not depend on the order in which rows were read.
        return facts.sort(*named, *self.payload).unique(named, keep="last", maintain_order=True)


@dataclass(frozen=True, kw_only=True)
class Totals(Timeline):
    """Timeline of ``Window``: the payload is the running count and the running sum, per key.

    The aggregate over a window is the difference of two look-ups. Sums are Int64, so the difference is exact, whatever
    was read before the window began.
    """

    value: str | None
    """Serialised integer or boolean expression; rows where it is null don't count. ``None`` counts rows."""
    where: str | None
    """Serialised expression; only rows for which it holds count."""

    @property
    def payload(self) -> dict[str, pl.DataType]:
        return {"p0": pl.Int64(), "p1": pl.Int64()}

    def _content(self) -> object:
        return {"value": self.value, "where": self.where}

    def _reads(self) -> set[str]:
        return {
            column for text in (self.value, self.where) if text for column in expressions.columns_of(self._read(text))
        }

    def _read(self, text: str) -> pl.Expr:
        return expressions.from_json(text, name=f"a window over {self.source}")

    def build(self, rows: pl.DataFrame) -> pl.DataFrame:
        """See above; and raises ``DataError`` if a running sum is beyond 64 bits, whose differences would be wrong."""
        built = super().build(rows)
        if built.get_column("p1").null_count():
            raise DataError(
                f"The running sums of a window over {self.source} are beyond 64 bits.",
                fix="Give smaller values, such as seconds instead of nanoseconds.",
                source=self.source,
            )
        return built

    def _facts(self, rows: pl.LazyFrame, named: list[pl.Expr]) -> pl.LazyFrame:
        if self.where is not None:
            rows = rows.filter(self._read(self.where))
        if self.value is None:
            return rows.select(*named, pl.lit(1, pl.Int64).alias("value"))
        value = self._read(self.value)
        dtype = rows.select(value.alias("value")).collect_schema()["value"]
        if not (dtype.is_integer() or dtype == pl.Boolean()):
            raise DeclarationError(
                f"A window over {self.source} has value={value} of type {dtype}, whose sums are not exact.",
                fix="Give an integer or boolean value, such as cents instead of dollars.",
                source=self.source,
            )
        return rows.select(*named, value.cast(pl.Int64).alias("value")).drop_nulls("value")

    def _moments(self, facts: pl.LazyFrame) -> pl.LazyFrame:
        named = [*self.key_names, KNOWN_AT]
        sums = facts.group_by(named).agg(p0=pl.len().cast(pl.Int64), p1=pl.col("value").cast(pl.Int128).sum())
        running = pl.col("p0", "p1").cum_sum().over(self.key_names).cast(pl.Int64, strict=False)
        return sums.sort(named).with_columns(running)


def _exact(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column without the values that compare equal and differ in bits, or that SQLite can't hold: NaN and -0.0."""
    column = pl.col(name).cast(dtype)
    if not dtype.is_float():
        return column
    return pl.when(column == 0).then(pl.lit(0.0, dtype)).otherwise(column.fill_nan(None))
