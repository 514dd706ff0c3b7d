"""As-of features of a batch of rows in memory, a column at a time: per row, under half of what ``RowLookups`` takes.

All rows of a timeline have one order, by key and moment, as one integer each; so the look-ups of a whole batch are one
binary search. What is looked up, and every rule, is that of ``state.py``; a property test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from pilotage.features.asof import Lookup
from pilotage.features.columns import NULL, Column
from pilotage.features.state import Key, RowState, microseconds
from pilotage.spec import Latest

_LARGEST = 2**62
"""Of the integers that tell key and moment."""
_NOWHERE = (-1, -1)
_FIRST = itemgetter(0)


class TimelineArrays:
    """One timeline, sorted by key and moment. Never changes."""

    __slots__ = ("_known_at", "_moments", "_order", "_spans", "_start", "_unit", "_width", "columns")

    def __init__(
        self,
        spans: Mapping[Key, tuple[int, int]],
        starts: np.ndarray,
        known_at: np.ndarray,
        columns: Sequence[np.ndarray | list[Any]],
    ) -> None:
        """Works out the order once. Only by NumPy, beside which other threads run.

        Args:
            spans: Key → its first row and the row after its last, in the order of the rows.
            starts: Of each row, the first of its key.
            known_at: Microseconds since 1970 UTC, ascending in each span.
            columns: The payload: int64 (null is ``NULL``), float64 (null is NaN), or a list of anything.
        """
        self.columns = columns
        self._spans = spans
        self._known_at = known_at
        self._moments: np.ndarray | None = None
        """All in order, where ticks would not fit into an integer together with the rows."""
        self._start, end = (int(known_at.min()), int(known_at.max())) if len(known_at) else (0, 0)
        self._unit = int(np.gcd.reduce(known_at - self._start)) or 1
        """Microseconds of a tick; every moment is a whole number of them after the first."""
        self._width = (end - self._start) // self._unit + 2
        """Ticks that there are, and one before them."""
        if self._width * len(known_at) <= _LARGEST:
            ticks = self._ticks(known_at)
        else:
            # A tenth of the time of a search for each.
            in_order = np.argsort(known_at, kind="stable")
            ticks = np.empty_like(in_order)
            ticks[in_order] = np.arange(1, len(known_at) + 1)
            self._moments = known_at[in_order]
            self._width = len(known_at) + 1
        self._order = starts * self._width + ticks

    def first(self, keys: Sequence[Key]) -> np.ndarray:
        """The first row of each key; -1 for a key that is not there."""
        spans = map(self._spans.get, keys, repeat(_NOWHERE))
        return np.fromiter(map(_FIRST, spans), dtype=np.int64, count=len(keys))

    def find(self, first: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Positions of the newest row of each key that was known at a moment; -1 where there is none.

        Args:
            first: The first row of each key; shape (keys,).
            at: Microseconds since 1970 UTC; shape (…, keys).
        """
        positions: np.ndarray = self._order.searchsorted(first * self._width + self._ticks(at), "right") - 1
        # Rows before a key's first are another key's; all rows are after the place of a key that is not there.
        positions[positions < first] = -1
        return positions

    def age(self, positions: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Microseconds since each row became known; of position -1 something."""
        return at - self._known_at[positions] if len(self._known_at) else at

    def _ticks(self, at: np.ndarray) -> np.ndarray:
        """How many ticks, or moments, are not after each; from 0."""
        if self._moments is not None:
            known: np.ndarray = self._moments.searchsorted(at, "right")
            return known
        ticks = (at - self._start) // self._unit + 1
        # Twice as quick as np.clip.
        within: np.ndarray = np.minimum(np.maximum(ticks, 0), self._width - 1)
        return within


_Step = Callable[[TimelineArrays, np.ndarray, np.ndarray], list[Column]]
"""The columns of one look-up, from the positions at each of its moments (shape (moments, rows)), for rows' moments."""


class ColumnLookups:
    """``RowLookups`` for many rows."""

    def __init__(self, lookups: Sequence[Lookup], request: Mapping[str, pl.DataType]) -> None:
        """Works out once what to ask; arguments as for ``RowLookups``."""
        positions = {name: position for position, name in enumerate(request)}
        self._keys = {lookup.on: [positions[name] for name in lookup.on] for lookup in lookups}
        self._asked: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        """Timeline and key → the times before a row's moment at which look-ups ask, so that one search is enough."""
        self._steps: list[tuple[tuple[str, tuple[str, ...]], list[int], _Step]] = []
        for lookup in lookups:
            asked = self._asked.setdefault(where := (lookup.timeline.name, lookup.on), [])
            before = [microseconds(each) for each in lookup.before]
            asked += [each for each in before if each not in asked]
            self._steps.append((where, [asked.index(each) for each in before], _step(lookup)))
        types = [dtype for lookup in lookups for dtype in lookup.outputs.values()]
        self._flags = [slot for slot, dtype in enumerate(types) if dtype == pl.Boolean()]

    def answer(self, request: Sequence[Column], at: np.ndarray, state: RowState) -> list[Column] | None:
        """The as-of columns; ``None`` if the state does not hold all it needs in arrays.

        Args:
            request: The request columns as they are stored.
            at: The prediction moment of each row, microseconds since 1970 UTC; the state must reach back to all.
            state: Where to look.

        Raises:
            StateUnavailable: The state lacks a timeline.
        """
        keys: dict[tuple[str, ...], list[Key]] = {
            on: list(zip(*(request[place].values for place in places), strict=True))
            for on, places in self._keys.items()
        }
        found: dict[tuple[str, tuple[str, ...]], tuple[TimelineArrays, np.ndarray]] = {}
        for (name, on), before in self._asked.items():
            timeline = state.arrays(name)
            if timeline is None:
                return None
            found[name, on] = timeline, timeline.find(timeline.first(keys[on]), at - np.array(before)[:, None])
        columns: list[Column] = []
        for where, moments, step in self._steps:
            timeline, positions = found[where]
            columns += step(timeline, positions[moments], at)
        for slot in self._flags:
            columns[slot] = Column([None if value is None else bool(value) for value in columns[slot].values])
        return columns


def _step(lookup: Lookup) -> _Step:
    declared = lookup.declared
    if isinstance(declared, Latest):
        return _latest(None if declared.max_age is None else microseconds(declared.max_age))
    return _window(declared.aggregate)


def _latest(oldest: int | None) -> _Step:
    def step(timeline: TimelineArrays, positions: np.ndarray, at: np.ndarray) -> list[Column]:
        [newest] = positions
        if oldest is not None:
            newest[timeline.age(newest, at) > oldest] = -1
        nowhere = newest < 0
        return [_taken(column, newest, nowhere) for column in timeline.columns]

    return step


def _window(aggregate: Literal["count", "sum", "mean"]) -> _Step:
    def step(timeline: TimelineArrays, positions: np.ndarray, _: np.ndarray) -> list[Column]:
        nowhere = positions < 0
        counts, sums = (_between(column, positions, nowhere) for column in timeline.columns)
        if aggregate == "count":
            return [Column(counts)]
        if aggregate == "sum":
            # A sum may be the integer that stands for null.
            return [Column(sums.tolist())]
        # NumPy makes floats of both first, as ``state.py`` does.
        mean = np.full(len(counts), np.nan)
        return [Column(np.divide(sums, counts, out=mean, where=counts != 0))]

    return step


def _taken(column: np.ndarray | list[Any], positions: np.ndarray, nowhere: np.ndarray) -> Column:
    """Values at positions; null where there is nothing."""
    if isinstance(column, list):
        return Column([None if position < 0 else column[position] for position in positions.tolist()])
    if not len(column):
        return Column([None] * len(positions))
    taken = column[positions]
    taken[nowhere] = np.nan if column.dtype == np.float64 else NULL
    return Column(taken)


def _between(totals: np.ndarray | list[Any], positions: np.ndarray, nowhere: np.ndarray) -> np.ndarray:
    """What running totals grew by, from the second positions to the first; where there is nothing they are 0."""
    if not len(totals):
        return np.zeros(positions.shape[1], dtype=np.int64)
    taken = np.asarray(totals)[positions]
    taken[nowhere] = 0
    return cast(np.ndarray, taken[0] - taken[1])
