"""As-of features: what was known at the prediction moment, looked up in timelines, for many rows or for one.

``attach`` answers from frames (training), ``answer`` from a ``StateLookup`` (serving). Both ask the same timelines at
the same moments, and all arithmetic between them is on integers, so the answers are the same bits. What is read, and
from where, is decided by the callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import polars as pl

from pilotage import expressions
from pilotage.errors import DeclarationError
from pilotage.features.timeline import KNOWN_AT, STATE_TYPES, Newest, Timeline, Totals, stored_type
from pilotage.spec import AsOf, Latest, Window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Key = tuple[int | str, ...]
Query = tuple[str, Key, int]
"""A timeline's name, a key, and a moment in microseconds since 1970 UTC."""
Hit = tuple[Any, ...]
"""``known_at`` in microseconds since 1970 UTC, then the payload as stored."""
Reader = Callable[[str, datetime | None, datetime | None], pl.LazyFrame]
"""Gives the validated rows of a source: at least those that became known from ``since`` to ``until`` (UTC)."""


class StateLookup(Protocol):
    """Where serving looks up state: ``OnlineStore``, or a fake."""

    def lookups(self, queries: Sequence[Query], *, earliest: int) -> list[Hit | None]:
        """Answers each query with the newest row at or before its moment, all from one state.

        Args:
            queries: What to look up.
            earliest: The earliest prediction moment among them, in microseconds; state that does not reach back so far
                must refuse rather than answer with less than was known.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One as-of declaration, resolved: which timeline it asks, by which request columns, and how long before."""

    declared: AsOf
    timeline: Timeline
    on: tuple[str, ...]
    """Request columns, in the order of the timeline's keys."""

    @property
    def reach(self) -> timedelta | None:
        """How long before the prediction moment a fact can still matter; ``None`` for ever."""
        return self.declared.over if isinstance(self.declared, Window) else self.declared.max_age

    @property
    def before(self) -> tuple[timedelta, ...]:
        """How long before the prediction moment it asks its timeline."""
        return (timedelta(0), self.declared.over) if isinstance(self.declared, Window) else (timedelta(0),)


def resolve(declared: Iterable[AsOf], request: Mapping[str, pl.DataType]) -> tuple[Lookup, ...]:
    """Finds the timeline of each as-of feature.

    Raises:
        DeclarationError: A key is a float, a column has a type that can't be kept exactly, or an expression holds code.
    """
    return tuple(_resolve(item, request) for item in declared)


def _resolve(item: AsOf, request: Mapping[str, pl.DataType]) -> Lookup:
    pairs = sorted(item.on.items(), key=lambda pair: (pair[1], pair[0]))
    keys = tuple((column, request[name]) for name, column in pairs)
    for name, _ in pairs:
        if request[name].is_float():
            raise DeclarationError(
                f"As-of feature {item.name} is keyed by {name}, a {request[name]}.",
                fix="Key it by a string, an integer, a boolean or a time: equality of floats is an accident.",
                asof=item.name,
            )
    timeline: Timeline
    if isinstance(item, Latest):
        for column, dtype in item.columns.items():
            if str(dtype) not in STATE_TYPES:
                raise DeclarationError(
                    f"As-of feature {item.name} keeps {column} as {dtype}.",
                    fix=f"Use one of: {', '.join(STATE_TYPES)}.",
                    asof=item.name,
                )
        values = tuple(item.columns.items())
        timeline = Newest(source=item.source, keys=keys, known_at=item.known_at, values=values)
    else:
        value, where = (
            None if expr is None else expressions.to_json(expr, name=f"as-of feature {item.name}")
            for expr in (item.value, item.where)
        )
        timeline = Totals(source=item.source, keys=keys, known_at=item.known_at, value=value, where=where)
    return Lookup(declared=item, timeline=timeline, on=tuple(name for name, _ in pairs))


