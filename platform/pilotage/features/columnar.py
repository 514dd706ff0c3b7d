"""As-of features of a batch of rows in memory, a column at a time: per row, under half of what ``RowLookups`` takes.

All rows of a timeline have one order, by key and moment, as one integer each; so the look-ups of a whole batch are one
binary search. What is looked up, and every rule, is that of ``state.py``; a property test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import repeat
from typing import Any, Literal

import numpy as np
import polars as pl

from pilotage.features.asof import Lookup
from pilotage.features.columns import NULL, Column
from pilotage.features.spans import Span
from pilotage.features.state import RowState, microseconds
from pilotage.spec import Latest, Window

_LARGEST = 2**62
"""Of the integers that tell key and moment."""


class TimelineArrays:
    """One timeline, sorted by key and moment. Never changes."""

    __slots__ = ("_firsts", "_known_at", "_moments", "_order", "_scale", "columns")

    def __init__(
        self,
        spans: Mapping[Any, Span],
        starts: np.ndarray,
        known_at: np.ndarray,
        columns: Sequence[np.ndarray | list[Any]],
    ) -> None:
        """Works out the order once. Only by NumPy, beside which other threads run.

        Args:
            spans: Key → its span, in the order of the rows; see ``Spans.of``.
            starts: Of each row, the first of its key.
            known_at: Microseconds since 1970 UTC, ascending in each span.
            columns: The payload: int64 (null is ``NULL``), float64 (null is NaN), or a list of anything.
        """
        self.columns = columns
        self._firsts = {key: span[0] for key, span in spans.items()}
        self._known_at = known_at
        self._moments: np.ndarray | None = None
        """All in order, where ticks would not fit into an integer together with the rows."""
        start, end = (int(known_at.min()), int(known_at.max())) if len(known_at) else (0, 0)
        unit = int(np.gcd.reduce(known_at - start)) or 1
        width = (end - start) // unit + 2
        if width * len(known_at) <= _LARGEST:
            ticks = _ticks(known_at, start, unit, width)
        else:
            # A tenth of the time of a search for each.
            in_order = np.argsort(known_at, kind="stable")
            ticks = np.empty_like(in_order)
            ticks[in_order] = np.arange(1, len(known_at) + 1)
            self._moments = known_at[in_order]
            width = len(known_at) + 1
        self._scale = start, unit, width
        """The first moment; the microseconds of a tick, of which every moment is a whole number after it; and the
        ticks that there are, with one before them."""
        self._order = starts * width + ticks

    def first(self, keys: Sequence[Any]) -> np.ndarray:
        """The first row of each key, which is as ``Spans.kept`` gives it; -1 for a key that is not there."""
        return np.fromiter(map(self._firsts.get, keys, repeat(-1)), dtype=np.int64, count=len(keys))

    def age(self, positions: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Microseconds since each row became known; of position -1 something."""
        return at - self._known_at[positions] if len(self._known_at) else at

    @staticmethod
    def find(timelines: Sequence[TimelineArrays], first: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Positions of the newest row of each key that was known at a moment; -1 where there is none.

        All timelines at once but for the search itself: NumPy takes a microsecond for a call, however little it does.

        Args:
            timelines: One of them may be asked several times.
            first: The first row of each key; shape (timelines, keys).
            at: Microseconds since 1970 UTC; shape (timelines, keys).
        """
        start, unit, width = np.array([timeline._scale for timeline in timelines]).T[:, :, None]
        ticks = _ticks(at, start, unit, width)
        for place, timeline in enumerate(timelines):
            if timeline._moments is not None:
                ticks[place] = timeline._moments.searchsorted(at[place], "right")
        ticks += first * width
        positions = np.empty_like(ticks)
        for place, timeline in enumerate(timelines):
            positions[place] = timeline._order.searchsorted(ticks[place], "right")
        positions -= 1
        # Rows before a key's first are another key's; all rows are after the place of a key that is not there.
        positions[positions < first] = -1
        return positions


def _ticks(at: np.ndarray, start: Any, unit: Any, width: Any) -> np.ndarray:
    """How many ticks are not after each moment; from 0."""
    ticks = (at - start) // unit + 1
    # Twice as quick as np.clip.
    within: np.ndarray = np.minimum(np.maximum(ticks, 0), width - 1)
    return within


class ColumnLookups:
    """``RowLookups`` for many rows."""

    def __init__(self, lookups: Sequence[Lookup], request: Mapping[str, pl.DataType]) -> None:
        """Works out once what to ask; arguments as for ``RowLookups``."""
        slots = {name: slot for slot, name in enumerate(request)}
        self._keys = {lookup.on: [slots[name] for name in lookup.on] for lookup in lookups}
        self._timelines = list(dict.fromkeys((lookup.timeline.name, lookup.on) for lookup in lookups))
        asked = list(dict.fromkeys(ask for lookup in lookups for ask in _asks(lookup)))
        self._asked = [self._timelines.index(where) for where, _ in asked]
        """Which timeline is asked; windows of several lengths share what they ask."""
        self._before = np.array([before for _, before in asked])[:, None]
        """How long before a row's moment."""
        self._places = [[asked.index(ask) for ask in _asks(lookup)] for lookup in lookups]
        """Where the answers to each look-up's questions are."""
        self._declared = [lookup.declared for lookup in lookups]
        self._windows = [
            places for places, each in zip(self._places, self._declared, strict=True) if isinstance(each, Window)
        ]
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
        timelines: list[TimelineArrays] = []
        for name, _ in self._timelines:
            arrays = state.arrays(name)
            if arrays is None:
                return None
            timelines.append(arrays)
        keys: dict[tuple[str, ...], list[Any]] = {
            on: request[slots[0]].values
            if len(slots) == 1
            else list(zip(*(request[slot].values for slot in slots), strict=True))
            for on, slots in self._keys.items()
        }
        first = np.stack(
            [timeline.first(keys[on]) for timeline, (_, on) in zip(timelines, self._timelines, strict=True)]
        )
        asked = [timelines[place] for place in self._asked]
        found = TimelineArrays.find(asked, first[self._asked], at - self._before)
        windows = iter(zip(*_grown(asked, found, self._windows), strict=True) if self._windows else ())
        columns: list[Column] = []
        for declared, places in zip(self._declared, self._places, strict=True):
            if isinstance(declared, Latest):
                columns += _latest(asked[places[0]], found[places[0]], at, declared.max_age)
            else:
                columns.append(_aggregated(declared.aggregate, *next(windows)))
        for slot in self._flags:
            columns[slot] = Column([None if value is None else bool(value) for value in columns[slot].values])
        return columns


def _asks(lookup: Lookup) -> list[tuple[tuple[str, tuple[str, ...]], int]]:
    """What a look-up asks: timeline and key, and how long before the moment."""
    return [((lookup.timeline.name, lookup.on), microseconds(before)) for before in lookup.before]


def _latest(timeline: TimelineArrays, positions: np.ndarray, at: np.ndarray, max_age: timedelta | None) -> list[Column]:
    if max_age is not None:
        positions = np.where(timeline.age(positions, at) > microseconds(max_age), -1, positions)
    nowhere = positions < 0
    return [_taken(column, positions, nowhere) for column in timeline.columns]


def _taken(column: np.ndarray | list[Any], positions: np.ndarray, nowhere: np.ndarray) -> Column:
    """Values at positions; null where there is nothing."""
    if isinstance(column, list):
        return Column([None if position < 0 else column[position] for position in positions.tolist()])
    if not len(column):
        return Column([None] * len(positions))
    taken = column[positions]
    taken[nowhere] = np.nan if column.dtype == np.float64 else NULL
    return Column(taken)


def _grown(
    asked: Sequence[TimelineArrays], found: np.ndarray, windows: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how much the running counts and sums of windows grew, and the means; shape (windows, rows)."""
    positions = found[np.array(windows).T]
    nowhere = positions < 0
    counts, sums = (
        _between([np.asarray(asked[now].columns[part]) for now, _ in windows], positions, nowhere) for part in (0, 1)
    )
    # NumPy makes floats of both first, as ``state.py`` does.
    means = np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts != 0)
    return counts, sums, means


def _between(totals: Sequence[np.ndarray], positions: np.ndarray, nowhere: np.ndarray) -> np.ndarray:
    """What running totals grew by, from the second positions to the first; where there is nothing they are 0."""
    taken = np.zeros(positions.shape, dtype=np.int64)
    for window, column in enumerate(totals):
        if len(column):
            taken[:, window] = column[positions[:, window]]
    taken[nowhere] = 0
    grown: np.ndarray = taken[0] - taken[1]
    return grown


def _aggregated(
    aggregate: Literal["count", "sum", "mean"], counts: np.ndarray, sums: np.ndarray, means: np.ndarray
) -> Column:
    if aggregate == "mean":
        return Column(means)
    # A sum may be the integer that stands for null.
    return Column(counts) if aggregate == "count" else Column(sums.tolist())
