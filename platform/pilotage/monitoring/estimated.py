"""How good a model probably is before anybody knows the truth, and afterwards how good that estimate was.

Confidence-based performance estimation: if probabilities are calibrated, each says how often it is right, so the
expected metric follows from the predictions alone (Białek, Kuberski, Perrakis and Bifet, "Estimating Model Performance
Under Covariate Shift Without Labels", 2024, arXiv:2401.08348, whose CBPE this is; it extends Guillory et al. 2021).
It sees covariate shift. It can't see that the relation of inputs and truth has changed, which is why the estimates are
kept beside what came true. Measures and compares; reads no tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pilotage.spec import CostMatrix
from pilotage.training.metrics import percentile_interval
from pilotage.training.records import Interval

ESTIMATED = ("auc", "log_loss", "brier", "expected_cost")
"""Metrics that can be estimated. Calibration can't: it is what the estimate rests on."""
_EDGE = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """What is expected of some answers, if their probabilities are calibrated."""

    answers: int
    metrics: dict[str, Interval]
    """Metric → its expected value, with the range in which chance alone lets the realised value fall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRecord:
    """How good the estimates of a metric were, over the days whose truth is known by now."""

    metric: str
    days: int
    mean_error: float
    """Realised minus estimated: of a loss, positive means that it was worse than expected."""
    mean_absolute_error: float
    naive_absolute_error: float | None
    """Of the naive guess, the mean of the seven days before; ``None`` with fewer than two days."""
    inside: float
    """Share of the days whose realised value lay in the estimate's range, 0..1."""


def estimate(
    probabilities: np.ndarray | pl.Series,
    cost: CostMatrix,
    *,
    draws: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimated:
    """Expects what calibrated probabilities imply.

    Args:
        probabilities: Of answers, 0..1, without nulls; shape (answers,).
        cost: What decisions cost; acting from its threshold on.
        draws: Label vectors that are drawn to find the range.
        confidence: Of the range.
        seed: The same seed draws the same.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if len(p) == 0:
        return Estimated(answers=0, metrics={})
    answers = pl.DataFrame({"p": p})
    if_true, if_false = (
        {name: answers.select(each)[:, 0].to_numpy() for name, each in losses.items()}
        for losses in _losses(pl.col("p"), cost)
    )
    expected = {name: float((p * if_true[name] + (1 - p) * if_false[name]).mean()) for name in if_true}
    generator = np.random.default_rng(seed)
    labels = generator.random((draws, len(p))) < p
    drawn = {name: np.where(labels, if_true[name], if_false[name]).mean(axis=1) for name in if_true}  # shape (draws,)
    ranked = _expected_auc(p)
    if ranked is not None:
        expected["auc"] = ranked
        drawn["auc"] = _aucs(p, labels)
    metrics = {
        name: percentile_interval(expected[name], drawn[name], confidence) for name in ESTIMATED if name in expected
    }
    return Estimated(answers=len(p), metrics=metrics)


def estimate_records(days: pl.DataFrame) -> list[EstimateRecord]:
    """How good estimates were.

    Args:
        days: One row per day and metric: ``day``, ``metric``, ``value`` (realised; null where not known),
            ``estimated``, ``estimated_low`` and ``estimated_high``.
    """
    records = []
    known = days.filter(pl.all_horizontal(pl.col("value", "estimated").is_not_null())).sort("metric", "day")
    for (metric,), rows in known.group_by("metric", maintain_order=True):
        realised, estimated = rows["value"].to_numpy(), rows["estimated"].to_numpy()
        before = rows["value"].shift(1).rolling_mean(7, min_samples=1).to_numpy()
        inside = rows.select(
            pl.col("value").is_between(
                pl.col("estimated_low").fill_null(float("-inf")), pl.col("estimated_high").fill_null(float("inf"))
            )
        ).to_series()
        records.append(
            EstimateRecord(
                metric=str(metric),
                days=rows.height,
                mean_error=float((realised - estimated).mean()),
                mean_absolute_error=float(np.abs(realised - estimated).mean()),
                naive_absolute_error=float(np.abs(realised - before)[1:].mean()) if rows.height > 1 else None,
                inside=float(inside.to_numpy().mean()),
            )
        )
    return records


def expected_losses(probability: pl.Expr, cost: CostMatrix) -> dict[str, pl.Expr]:
    """Metric → what an answer of this probability is expected to lose; their mean is what some answers are.

    Args:
        probability: 0..1, calibrated; null gives null.
        cost: What decisions cost; acting from its threshold on.
    """
    if_true, if_false = _losses(probability, cost)
    return {name: probability * if_true[name] + (1 - probability) * if_false[name] for name in if_true}


def _losses(p: pl.Expr, cost: CostMatrix) -> tuple[dict[str, pl.Expr], dict[str, pl.Expr]]:
    """Metric → loss of an answer if its label is true, and if it is false. As ``training.metrics`` defines them."""
    clipped = p.clip(_EDGE, 1 - _EDGE)
    acting = pl.when(p >= cost.threshold)
    return (
        {
            "log_loss": -clipped.log(),
            "brier": (1 - p) ** 2,
            "expected_cost": acting.then(cost.true_positive).otherwise(cost.false_negative),
        },
        {
            "log_loss": -(-clipped).log1p(),
            "brier": p**2,
            "expected_cost": acting.then(cost.false_positive).otherwise(cost.true_negative),
        },
    )


def _expected_auc(p: np.ndarray) -> float | None:
    """Expected wins over expected pairs of different answers, one positive and one negative; ties count half."""
    order = np.sort(p, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], order[1:] != order[:-1]]))
    positive, negative = np.add.reduceat(order, starts), np.add.reduceat(1 - order, starts)
    below = np.cumsum(negative) - negative / 2
    with_itself = float((p * (1 - p)).sum())
    pairs = float(p.sum() * (1 - p).sum()) - with_itself
    return (float((positive * below).sum()) - with_itself / 2) / pairs if pairs > 0 else None


def _aucs(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUC of each drawn label vector, by the rank sum; NaN where it drew one class only. Shape (draws,)."""
    values, member, counts = np.unique(p, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[member]
    positives = labels.sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        aucs: np.ndarray = (labels @ ranks - positives * (positives + 1) / 2) / (positives * (len(p) - positives))
    return aucs
