"""An online store in memory: every timeline as sorted arrays, so that a look-up takes a microsecond and no disk.

A loaded store never changes. When the file is replaced, the new one is loaded beside it, by a thread that can wait
(``runtime/state.py``): rows come in small portions, between which other threads run.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.features.columnar import TimelineArrays
from pilotage.features.columns import NULL
from pilotage.features.compiled_lookups import NO_INTEGER, RowFunction
from pilotage.features.spans import Spans
from pilotage.features.state import Column, Hit, Key, Query, RowLookups, microseconds
from pilotage.features.store import StoreMeta, damaged, no_timeline, open_checked, require_reach

_PORTION = 512
"""Rows between which other threads get their turn: about 0.2 ms of work."""


class _Integers:
    """Integers of which some are null, eight bytes each."""

    def __init__(self, values: array[int]) -> None:
        self.values = values

    def __getitem__(self, position: int) -> int | None:
        value = self.values[position]
        return None if value == NULL else value


class _Floats:
    """Doubles of which some are null, eight bytes each. No store holds a NaN, so it stands for null."""

    def __init__(self, values: array[float]) -> None:
        self.values = values

    def __getitem__(self, position: int) -> float | None:
        value = self.values[position]
        return value if value == value else None  # noqa: PLR0124 - the quickest way to tell a NaN


class MemoryTimeline:
    """One timeline: spans of rows by key, and in each span rows by the moment when they became known."""

    __slots__ = ("arrays", "columns", "known_at", "spans")

    def __init__(
        self, spans: Spans, starts: array[int], known_at: array[int], columns: Sequence[array[Any] | list[Any]]
    ) -> None:
        self.spans = spans
        self.known_at = known_at
        """Microseconds since 1970 UTC."""
        self.columns = tuple(map(_column, columns))
        held = [values if isinstance(values, list) else np.asarray(values) for values in columns]
        self.arrays = TimelineArrays(spans.of, np.asarray(starts), np.asarray(known_at), held)
        """The same rows, for batches; the values are not copied."""

    def find(self, key: Key, at: int) -> int:
        """Position of the newest row of a key that was known at a moment; -1 if there is none."""
        span = self.spans.of.get(self.spans.kept(key))
        if span is None:
            return -1
        first = span[0]
        position = bisect_right(self.known_at, at, first, span[1]) - 1
        return position if position >= first else -1

    def direct(self, slot: int, *, floats: bool | None) -> tuple[Column, int]:
        """A payload column that is read without a call of Python, if its type is the expected one.

        Args:
            slot: Which column.
            floats: Whether the reader takes NaN for null; ``None`` if it takes nothing for null.

        Returns:
            The column, and the integer in it that stands for null.
        """
        column = self.columns[slot]
        if floats is True and isinstance(column, _Floats):
            return column.values, NO_INTEGER
        if floats is False and isinstance(column, _Integers):
            return column.values, NULL
        return column, NO_INTEGER

    def hit(self, key: Key, at: int) -> Hit | None:
        """That row."""
        position = self.find(key, at)
        return None if position < 0 else (self.known_at[position], *[column[position] for column in self.columns])


class MemoryStore:
    """A whole store. Safe to share between threads."""

    def __init__(self, meta: StoreMeta, timelines: dict[str, MemoryTimeline]) -> None:
        self.meta = meta
        self.timelines = timelines
        self.bound: dict[RowLookups, RowFunction] = {}
        """See ``RowState``."""
        self._answers_from = None if meta.answers_from is None else microseconds(meta.answers_from)

    @classmethod
    def load(cls, path: Path) -> MemoryStore:
        """Reads a store.

        Raises:
            StateUnavailable: There is no such file, or it is no online store.
        """
        connection, meta = open_checked(path)
        try:
            timelines = {}
            for name, rows in meta.timelines.items():
                timelines[name] = _load(connection, name, *meta.columns[name])
                if len(timelines[name].known_at) != rows:
                    raise ValueError(f"{name} has {len(timelines[name].known_at)} rows, not {rows}")
        except (sqlite3.Error, ValueError, TypeError, LookupError, OverflowError) as error:
            raise damaged(path, error) from error
        finally:
            connection.close()
        return cls(meta, timelines)

    def lookups(self, queries: Sequence[Query], *, earliest: int) -> list[Hit | None]:
        """See ``StateLookup``. Raises ``StateUnavailable`` if it lacks a timeline, or does not reach back so far."""
        self.require(earliest)
        return [self.timeline(name).hit(key, at) for name, key, at in queries]

    def timeline(self, name: str) -> MemoryTimeline:
        """Raises ``StateUnavailable`` if there is none of the name."""
        found = self.timelines.get(name)
        if found is None:
            raise no_timeline(self.meta, name)
        return found

    def searched(self, name: str) -> MemoryTimeline:
        """See ``RowState``."""
        return self.timeline(name)

    def arrays(self, name: str) -> TimelineArrays:
        """See ``RowState``."""
        return self.timeline(name).arrays

    def require(self, earliest: int) -> None:
        """Raises ``StateUnavailable`` if it does not reach back to a moment."""
        if self._answers_from is not None and earliest < self._answers_from:
            require_reach(self.meta, earliest)


def _load(connection: sqlite3.Connection, name: str, keys: int, payload: int) -> MemoryTimeline:
    columns = [*(f"k{i}" for i in range(keys)), "known_at", *(f"p{i}" for i in range(payload))]
    order = ", ".join(columns[: keys + 1])
    # The name is one that the file's own list of tables has; SQLite takes no parameter for a table.
    cursor = connection.execute(f'SELECT {", ".join(columns)} FROM "{name}" ORDER BY {order}')  # noqa: S608
    known_at, starts = array("q"), array("q")
    held = [_Growing() for _ in range(payload)]
    spans = Spans(keys)
    first, row, last = 0, 0, None
    while rows := cursor.fetchmany(_PORTION):
        parts = list(zip(*rows, strict=True))
        known_at.extend(parts[keys])
        for key, group in groupby(parts[0] if keys == 1 else zip(*parts[:keys], strict=True)):
            if key != last:
                if row:
                    spans.add(last, first, row, known_at)
                first, last = row, key
            count = sum(1 for _ in group)
            row += count
            starts.extend(repeat(first, count))
        for column, values in zip(held, parts[keys + 1 :], strict=True):
            column.extend(values)
    if row:
        spans.add(last, first, row, known_at)
    return MemoryTimeline(spans, starts, known_at, [column.values for column in held])


class _Growing:
    """A column while it is read: an array as long as the values allow one, a list otherwise."""

    def __init__(self) -> None:
        self.values: array[Any] | list[Any] = []
        self._kind: str | None = None
        """``q`` or ``d`` for an array, ``list``, or ``None`` while there were only nulls."""
        self._same: dict[Any, Any] = {}

    def extend(self, values: Sequence[Any]) -> None:
        kinds = set(map(type, values))
        nulls = type(None) in kinds
        kinds.discard(type(None))
        kind = {frozenset({int}): "q", frozenset({float}): "d", frozenset(): None}.get(frozenset(kinds), "list")
        if kind == "q" and NULL in values:
            kind = "list"
        if self._kind is None and kind in ("q", "d"):
            blank = NULL if kind == "q" else float("nan")
            self.values, self._kind = array(kind, [blank] * len(self.values)), kind
        elif kind is not None and kind != self._kind:
            self.values, self._kind = self._plain(), "list"
        if self._kind in ("q", "d"):
            blank = NULL if self._kind == "q" else float("nan")
            self.values.extend([blank if value is None else value for value in values] if nulls else values)
        elif self._kind == "list":
            # Texts repeat: each is kept once.
            self.values.extend([self._same.setdefault((type(value), value), value) for value in values])
        else:
            self.values.extend(values)

    def _plain(self) -> list[Any]:
        column = _column(self.values)
        return [column[position] for position in range(len(self.values))]


def _column(values: array[Any] | list[Any]) -> Column:
    """Values with their nulls; as they are if they have none."""
    if isinstance(values, list):
        return values
    held = np.asarray(values)
    if values.typecode == "q":
        return _Integers(values) if (held == NULL).any() else values
    return _Floats(values) if np.isnan(held).any() else values
