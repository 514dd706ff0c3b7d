"""Whether groups of people are treated alike by the answers that were given, by protected column.

The groups come from the validated rows of the lake, by entity: protected columns are never in a request, a feature or
the log. What is measured is what a candidate had to show at the gate (``training/fairness.py``).
"""

from __future__ import annotations

import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.answers import given
from pilotage.monitoring.labels import source_rows
from pilotage.monitoring.performance import blocks
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training import fairness as measured
from pilotage.training.records import FairnessReport


def with_groups(answers: pl.DataFrame, spec: ModelSpec, *, settings: Settings, lake: Lake) -> pl.DataFrame:
    """The answers that were given, with ``group_<column>`` of each protected column, as text; null where not known."""
    told = given(answers)
    columns = {f"group_{name}": pl.col(name).cast(pl.String()) for name in spec.protected}
    groups = source_rows(
        told["entity"],
        spec,
        table=f"validated/{spec.source}",
        on={name: name for name in spec.entity},
        columns=columns,
        lake=lake,
        settings=settings,
    )
    missing = [pl.lit(None, dtype=pl.String()).alias(name) for name in columns if name not in groups.columns]
    return told.join(groups.with_columns(missing), on="entity", how="left", maintain_order="left")


def fairness(
    grouped: pl.DataFrame, spec: ModelSpec, *, resamples: int = 400, confidence: float = 0.95, seed: int = 0
) -> FairnessReport:
    """Rates by group, and how far apart groups are; see ``training.fairness``.

    Args:
        grouped: From ``with_groups``.
        spec: The model.
        resamples: Bootstrap resamples.
        confidence: Of the intervals.
        seed: The same seed gives the same intervals.
    """
    return measured.fairness(
        grouped,
        spec,
        blocks=lambda rows: blocks(rows)[0],
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
