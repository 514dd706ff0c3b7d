"""Bulk scoring: the rows of a validated table through the very predictor that answers requests.

The as-of features are those known at each row's own prediction moment, read from the lake instead of the online store;
the rest is the service's own path. Which version scores, and when, is up to the callers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import DeclarationError, InvalidRequest, ModelNotReady, UnpublishedData
from pilotage.features.reading import ValidatedRows
from pilotage.features.timeline import MOMENT
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.bundle_cache import fetch
from pilotage.runtime.plan import Plan
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.probe import admit
from pilotage.spec import ModelSpec

DAY = "day"
PART_DAYS = 31
"""Days that are scored and written at a time."""
ADDED: dict[str, pl.DataType] = {
    "moment": MOMENT,
    "version": pl.Int64(),
    "probability": pl.Float64(),
    "decision": pl.Boolean(),
    "referred": pl.Boolean(),
    "error": pl.String(),
}
"""Columns of a score, beside the entity's and the day. ``error`` says why a row has no probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """What one call scored."""

    model: str
    version: int
    table: str
    rows: int
    scored: int
    positive: int
    """Rows for which the positive decision is the cheaper one."""
    referred: int
    """Rows that a person should decide."""
    mean_probability: float | None
    errors: dict[str, int]
    """Why rows have no score → how many."""
    days: list[date]
    """Days replaced; empty for a source without days."""
    read: dict[str, int]
    """Lake table → Delta version that was read."""
    lake_version: int


class LakeState:
    """As-of columns from the lake; to a predictor what the online store is in the service."""

    def __init__(self, lake: Lake, bundle: Bundle, versions: Mapping[str, int]) -> None:
        """Opens nothing yet.

        Args:
            lake: Where ``validated/<source>`` is read.
            bundle: What will be asked.
            versions: ``validated/<source>`` → Delta version that is read.
        """
        self._rows = ValidatedRows(lake, bundle.view.lookups, versions)

    @property
    def through(self) -> datetime | None:
        """When the newest fact in it became known (UTC)."""
        return max(self._rows.newest().values(), default=None)

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        """The requests with the bundle's as-of columns, each as known at its own prediction moment."""
        known = bundle.view.offline(requests, self._rows.read)
        return requests.hstack(known.select(bundle.state_types().keys()))


def champion_predictor(plan: Plan | None, model: str, *, bundles: Path) -> Predictor:
    """The champion, as the service would load it: its bundle copied to this disk, admitted.

    Args:
        plan: What the ledger says of the model.
        model: The model.
        bundles: ``settings.bundles``.

    Raises:
        ModelNotReady: The model has no champion, or is killed.
        BundleCorrupt: Its bundle is not fit to serve.
    """
    if plan is not None and plan.killed is not None:
        raise ModelNotReady(
            f"{model} is killed: {plan.killed}", fix=f"pilotage resume {model} lets it answer again.", model=model
        )
    if plan is None or plan.champion is None:
        raise ModelNotReady(
            f"{model} has no champion.", fix=f"Release one: pilotage promote {model} VERSION.", model=model
        )
    chosen = plan.champion
    folder = fetch(
        Path(chosen.bundle), sha256=chosen.bundle_sha256, bundles=bundles, model=model, version=chosen.version
    )
    return Predictor(admit(folder, sha256=chosen.bundle_sha256), chosen.version)


