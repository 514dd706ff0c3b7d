"""A version in shadow or canary beside the champion, on labelled answers of the same days. Measures; decides nothing.

What a rollout goes by is the sequential test (``release/``), which may be looked at always. This is the picture that a
person looks at: intervals here hold for one look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pilotage.monitoring.answers import SHADOW
from pilotage.monitoring.performance import blocks, measure
from pilotage.spec import ModelSpec
from pilotage.training.metrics import Resamples, all_metrics, differences, unpaired_differences
from pilotage.training.records import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """A version in shadow or canary beside the champion, over the same days."""

    version: int
    stage: str
    champion: int
    rows: int
    """Labelled answers of the version."""
    champion_rows: int
    same_requests: bool
    """A shadow answers the champion's own requests; a canary others, by lot."""
    metrics: dict[str, Interval]
    champion_metrics: dict[str, float]
    difference: dict[str, Interval]
    """Version minus champion."""


def side_by_side(
    labelled: pl.DataFrame, spec: ModelSpec, *, resamples: int = 400, confidence: float = 0.95, seed: int = 0
) -> list[SideBySide]:
    """Each version in shadow or canary beside the champion that answered meanwhile, on labelled answers.

    A shadow is paired with what the champion said to the same requests. A canary is compared on what was drawn by lot;
    both are measured on the same resampled days, since a bad day is bad for both.

    Args:
        labelled: From ``read_answers``, of some days.
        spec: The model.
        resamples: Bootstrap resamples.
        confidence: Of the intervals.
        seed: The same seed gives the same intervals.
    """
    rows = labelled.filter(pl.col("label").is_not_null() & pl.col("probability").is_not_null())
    champions = rows.filter((pl.col("stage") == "champion") & pl.col("version").is_not_null())
    if champions.is_empty():
        return []
    champion = int(champions.sort("at")["version"][-1])
    champions = champions.filter(pl.col("version") == champion)
    found = []
    about = rows.filter(pl.col("stage").is_in([SHADOW, "canary"]) & (pl.col("version") != champion))
    for (stage, version), theirs in about.sort("stage", "version").group_by("stage", "version", maintain_order=True):
        if stage == SHADOW:
            kept = champions.join(theirs.select("prediction_id"), on="prediction_id", how="semi")
            ours = theirs.join(kept.select("prediction_id"), on="prediction_id", how="semi")
            kept, ours = kept.sort("prediction_id"), ours.sort("prediction_id")
        else:
            lots = theirs["drawn_by"].drop_nulls().unique()
            kept = champions.filter(pl.col("drawn_by").is_in(lots.implode()))
            ours = theirs.filter(pl.col("drawn_by").is_not_null())
        if min(kept.height, ours.height) < 2:
            continue
        found.append(
            _compared(
                ours,
                kept,
                spec,
                int(version),
                str(stage),
                champion,
                resamples=resamples,
                confidence=confidence,
                seed=seed,
            )
        )
    return found


def _compared(
    ours: pl.DataFrame,
    kept: pl.DataFrame,
    spec: ModelSpec,
    version: int,
    stage: str,
    champion: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> SideBySide:
    cost, labels, predicted = spec.kpi.cost, ours["label"].to_numpy(), ours["probability"].to_numpy()
    their_labels, theirs = kept["label"].to_numpy(), kept["probability"].to_numpy()
    metrics, _ = measure(ours, spec, resamples=resamples, confidence=confidence, seed=seed)
    if stage == SHADOW:
        drawn = Resamples.draw(blocks(ours)[0], ours.height, count=resamples, seed=seed)
        gap = differences(labels, predicted, theirs, cost, drawn, confidence=confidence)
    else:
        gap = _unpaired(ours, kept, spec, resamples=resamples, confidence=confidence, seed=seed)
    return SideBySide(
        version=version,
        stage=stage,
        champion=champion,
        rows=ours.height,
        champion_rows=kept.height,
        same_requests=stage == SHADOW,
        metrics=metrics,
        champion_metrics=all_metrics(their_labels, theirs, cost),
        difference=gap,
    )


def _unpaired(
    ours: pl.DataFrame, kept: pl.DataFrame, spec: ModelSpec, *, resamples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Differences of two sets of requests, each measured on the same resampled days (or hours)."""
    times = ("day", "moment", "at")
    both = pl.concat([ours.select(times), kept.select(times)])
    drawn = Resamples.draw(blocks(both)[0], both.height, count=resamples, seed=seed)
    members = drawn.member[: ours.height], drawn.member[ours.height :]
    # A resample of days on which one of them did not answer says nothing of it.
    count = drawn.weights.shape[1]
    both_there = np.all([drawn.weights @ np.bincount(member, minlength=count) > 0 for member in members], axis=0)
    one, other = (
        (rows["label"].to_numpy(), rows["probability"].to_numpy(), Resamples(drawn.weights[both_there], member))
        for rows, member in zip((ours, kept), members, strict=True)
    )
    return unpaired_differences(one, other, spec.kpi.cost, confidence=confidence)
