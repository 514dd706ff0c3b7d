"""Builds the feature table of a model: ``features/<model>`` in the lake, from validated tables.

Grain: one row per row of the spec's source. Columns: entity, request, ``event_time`` and ``label_known_at`` (data with
a time), as-of columns, features, ``label`` (null where the truth is not known), and ``day`` where the source is daily.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from pilotage.data.lake import Commit, Lake
from pilotage.errors import DeclarationError, UnpublishedData
from pilotage.expressions import columns_of
from pilotage.features.view import FeatureView
from pilotage.spec import ModelSpec

DAY, EVENT_TIME, LABEL, LABEL_KNOWN_AT = "day", "event_time", "label", "label_known_at"
FINGERPRINT = "feature_fingerprint"
"""Key of a commit's note that holds the fingerprint of the view that made the features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReport:
    """What one build wrote."""

    model: str
    table: str
    rows: int
    days: list[date]
    """Days replaced; empty for a source without days."""
    missing: list[date]
    """Days asked for that have no validated rows, such as withdrawn ones; they are now empty in the feature table."""
    labelled: int
    fingerprint: str
    versions: dict[str, int]
    """Lake table → Delta version that was read."""
    lake_version: int
    """Delta version that was written."""
    rebuilt: bool
    """Whether the definition had changed, so that every day was built again."""
    column_schema: dict[str, str]
    null_rates: dict[str, float]
    """Feature → share of rows without a value, 0..1."""
    seconds: float


def build_features(
    spec: ModelSpec,
    *,
    lake: Lake,
    days: Sequence[date] | None,
    run_id: str,
    progress: Callable[[str], None] = lambda _: None,
) -> FeatureReport:
    """Computes the features of some days, each row as known at its prediction moment, and replaces those days.

    One table never mixes two definitions: if the view's fingerprint is not the one that the table was built with, every
    day is built again, whichever were asked for.

    Args:
        spec: The model.
        lake: Where ``validated/…`` is read and ``features/<model>`` is written.
        days: Days of the source to build; ``None`` for all. Not used for a source without days.
        run_id: Goes into the commit's note.
        progress: Called with what is being done.

    Raises:
        UnpublishedData: A source has no validated rows, or none of the days has, neither here nor in the feature table.
        DataError: A source is not as the spec says.
    """
    started = time.monotonic()
    view = FeatureView(spec)
    table, population = f"features/{spec.name}", f"validated/{spec.source}"
    versions = lake.versions(f"validated/{source}" for source in spec.sources)
    daily = DAY in lake.schema(population)
    stale = lake.exists(table) and features_fingerprint(lake, spec.name) != view.fingerprint
    if stale and daily:
        progress("the definition of the features changed: builds every day again")
    published = lake.days(population)
    wanted = sorted(set(published if days is None or stale else days)) if daily else []
    present = sorted(set(wanted) & set(published))
    if daily and not present and not set(wanted) & set(lake.days(table)):
        raise UnpublishedData(
            f"{population} has no rows of {', '.join(str(day) for day in wanted[:3]) or 'any day'}.",
            fix=f"Publish those days of {spec.source}, or build other ones.",
            table=population,
            days=[str(day) for day in wanted],
        )

    def read(source: str, _since: datetime | None, _until: datetime | None) -> pl.LazyFrame:
        # The view filters by when a fact became known, and Delta keeps the range of that column a file: whole days that
        # can't matter are skipped, without a guess at how long after its day a fact may become known.
        return lake.scan(f"validated/{source}", version=versions[f"validated/{source}"])

    rows = read(spec.source, None, None)
    if daily:
        in_range = pl.col(DAY).is_between(present[0], present[-1]) if present else pl.lit(False)
        rows = rows.filter(in_range, pl.col(DAY).is_in(pl.Series(present, dtype=pl.Date).implode()))
    frame = _population(spec, rows, daily=daily)
    progress(f"computes {len(view.schema)} features of {frame.height:,} rows")
    frame = view.offline(frame, read)
    note = {"run_id": run_id, FINGERPRINT: view.fingerprint, "versions": json.dumps(versions)}
    progress(f"writes {frame.height:,} rows to {table}")
    commit = _write(lake, table, frame, wanted, note, whole=stale or not daily)
    nulls = frame.select(pl.col(list(view.schema)).null_count())
    return FeatureReport(
        model=spec.name,
        table=table,
        rows=frame.height,
        days=wanted,
        missing=sorted(set(wanted) - set(present)),
        labelled=frame.height - frame.get_column(LABEL).null_count(),
        fingerprint=view.fingerprint,
        versions=versions,
        lake_version=commit.version,
        rebuilt=stale,
        column_schema={name: str(dtype) for name, dtype in frame.schema.items()},
        null_rates={name: count / max(frame.height, 1) for name, count in nulls.row(0, named=True).items()},
        seconds=time.monotonic() - started,
    )


def features_fingerprint(lake: Lake, model: str) -> str | None:
    """Fingerprint of the view that a model's feature table was built with; ``None`` if its commits don't say.

    Raises:
        UnpublishedData: The model has no feature table.
    """
    for entry in lake.history(f"features/{model}"):
        if FINGERPRINT in entry:
            return str(entry[FINGERPRINT])
    return None


def _population(spec: ModelSpec, rows: pl.LazyFrame, *, daily: bool) -> pl.DataFrame:
    """The rows to predict, with what they are predicted from and what became of them."""
    columns = list(dict.fromkeys([*spec.entity, *spec.request_types(), *([DAY] if daily else [])]))
    added = {LABEL: spec.label.expr}
    if spec.event_time is not None and spec.label.known_at is not None:
        added |= {EVENT_TIME: pl.col(spec.event_time), LABEL_KNOWN_AT: pl.col(spec.label.known_at)}
    reserved = {*added, *([DAY] if daily else [])}
    made = [*spec.request_types(), *spec.state_types(), *(feature.name for feature in spec.features)]
    if clash := sorted(reserved & {*made, *spec.entity}):
        raise DeclarationError(
            f"{spec.name}: a column is called {clash[0]}, which the feature table means something else by.",
            fix="Rename it.",
            column=clash[0],
        )
    needed = {*columns, *(column for expr in added.values() for column in columns_of(expr))}
    if missing := sorted(needed - set(rows.collect_schema().names())):
        raise UnpublishedData(
            f"validated/{spec.source} has no column {missing[0]}, which {spec.name} reads.",
            fix="Correct the spec, or the source's prepare.",
            columns=missing,
        )
    return rows.select(*columns, **added).collect()


def _write(
    lake: Lake, table: str, frame: pl.DataFrame, days: Sequence[date], note: dict[str, str], *, whole: bool
) -> Commit:
    if whole:
        return lake.replace(table, frame, note=note)
    return lake.replace_days(table, frame, days, note=note)