def read_timelines(
    lookups: Sequence[Lookup], read: Reader, *, first: datetime, last: datetime | None
) -> dict[str, pl.DataFrame]:
    """Reads each source once, and makes the timelines that answer for every moment from ``first`` to ``last``.

    Args:
        lookups: What will be asked.
        read: Gives the validated rows of a source.
        first: Earliest prediction moment (UTC).
        last: Latest prediction moment (UTC); nothing that became known later is read. ``None`` for all there is.
    """
    frames: dict[str, pl.DataFrame] = {}
    for source in dict.fromkeys(lookup.timeline.source for lookup in lookups):
        asked = [lookup for lookup in lookups if lookup.timeline.source == source]
        spans = {lookup.timeline.name: _span(lookup.timeline, asked, first) for lookup in asked}
        timelines = {lookup.timeline.name: lookup.timeline for lookup in asked}
        starts = list(spans.values())
        rows = read(source, None if None in starts else min(start for start in starts if start), last)
        needed = pl.any_horizontal(_within(timelines[name], spans[name], last) for name in timelines)
        schema = rows.collect_schema()
        for timeline in timelines.values():
            timeline.check(schema)
        columns = sorted(set().union(*(timeline.columns for timeline in timelines.values())))
        held = rows.filter(needed).select(columns).collect()
        for name, timeline in timelines.items():
            frames[name] = timeline.build(held.filter(_within(timeline, spans[name], last)))
    return frames


def _span(timeline: Timeline, lookups: Iterable[Lookup], first: datetime) -> datetime | None:
    """When the oldest fact that can matter became known; ``None`` if any can."""
    reaches = [lookup.reach for lookup in lookups if lookup.timeline == timeline]
    if timeline.known_at is None or None in reaches:
        return None
    return first - max(reach for reach in reaches if reach is not None)


def _within(timeline: Timeline, since: datetime | None, until: datetime | None) -> pl.Expr:
    if timeline.known_at is None:
        return pl.lit(True)
    known_at = pl.col(timeline.known_at)
    bounds = [known_at.is_not_null()]
    if since is not None:
        bounds.append(known_at >= since)
    if until is not None:
        bounds.append(known_at <= until)
    return pl.all_horizontal(bounds)


def attach(
    population: pl.DataFrame, moments: pl.Series, lookups: Sequence[Lookup], timelines: Mapping[str, pl.DataFrame]
) -> pl.DataFrame:
    """Adds the as-of columns to many rows, by joins on the timelines.

    Args:
        population: One row per thing to predict, with the request columns.
        moments: The prediction moment of each row (UTC).
        lookups: What to add.
        timelines: Name → timeline.
    """
    if not lookups:
        return population
    names = sorted({name for lookup in lookups for name in lookup.on})
    asked = population.select(names).with_columns(moments.alias("_at")).with_row_index("_row").sort("_at")
    found: dict[tuple[str, tuple[str, ...], timedelta], pl.DataFrame] = {}
    answers = [asked.select("_row")]
    for lookup in lookups:
        hits = []
        for before in lookup.before:
            place = (lookup.timeline.name, lookup.on, before)
            if place not in found:
                found[place] = _seek(asked, lookup, before, timelines[lookup.timeline.name])
            hits.append(found[place])
        answers.append(_answers(lookup.declared, asked.get_column("_at"), hits))
    state = pl.concat(answers, how="horizontal").sort("_row").drop("_row")
    return population.hstack(state)


def _seek(asked: pl.DataFrame, lookup: Lookup, before: timedelta, timeline: pl.DataFrame) -> pl.DataFrame:
    """The newest row of the timeline at or before each moment, in the order of ``asked``; nulls where there is none."""
    keys = lookup.timeline.key_names
    left = asked.select(
        (pl.col("_at") - before).alias("_t"), *(pl.col(c).alias(k) for c, k in zip(lookup.on, keys, strict=True))
    )
    # Polars can't check the order within groups, and warns; ``asked`` and every timeline are sorted by moment.
    joined = left.join_asof(
        timeline, left_on="_t", right_on=KNOWN_AT, by=keys, strategy="backward", coalesce=False, check_sortedness=False
    )
    return joined.select(KNOWN_AT, *lookup.timeline.payload)


