"""As-of features: what was known at the prediction moment, for many rows at once, by joins on timelines.

``attach`` answers from frames (training); ``state.py`` answers the same for a few rows from a store. Both ask the
same timelines at the same moments, and all arithmetic between them is on integers, so the answers are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import polars as pl

from pilotage import expressions
from pilotage.errors import DeclarationError
from pilotage.features.timeline import KNOWN_AT, STATE_TYPES, Newest, Timeline, Totals
from pilotage.spec import AsOf, Latest, Window

Reader = Callable[[str, datetime | None, datetime | None], pl.LazyFrame]
"""Gives the validated rows of a source: at least those that became known from ``since`` to ``until`` (UTC)."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One as-of declaration, resolved: which timeline it asks, by which request columns, and how long before."""

    declared: AsOf
    timeline: Timeline
    on: tuple[str, ...]
    """Request columns, in the order of the timeline's keys."""

    @cached_property
    def reach(self) -> timedelta | None:
        """How long before the prediction moment a fact can still matter; ``None`` for ever."""
        return self.declared.over if isinstance(self.declared, Window) else self.declared.max_age

    @cached_property
    def before(self) -> tuple[timedelta, ...]:
        """How long before the prediction moment it asks its timeline."""
        return (timedelta(0), self.declared.over) if isinstance(self.declared, Window) else (timedelta(0),)

    @cached_property
    def outputs(self) -> dict[str, pl.DataType]:
        """The columns it adds, with their types."""
        return self.declared.outputs()


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
        answers.append(_answers(lookup, asked.get_column("_at"), hits))
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


def _answers(lookup: Lookup, moments: pl.Series, hits: Sequence[pl.DataFrame]) -> pl.DataFrame:
    declared = lookup.declared
    if isinstance(declared, Latest):
        fresh = pl.lit(True)
        if declared.max_age is not None:
            fresh = moments - pl.col(KNOWN_AT) <= declared.max_age
        return hits[0].select(pl.when(fresh).then(pl.col(f"p{i}")).alias(name) for i, name in enumerate(lookup.outputs))
    now, then = (hit.select(pl.col("p0", "p1").fill_null(0)) for hit in hits)
    count, total = (now.get_column(name) - then.get_column(name) for name in ("p0", "p1"))
    frame = pl.DataFrame({"count": count, "sum": total})
    mean = pl.when(pl.col("count") > 0).then(pl.col("sum") / pl.col("count"))
    return frame.select(
        {"count": pl.col("count"), "sum": pl.col("sum"), "mean": mean}[declared.aggregate].alias(declared.name)
    )
