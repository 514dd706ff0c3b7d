"""Builds the feature table of a model: ``features/<model>`` in the lake, from validated tables.

Grain: one row per row of the spec's source. Columns: entity, request, ``event_time`` and ``label_known_at`` (data with
a time), as-of columns, features, ``label`` (null where the truth is not known), and ``day`` where the source is daily.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from pilotage import expressions
from pilotage.data.lake import Commit, Lake
from pilotage.errors import DeclarationError, UnpublishedData
from pilotage.features.reading import ValidatedRows
from pilotage.features.view import FeatureView
from pilotage.spec import ModelSpec

DAY, EVENT_TIME, LABEL, LABEL_KNOWN_AT = "day", "event_time", "label", "label_known_at"
FINGERPRINT = "feature_fingerprint"
"""Key of a commit's note that holds the fingerprint of the view that made the features."""
POPULATION = "population_fingerprint"
"""Key of a commit's note that holds the fingerprint of what its rows are, and of what is true of them."""
PART_DAYS, PART_ROWS = 92, 500_000
"""Days and rows that are computed and written at a time: delta-rs keeps a writer open for each day of a commit."""


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

    One table never mixes two definitions: if features, rows or label are declared otherwise than when the table was
    built, every day is built again, whichever were asked for. Each day appears whole; many days are written in several
    commits.

    Args:
        spec: The model.
        lake: Where ``validated/…`` is read and ``features/<model>`` is written.
        days: Days of the source to build; ``None`` for all, which also withdraws those that are gone. Not used for a
            source without days.
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
    rows_are = population_fingerprint(spec)
    stale = lake.exists(table) and (
        features_fingerprint(lake, spec.name) != view.fingerprint or made_of_others(_newest_note(lake, spec.name), spec)
    )
    if stale and daily:
        progress("features, rows or label are declared otherwise than before: builds every day again")
    published = lake.days(population)
    built = lake.days(table)
    wanted = sorted({*published, *built} if days is None or stale else set(days)) if daily else []
    present = sorted(set(wanted) & set(published))
    if daily and not present and not set(wanted) & set(built):
        raise UnpublishedData(
            f"{population} has no rows of {', '.join(str(day) for day in wanted[:3]) or 'any day'}.",
            fix=f"Publish those days of {spec.source}, or build other ones.",
            table=population,
            days=[str(day) for day in wanted],
        )

    validated = ValidatedRows(lake, view.lookups, versions)
    population_rows = validated.all(spec.source)
    parts = _parts(population_rows, wanted) if daily else [[]]
    written = _Written()
    for number, part in enumerate(parts, start=1):
        frame = view.offline(
            rows_to_predict(spec, _of_days(population_rows, part) if daily else population_rows), validated.read
        )
        # Until its last part is there, a rebuilt table must not pass for one that this definition made.
        done = number == len(parts) or not stale
        note = {
            "run_id": run_id,
            FINGERPRINT: view.fingerprint if done else f"{view.fingerprint} (rebuilding)",
            POPULATION: rows_are,
            "versions": json.dumps(versions),
        }
        if not daily or (stale and number == 1):
            commit = lake.replace(table, frame, note=note)
        else:
            commit = lake.replace_days(table, frame, part, note=note)
        written.add(frame, commit, list(view.schema))
        progress(f"{table}: {written.rows:,} rows, {number} of {len(parts)} parts")
    return FeatureReport(
        model=spec.name,
        table=table,
        rows=written.rows,
        days=wanted,
        missing=sorted(set(wanted) - set(present)),
        labelled=written.labelled,
        fingerprint=view.fingerprint,
        versions=versions,
        lake_version=written.version,
        rebuilt=stale,
        column_schema=written.column_schema,
        null_rates={name: count / max(written.rows, 1) for name, count in written.nulls.items()},
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Written:
    """Sums up the parts of a build."""

    rows: int = 0
    labelled: int = 0
    version: int = -1
    column_schema: dict[str, str] = field(default_factory=dict)
    nulls: Counter[str] = field(default_factory=Counter)

    def add(self, frame: pl.DataFrame, commit: Commit, features: list[str]) -> None:
        self.rows += frame.height
        self.labelled += frame.height - frame.get_column(LABEL).null_count()
        self.version = commit.version
        self.column_schema = {name: str(dtype) for name, dtype in frame.schema.items()}
        self.nulls.update(frame.select(pl.col(features).null_count()).row(0, named=True))


def _of_days(rows: pl.LazyFrame, days: Sequence[date]) -> pl.LazyFrame:
    # The range prunes files; the list leaves out days between that were not asked for.
    wanted = pl.Series(days, dtype=pl.Date).implode()
    return rows.filter(pl.col(DAY).is_between(days[0], days[-1]), pl.col(DAY).is_in(wanted))


def _parts(rows: pl.LazyFrame, days: Sequence[date]) -> list[list[date]]:
    """Splits sorted days so that no part is too large for memory; day by day gives what all at once gives."""
    counts = dict(_of_days(rows, days).group_by(DAY).agg(pl.len()).collect().iter_rows())
    parts: list[list[date]] = [[]]
    held = 0
    for day in days:
        if parts[-1] and (len(parts[-1]) == PART_DAYS or held + counts.get(day, 0) > PART_ROWS):
            parts.append([])
            held = 0
        parts[-1].append(day)
        held += counts.get(day, 0)
    return parts


def features_fingerprint(lake: Lake, model: str) -> str | None:
    """Fingerprint of the view that a model's feature table was built with; ``None`` if its commits don't say.

    Raises:
        UnpublishedData: The model has no feature table.
    """
    found = _newest_note(lake, model).get(FINGERPRINT)
    return None if found is None else str(found)


def made_by(lake: Lake, model: str) -> dict[str, str]:
    """What a model's feature table is made by, as the note of a commit says it that changes nothing of that.

    Raises:
        UnpublishedData: The model has no feature table.
    """
    note = _newest_note(lake, model)
    return {key: str(note[key]) for key in (FINGERPRINT, POPULATION) if key in note}


def population_fingerprint(spec: ModelSpec) -> str:
    """SHA-256 over what decides which rows a feature table has and what is true of them; features are not in it."""
    label = expressions.to_json(spec.label.expr, name="label.expr")
    said = [spec.source, spec.entity, spec.event_time, label, spec.label.known_at]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def made_of_others(note: Mapping[str, Any], spec: ModelSpec) -> bool:
    """Whether a commit's rows and labels are declared otherwise now. Older notes without a fingerprint of them say
    nothing."""
    rows_are = population_fingerprint(spec)
    return bool(note.get(POPULATION, rows_are) != rows_are)


def _newest_note(lake: Lake, model: str) -> Mapping[str, Any]:
    """The newest commit of a model's feature table that says how its features were made."""
    return next((entry for entry in lake.history(f"features/{model}") if FINGERPRINT in entry), {})


def rows_to_predict(spec: ModelSpec, rows: pl.LazyFrame) -> pl.DataFrame:
    """The rows to predict, with what they are predicted from and what became of them.

    Raises:
        DeclarationError: A column has a name that is the feature table's own.
        UnpublishedData: The source lacks a column that the spec reads.
    """
    there = rows.collect_schema().names()
    day = [DAY] if DAY in there else []
    columns = list(dict.fromkeys([*spec.entity, *spec.request_types(), *day]))
    added = {LABEL: spec.label.expr}
    if spec.event_time is not None and spec.label.known_at is not None:
        added |= {EVENT_TIME: pl.col(spec.event_time), LABEL_KNOWN_AT: pl.col(spec.label.known_at)}
    reserved = {*added, *day}
    made = [*spec.request_types(), *spec.state_types(), *(feature.name for feature in spec.features)]
    if clash := sorted(reserved & {*made, *spec.entity}):
        raise DeclarationError(
            f"{spec.name}: a column is called {clash[0]}, which the feature table means something else by.",
            fix="Rename it.",
            column=clash[0],
        )
    needed = {*columns, *(column for expr in added.values() for column in expressions.columns_of(expr))}
    if missing := sorted(needed - set(there)):
        raise UnpublishedData(
            f"validated/{spec.source} has no column {missing[0]}, which {spec.name} reads.",
            fix="Correct the spec, or the source's prepare.",
            columns=missing,
        )
    return rows.select(*columns, **added).collect()