def _answers(declared: AsOf, moments: pl.Series, hits: Sequence[pl.DataFrame]) -> pl.DataFrame:
    if isinstance(declared, Latest):
        fresh = pl.lit(True)
        if declared.max_age is not None:
            fresh = moments - pl.col(KNOWN_AT) <= declared.max_age
        return hits[0].select(
            pl.when(fresh).then(pl.col(f"p{i}")).alias(name) for i, name in enumerate(declared.outputs())
        )
    now, then = (hit.select(pl.col("p0", "p1").fill_null(0)) for hit in hits)
    count, total = (now.get_column(name) - then.get_column(name) for name in ("p0", "p1"))
    frame = pl.DataFrame({"count": count, "sum": total})
    mean = pl.when(pl.col("count") > 0).then(pl.col("sum") / pl.col("count"))
    return frame.select(
        {"count": pl.col("count"), "sum": pl.col("sum"), "mean": mean}[declared.aggregate].alias(declared.name)
    )


def answer(requests: pl.DataFrame, moments: pl.Series, lookups: Sequence[Lookup], state: StateLookup) -> pl.DataFrame:
    """The as-of columns of a few rows, by look-ups in plain Python: for one row cheaper than any join.

    Args:
        requests: One row per thing to predict, with the request columns.
        moments: The prediction moment of each row (UTC).
        lookups: What to look up.
        state: Where.
    """
    at: list[int] = moments.cast(pl.Int64).to_list()
    values = {
        name: _stored(requests.get_column(name)).to_list() for name in {n for lookup in lookups for n in lookup.on}
    }
    queries: dict[Query, None] = {}
    places: list[list[list[Query | None]]] = []
    for lookup in lookups:
        keys: list[Key] = list(zip(*(values[name] for name in lookup.on), strict=True))
        asked: list[list[Query | None]] = []
        for before in lookup.before:
            offset = before // timedelta(microseconds=1)
            asked.append([
                None if None in key else (lookup.timeline.name, key, moment - offset)
                for key, moment in zip(keys, at, strict=True)
            ])  # fmt: skip
        queries.update((query, None) for column in asked for query in column if query is not None)
        places.append(asked)
    found: dict[Query | None, Hit | None] = {None: None}
    if queries:
        found.update(zip(queries, state.lookups(list(queries), earliest=min(at)), strict=True))
    columns: list[pl.Series] = []
    for lookup, asked in zip(lookups, places, strict=True):
        columns.extend(_columns(lookup.declared, at, [[found[query] for query in column] for column in asked]))
    return pl.DataFrame(columns)


def _columns(declared: AsOf, at: list[int], hits: list[list[Hit | None]]) -> list[pl.Series]:
    """Does for a few rows what ``_answers`` does for many."""
    if isinstance(declared, Latest):
        oldest = None if declared.max_age is None else declared.max_age // timedelta(microseconds=1)
        kept = [
            hit if hit is not None and (oldest is None or moment - hit[0] <= oldest) else None
            for hit, moment in zip(hits[0], at, strict=True)
        ]
        return [
            pl.Series(name, [None if hit is None else hit[i] for hit in kept], stored_type(dtype)).cast(dtype)
            for i, (name, dtype) in enumerate(declared.outputs().items(), start=1)
        ]
    none = (0, 0, 0)
    sums = [
        (now[1] - then[1], now[2] - then[2])
        for now, then in ((now or none, then or none) for now, then in zip(*hits, strict=True))
    ]
    match declared.aggregate:
        case "count":
            return [pl.Series(declared.name, [count for count, _ in sums], pl.Int64)]
        case "sum":
            return [pl.Series(declared.name, [total for _, total in sums], pl.Int64)]
        case "mean":
            # Both to float first, as Polars divides integers; Python alone would divide huge ones more exactly.
            means = [float(total) / float(count) if count else None for count, total in sums]
            return [pl.Series(declared.name, means, pl.Float64)]


def _stored(series: pl.Series) -> pl.Series:
    wanted = stored_type(series.dtype)
    return series if series.dtype == wanted else series.cast(wanted)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)
