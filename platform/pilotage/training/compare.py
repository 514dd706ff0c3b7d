"""Candidate against champion, on rows that are new to both. Only measures; ``gate.py`` decides."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.spec import HashSplit, ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.metrics import all_metrics, chances_better, differences
from pilotage.training.records import Comparison
from pilotage.training.refit import REFIT_OF
from pilotage.training.slices import draw
from pilotage.training.split import hash_parts


def compare(
    spec: ModelSpec,
    holdout: pl.DataFrame,
    predicted: np.ndarray,
    clusters: np.ndarray | None,
    *,
    champion_bundle: Path,
    champion_version: int,
    threads: int,
    config: TrainConfig,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measures both on the holdout rows that the champion neither trained nor calibrated on.

    Args:
        spec: The model.
        holdout: The candidate's holdout, with request and as-of columns.
        predicted: What the candidate says about it; shape (rows,).
        clusters: As in ``Resamples.draw``.
        champion_bundle: Folder of the champion's bundle.
        champion_version: For the record.
        threads: For scoring.
        config: Resamples, confidence and seed.
        progress: Called with short sentences.

    Returns:
        The comparison; with ``problem`` where there is nothing to compare on.

    Raises:
        BundleCorrupt: The champion's bundle is not what its manifest says.
    """
    champion = read_bundle(champion_bundle)
    champion.scorer.threads = threads
    fresh, problem = _fresh(spec, holdout, champion, champion_version)
    missing = sorted((_reads(champion)) - set(holdout.columns))
    if missing and not problem:
        problem = (
            f"version {champion_version} reads {missing[0]}, which the features no longer have: keep that column until "
            "a version without it is champion"
        )
    rows = np.flatnonzero(fresh)
    labels = holdout[LABEL].to_numpy()[rows]
    if not problem and len(rows) < spec.gate.min_fresh_rows:
        problem = (
            f"{len(rows):,} of {holdout.height:,} holdout rows are new to version {champion_version}, "
            f"{spec.gate.min_fresh_rows:,} are needed"
        )
    if not problem and (labels.all() or not labels.any()):
        problem = f"the {len(rows):,} rows that are new to version {champion_version} have one class only"
    if problem:
        progress(f"No fresh holdout: {problem}")
        return Comparison(
            champion_version=champion_version, rows=len(rows), candidate={}, champion={}, difference={}, problem=problem
        )
    theirs, ours = champion.score(holdout[rows]), predicted[rows]
    resamples, unit = draw(
        None if clusters is None else clusters[rows], len(rows), config=config.evaluation, seed=config.seed
    )
    cost, confidence = spec.kpi.cost, config.evaluation.confidence
    comparison = Comparison(
        champion_version=champion_version,
        rows=len(rows),
        candidate=all_metrics(labels, ours, cost),
        champion=all_metrics(labels, theirs, cost),
        difference=differences(labels, ours, theirs, cost, resamples, confidence=confidence),
        better=chances_better(labels, ours, theirs, cost, resamples),
        unit=unit,
    )
    told = ", ".join(f"{name} {gap.value:+.4f}" for name, gap in comparison.difference.items())
    progress(f"Against version {champion_version} on {len(rows):,} rows new to both: {told}")
    return comparison


def _fresh(spec: ModelSpec, holdout: pl.DataFrame, champion: Bundle, version: int) -> tuple[np.ndarray, str | None]:
    """Which rows are new to the champion; and why that can't be said, if so."""
    facts: dict[str, Any] = champion.manifest["training"]
    if spec.event_time is not None and (until := facts.get("learned_until")):
        moment = datetime.fromisoformat(until)
        return (holdout[EVENT_TIME] > moment).to_numpy(), None
    nothing = np.zeros(holdout.height, dtype=bool)
    if spec.event_time is None and REFIT_OF in facts:
        return nothing, f"version {version} was fitted on its holdout too, and without a time no row is new to it"
    split = dict(facts.get("split") or {})
    if spec.event_time is None and split.pop("kind", None) == "hash":
        return hash_parts(holdout, spec.entity, HashSplit(**split)) == 2, None
    return nothing, f"the manifest of version {version} does not say which rows it learned from"


def _reads(bundle: Bundle) -> set[str]:
    """Columns that a bundle's features read."""
    known = {field.name for field in bundle.request} | set(bundle.state_types())
    return known & {column for feature in bundle.features for column in feature.expr.meta.root_names()}
