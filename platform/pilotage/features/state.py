"""As-of features of one or a few rows, looked up in state: plain Python, which for one row is cheaper than any join.

Does what ``asof.attach`` does for many rows. What keeps the state, and how fresh it is, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from pilotage.features.asof import Lookup
from pilotage.features.compiled_lookups import CompiledLookups, RowFunction, SearchedTimeline
from pilotage.features.timeline import stored_type
from pilotage.spec import Latest

if TYPE_CHECKING:
    from pilotage.features.columnar import TimelineArrays

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Key = tuple[int | str, ...]
Query = tuple[str, Key, int]
"""A timeline's name, a key, and a moment in microseconds since 1970 UTC."""
Hit = tuple[Any, ...]
"""``known_at`` in microseconds since 1970 UTC, then the payload as stored."""


class Column(Protocol):
    """Payload of one column, by a row's position."""

    def __getitem__(self, position: int, /) -> Any: ...


class RowTimeline(Protocol):
    """One timeline, whose rows have positions."""

    @property
    def known_at(self) -> Column: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...

    def find(self, key: Key, at: int) -> int:
        """Position of the newest row of a key that was known at a moment; -1 if there is none."""


class RowState(Protocol):
    """Where one row is looked up: ``MemoryStore``, or ``OnlineStore`` where a store is too large for memory."""

    @property
    def bound(self) -> dict[RowLookups, RowFunction]:
        """What was made of ``searched`` timelines, kept for as long as the state is."""

    def require(self, earliest: int) -> None:
        """Raises ``StateUnavailable`` if it does not reach back to a moment."""

    def searched(self, name: str) -> SearchedTimeline | None:
        """A timeline in memory, or ``None`` if it is not. Raises ``StateUnavailable`` if there is none."""

    def timeline(self, name: str) -> RowTimeline:
        """Raises ``StateUnavailable`` if there is none of the name."""

    def arrays(self, name: str) -> TimelineArrays | None:
        """A timeline for batches, or ``None`` if it is not in memory. Raises ``StateUnavailable`` if there is none."""


class StateLookup(Protocol):
    """Where serving looks up state: ``OnlineStore``, ``MemoryStore``, or a fake."""

    def lookups(self, queries: Sequence[Query], *, earliest: int) -> list[Hit | None]:
        """Answers each query with the newest row at or before its moment, all from one state.

        Args:
            queries: What to look up.
            earliest: The earliest prediction moment among them, in microseconds; state that does not reach back so far
                must refuse rather than answer with less than was known.
        """


def microseconds(time: datetime | timedelta) -> int:
    """Microseconds (of a moment: since 1970 UTC), exactly."""
    return (time if isinstance(time, timedelta) else time - EPOCH) // timedelta(microseconds=1)


def answer(requests: pl.DataFrame, moments: pl.Series, lookups: Sequence[Lookup], state: StateLookup) -> pl.DataFrame:
    """The as-of columns of a few rows.

    Args:
        requests: One row per thing to predict, with the request columns.
        moments: The prediction moment of each row (UTC).
        lookups: What to look up.
        state: Where.
    """
    at: list[int] = moments.cast(pl.Int64).to_list()
    values = {name: _stored(requests, name) for name in {name for lookup in lookups for name in lookup.on}}
    asked = [_queries(lookup, values, at) for lookup in lookups]
    # Windows of several lengths share look-ups, and so do rows with the same key and moment: ask each once.
    queries = list({query: None for each in asked for column in each for query in column if query is not None})
    found: dict[Query | None, Hit | None] = {None: None}
    if queries:
        found.update(zip(queries, state.lookups(queries, earliest=min(at)), strict=True))
    columns: list[list[Any]] = []
    for lookup, each in zip(lookups, asked, strict=True):
        columns.extend(_answers(lookup, at, [[found[query] for query in column] for column in each]))
    types = {name: dtype for lookup in lookups for name, dtype in lookup.outputs.items()}
    stored = {name: stored_type(dtype) for name, dtype in types.items()}
    # By rows: for one row Polars builds a frame four times as fast as by columns.
    frame = pl.DataFrame(list(zip(*columns, strict=True)), schema=stored, orient="row")
    return frame.cast({name: dtype for name, dtype in types.items() if dtype != stored[name]})


class RowLookups:
    """``answer`` for one row in memory: the same rules, without a frame."""

    def __init__(self, lookups: Sequence[Lookup], request: Mapping[str, pl.DataType]) -> None:
        """Works out once what to ask.

        Args:
            lookups: What to look up.
            request: Request columns with their types, in the order in which a row's values come.
        """
        positions = {name: position for position, name in enumerate(request)}
        self.types = {name: dtype for lookup in lookups for name, dtype in lookup.outputs.items()}
        """The columns it gives, with their types, in their order."""
        self._compiled = CompiledLookups(lookups, positions)

    def answer(self, row: Sequence[Any], at: int, state: RowState) -> list[Any]:
        """The as-of columns of a row.

        Args:
            row: Values of the request columns as they are stored: times in microseconds, dates in days.
            at: The prediction moment, microseconds since 1970 UTC.
            state: Where to look.

        Returns:
            Values as they are stored, and booleans as such; what is not known is ``None``.

        Raises:
            StateUnavailable: The state lacks a timeline, or does not reach back so far.
        """
        state.require(at)
        bound = state.bound.get(self)
        return (self._bind(state) if bound is None else bound)(row, at)

    def _bind(self, state: RowState) -> RowFunction:
        searched = [timeline for name in self._compiled.names if (timeline := state.searched(name)) is not None]
        if len(searched) < len(self._compiled.names):
            return self._compiled.asked([state.timeline(name) for name in self._compiled.names])
        state.bound[self] = bound = self._compiled.in_memory(searched)
        return bound


def _stored(requests: pl.DataFrame, name: str) -> list[Any]:
    column = requests.get_column(name)
    kept = stored_type(column.dtype)
    return (column if column.dtype == kept else column.cast(kept)).to_list()


def _queries(lookup: Lookup, values: dict[str, list[Any]], at: list[int]) -> list[list[Query | None]]:
    """What the look-up asks for each row, at each of its moments; nothing for a key with a null in it."""
    keys: list[Key] = list(zip(*(values[name] for name in lookup.on), strict=True))
    timeline = lookup.timeline.name
    return [
        [None if None in key else (timeline, key, moment - before) for key, moment in zip(keys, at, strict=True)]
        for before in map(microseconds, lookup.before)
    ]


def _answers(lookup: Lookup, at: list[int], hits: list[list[Hit | None]]) -> list[list[Any]]:
    """The columns of one look-up.

    Every rule here stands in ``asof.py`` and ``compiled_lookups.py`` too; a property test holds them together.
    """
    declared = lookup.declared
    if isinstance(declared, Latest):
        rows = hits[0]
        if declared.max_age is not None:
            oldest = microseconds(declared.max_age)
            rows = [hit if hit and moment - hit[0] <= oldest else None for hit, moment in zip(rows, at, strict=True)]
        return [[hit[i] if hit else None for hit in rows] for i in range(1, len(lookup.outputs) + 1)]
    none = (0, 0, 0)
    pairs = [(now or none, then or none) for now, then in zip(*hits, strict=True)]
    counts = [now[1] - then[1] for now, then in pairs]
    sums = [now[2] - then[2] for now, then in pairs]
    match declared.aggregate:
        case "count":
            return [counts]
        case "sum":
            return [sums]
        case "mean":
            # Both to float first, as Polars divides integers; Python alone would divide huge ones more exactly.
            return [[float(total) / float(count) if count else None for total, count in zip(sums, counts, strict=True)]]