def score_rows(
    spec: ModelSpec,
    predictor: Predictor,
    *,
    lake: Lake,
    days: Sequence[date] | None,
    run_id: str,
    progress: Callable[[str], None] = lambda _: None,
) -> ScoreReport:
    """Scores the rows of some days of the spec's source, and replaces those days of ``scores/<model>``.

    Scoring a day again gives the same rows, as long as the validated rows and the champion are the same. A row that no
    request could look like gets no score but its reason.

    Args:
        spec: The model; says which rows, and what identifies them.
        predictor: The version.
        lake: Where ``validated/…`` is read and ``scores/<model>`` is written.
        days: Days of the source; ``None`` for all. Not used for a source without days.
        run_id: Goes into the commit's note.
        progress: Called with what is being done.

    Raises:
        UnpublishedData: A source has no validated rows, or none of the days has.
        InvalidRequest: The source lacks a request column of this version, or has it as another type.
        DeclarationError: An entity's column has the name of one that is added.
    """
    if clash := sorted({*spec.entity} & {*ADDED, DAY}):
        raise DeclarationError(
            f"{spec.name}: an entity column is called {clash[0]}, which a score means something else by.",
            fix="Rename it.",
            column=clash[0],
        )
    bundle, population = predictor.bundle, f"validated/{spec.source}"
    sources = dict.fromkeys([spec.source, *(lookup.timeline.source for lookup in bundle.view.lookups)])
    versions = lake.versions(f"validated/{source}" for source in sources)
    state = LakeState(lake, bundle, versions)
    rows = lake.scan(population, version=versions[population])
    daily = DAY in rows.collect_schema()
    there = lake.days(population) if daily else []
    wanted = sorted(set(there if days is None else days)) if daily else []
    if daily and not set(wanted) & set(there):
        raise UnpublishedData(
            f"{population} has no rows of {', '.join(str(day) for day in wanted[:3]) or 'any day'}.",
            fix=f"Publish those days of {spec.source}, or score other ones.",
            table=population,
        )
    table, sums = f"scores/{spec.name}", _Sums()
    note = {"run_id": run_id, "model_version": str(predictor.version), "versions": json.dumps(versions)}
    for first in range(0, len(wanted), PART_DAYS) if daily else (0,):
        part = wanted[first : first + PART_DAYS]
        some = rows.filter(pl.col(DAY).is_between(part[0], part[-1]), pl.col(DAY).is_in(part)) if daily else rows
        scores = _scores(spec, predictor, state, some.collect(), sums, daily=daily)
        commit = lake.replace_days(table, scores, part, note=note) if daily else lake.replace(table, scores, note=note)
        sums.lake_version = commit.version
        progress(f"{table}: {sums.rows:,} rows" + (f" up to {part[-1]}" if daily else ""))
    return ScoreReport(
        model=spec.name,
        version=predictor.version,
        table=table,
        rows=sums.rows,
        scored=sums.scored,
        positive=sums.positive,
        referred=sums.referred,
        mean_probability=sums.total / sums.scored if sums.scored else None,
        errors=dict(sums.errors),
        days=wanted,
        read=versions,
        lake_version=sums.lake_version,
    )


@dataclass(slots=True)
class _Sums:
    rows: int = 0
    scored: int = 0
    positive: int = 0
    referred: int = 0
    total: float = 0.0
    lake_version: int = -1
    errors: Counter[str] = field(default_factory=Counter)


def _scores(
    spec: ModelSpec, predictor: Predictor, state: LakeState, rows: pl.DataFrame, sums: _Sums, *, daily: bool
) -> pl.DataFrame:
    """One row per row, in their order."""
    errors = _refused(predictor, rows)
    fit = rows.filter(pl.Series([error is None for error in errors], dtype=pl.Boolean()))
    answers = iter(predictor.predict(fit, state) if fit.height else [])
    moments = predictor.bundle.view.moments(fit) if fit.height else None
    at = iter(moments if moments is not None else [None] * fit.height)
    band = predictor.bundle.refer_between
    added: list[tuple[Any, ...]] = []
    for error in errors:
        if error is not None:
            sums.errors[error] += 1
            added.append((None, predictor.version, None, None, None, error))
            continue
        answer, moment = next(answers), next(at)
        referred = band is not None and band[0] <= answer.probability < band[1]
        decision = None if referred else answer.probability >= predictor.bundle.threshold
        sums.scored += 1
        sums.total += answer.probability
        sums.positive += decision is True
        sums.referred += referred
        added.append((moment, predictor.version, answer.probability, decision, referred, None))
    sums.rows += rows.height
    entity = rows.select(*spec.entity, *([DAY] if daily else []))
    return entity.hstack(pl.DataFrame(added, schema=ADDED, orient="row"))


def _refused(predictor: Predictor, rows: pl.DataFrame) -> list[str | None]:
    """Why each row can't be a request; ``None`` for those that can, which nearly always are all."""
    requests = rows.select(name for name in predictor.contract.schema.names() if name in rows.columns)
    try:
        predictor.contract.check_frame(requests)
    except InvalidRequest as error:
        if "row" not in error.details:  # A whole column is missing, or of another type.
            raise
        return [_why_not(predictor, row) for row in requests.iter_rows(named=True)]
    return [None] * rows.height


def _why_not(predictor: Predictor, row: Mapping[str, Any]) -> str | None:
    try:
        predictor.contract.row(row)
    except InvalidRequest as error:
        # Rows that fail for the same reason are counted together.
        return error.without_value
    return None
