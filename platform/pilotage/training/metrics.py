"""The five metrics of a probability, with bootstrap intervals. Plain arrays in, plain numbers out.

- ``auc``: chance that a positive scores above a negative, ties count half (Hanley and McNeil 1982); higher is better.
- ``log_loss``: mean of −ln of the probability given to the truth, nats.
- ``brier``: mean squared distance of probability and truth, 0..1.
- ``calibration_error``: mean over 10 bins of equal mass of |mean predicted − observed rate|, weighted by rows, 0..1
  (expected calibration error; Naeini, Cooper and Hauskrecht 2015, with bins by quantile). Equal predictions share one.
- ``expected_cost``: mean cost a row by the cost matrix, when acting from its threshold on.

All but the first are better when lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotage.errors import TrainingError
from pilotage.spec import CostMatrix, Metric
from pilotage.training.records import Interval

METRICS: tuple[Metric, ...] = ("auc", "log_loss", "brier", "calibration_error", "expected_cost")
HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"auc"})
BINS = 10
_EDGE = 1e-15
_GROUPS = 2_000
"""Rows beyond this are drawn in random groups: the interval stays the same, work and memory stay bounded."""
_FEW = 64
"""Clusters up to which AUC is resampled cluster by cluster."""
_CHUNK = 4_000_000
"""Numbers held at once while AUC is resampled: 32 MB."""


@dataclass(frozen=True, slots=True)
class Resamples:
    """Bootstrap weights: how often each cluster was drawn, one row a resample; shape (resamples, clusters).

    Rows of one day share its weather, so a day is drawn as a whole; data without a time draws single rows.
    """

    weights: np.ndarray
    member: np.ndarray
    """Cluster of each row; shape (rows,)."""

    @classmethod
    def draw(cls, clusters: np.ndarray | None, rows: int, *, count: int, seed: int) -> Resamples:
        """Draws as many clusters as there are, with replacement.

        Args:
            clusters: A value for each row, equal within a cluster; ``None`` for rows of their own.
            rows: How many rows there are.
            count: Resamples.
            seed: The same seed draws the same.
        """
        generator = np.random.default_rng(seed)
        if clusters is not None:
            member = np.unique(clusters, return_inverse=True)[1]
        elif rows <= _GROUPS:
            member = np.arange(rows)
        else:
            member = generator.permutation(rows) % _GROUPS
        groups = int(member.max()) + 1 if rows else 0
        if groups < 2:
            raise TrainingError(
                f"{rows} rows in {groups} independent group(s) can't be resampled.",
                fix="Give a longer holdout.",
                rows=rows,
            )
        weights = generator.multinomial(groups, np.full(groups, 1.0 / groups), size=count).astype(np.float64)
        return cls(weights, member)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Weighted sums over rows; values of shape (rows,) give shape (resamples,)."""
        total: np.ndarray = self.weights @ np.bincount(self.member, values, minlength=self.weights.shape[1])
        return total


def all_metrics(labels: np.ndarray, predicted: np.ndarray, cost: CostMatrix) -> dict[str, float]:
    """Every metric that exists for these rows; without both classes there is no ``auc``.

    Args:
        labels: Shape (rows,), Boolean.
        predicted: Shape (rows,), probabilities of true.
        cost: What each outcome costs.

    Raises:
        TrainingError: There is no row, or something that is no probability.
    """
    return {name: values[0] for name, values in _measure(labels, predicted, cost, None).items()}


def with_intervals(
    labels: np.ndarray, predicted: np.ndarray, cost: CostMatrix, resamples: Resamples, *, confidence: float
) -> dict[str, Interval]:
    """Every metric with its bootstrap percentile interval (Efron 1979)."""
    measured = _measure(labels, predicted, cost, resamples)
    return {name: percentile_interval(value, drawn, confidence) for name, (value, drawn) in measured.items()}


def differences(
    labels: np.ndarray,
    candidate: np.ndarray,
    champion: np.ndarray,
    cost: CostMatrix,
    resamples: Resamples,
    *,
    confidence: float,
) -> dict[str, Interval]:
    """Candidate minus champion, with a paired interval: both are measured on the same resamples."""
    ours = _measure(labels, candidate, cost, resamples)
    theirs = _measure(labels, champion, cost, resamples)
    return {
        name: percentile_interval(ours[name][0] - theirs[name][0], ours[name][1] - theirs[name][1], confidence)
        for name in ours
    }


def unpaired_differences(
    ours: tuple[np.ndarray, np.ndarray, Resamples],
    theirs: tuple[np.ndarray, np.ndarray, Resamples],
    cost: CostMatrix,
    *,
    confidence: float,
) -> dict[str, Interval]:
    """The same for answers to different rows: ours minus theirs, where both can be measured.

    Args:
        ours: Labels, probabilities, and resamples whose weights are those of ``theirs``: the same clusters are drawn.
        theirs: The others'.
        cost: What each outcome costs.
        confidence: Of the intervals.
    """
    one, other = (_measure(labels, predicted, cost, resamples) for labels, predicted, resamples in (ours, theirs))
    return {
        name: percentile_interval(one[name][0] - other[name][0], one[name][1] - other[name][1], confidence)
        for name in one
        if name in other
    }


def chances_better(
    labels: np.ndarray, candidate: np.ndarray, champion: np.ndarray, cost: CostMatrix, resamples: Resamples
) -> dict[str, float]:
    """Metric → share of the resamples in which the candidate is better than the champion, 0..1; ties count half."""
    ours, theirs = (_measure(labels, predicted, cost, resamples) for predicted in (candidate, champion))
    told = {}
    for name in ours:
        gap = ours[name][1] - theirs[name][1]
        gap = gap[np.isfinite(gap)]
        gain = gap if name in HIGHER_IS_BETTER else -gap
        told[name] = float(np.mean((gain > 0) + 0.5 * (gain == 0))) if len(gain) else 0.5
    return told


def reliability(
    labels: np.ndarray, predicted: np.ndarray, resamples: Resamples, *, confidence: float
) -> list[dict[str, float]]:
    """Each bin of ``calibration_error``: mean prediction, observed rate with its interval, rows."""
    bins = _bins(predicted)
    told = []
    for number in np.unique(bins):
        inside = bins == number
        with np.errstate(invalid="ignore"):
            drawn = resamples.sums(np.where(inside, labels, 0.0)) / resamples.sums(inside.astype(np.float64))
        observed = percentile_interval(float(labels[inside].mean()), drawn, confidence)
        told.append(
            {
                "predicted": float(predicted[inside].mean()),
                "observed": observed.value,
                "low": observed.low,
                "high": observed.high,
                "rows": float(inside.sum()),
            }
        )
    return told


def worse_by(metric: Metric, candidate: float, champion: float) -> float:
    """How much worse the candidate is, in the metric's unit; negative when better."""
    return champion - candidate if metric in HIGHER_IS_BETTER else candidate - champion


def _measure(
    labels: np.ndarray, predicted: np.ndarray, cost: CostMatrix, resamples: Resamples | None
) -> dict[str, tuple[float, np.ndarray]]:
    """Metric → value, and its value in each resample."""
    if len(labels) == 0:
        raise TrainingError("There is no row to measure.", fix="Give a longer holdout.")
    # Written so that a NaN fails.
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise TrainingError(
            f"{int((~((predicted >= 0) & (predicted <= 1))).sum())} predictions are no probabilities.",
            fix="Look for a null in the rule, or in the model's answer.",
        )
    truth = labels.astype(np.float64)
    told = np.clip(predicted, _EDGE, 1 - _EDGE)
    means = {
        "log_loss": -(truth * np.log(told) + (1 - truth) * np.log1p(-told)),
        "brier": (predicted - truth) ** 2,
        "expected_cost": _costs(truth, predicted, cost),
    }
    rows = np.ones(1) if resamples is None else resamples.sums(np.ones(len(truth)))
    measured = {
        name: (float(values.mean()), np.empty(0) if resamples is None else resamples.sums(values) / rows)
        for name, values in means.items()
    }
    measured["calibration_error"] = _calibration_error(truth, predicted, resamples, rows)
    if 0 < truth.sum() < len(truth):
        measured["auc"] = _auc(truth, predicted, resamples)
    return {name: measured[name] for name in METRICS if name in measured}


def _costs(truth: np.ndarray, predicted: np.ndarray, cost: CostMatrix) -> np.ndarray:
    acting = predicted >= cost.threshold
    when_true = np.where(acting, cost.true_positive, cost.false_negative)
    when_false = np.where(acting, cost.false_positive, cost.true_negative)
    return np.where(truth == 1, when_true, when_false)


def _bins(predicted: np.ndarray) -> np.ndarray:
    edges = np.quantile(predicted, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, predicted, side="right")


def _calibration_error(
    truth: np.ndarray, predicted: np.ndarray, resamples: Resamples | None, rows: np.ndarray
) -> tuple[float, np.ndarray]:
    gaps = truth - predicted
    bins = _bins(predicted)
    value = float(np.abs(np.bincount(bins, gaps, minlength=BINS)).sum() / len(truth))
    if resamples is None:
        return value, np.empty(0)
    drawn = sum((np.abs(resamples.sums(np.where(bins == number, gaps, 0.0))) for number in range(BINS)), np.zeros(1))
    return value, drawn / rows


def _auc(truth: np.ndarray, predicted: np.ndarray, resamples: Resamples | None) -> tuple[float, np.ndarray]:
    order = np.argsort(predicted, kind="stable")
    truth, scores = truth[order], predicted[order]
    # Where each run of equal scores begins.
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    value = float(_ranked(truth, np.ones((1, len(truth))), starts)[0])
    if resamples is None:
        return value, np.empty(0)
    member = resamples.member[order]
    weights = resamples.weights
    if weights.shape[1] <= _FEW:
        return value, _ranked_blocks(truth, member, starts, weights)
    step = max(1, _CHUNK // len(truth))
    drawn = [_ranked(truth, weights[first : first + step, member], starts) for first in range(0, len(weights), step)]
    return value, np.concatenate(drawn)


def _ranked_blocks(truth: np.ndarray, member: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same for few clusters: who wins between each two of them is counted once, for all resamples.

    Counts and halves of them are exact in floating point, so that both ways give the same bits.
    """
    count = weights.shape[1]
    equal = np.searchsorted(starts, np.arange(len(truth)), side="right") - 1
    place = equal * count + member
    size = len(starts) * count
    positive = np.bincount(place, truth, minlength=size).reshape(-1, count)
    negative = np.bincount(place, 1 - truth, minlength=size).reshape(-1, count)
    below = np.cumsum(negative, axis=0) - negative / 2
    wins = ((weights @ (positive.T @ below)) * weights).sum(axis=1)
    pairs = (weights @ positive.sum(axis=0)) * (weights @ negative.sum(axis=0))
    with np.errstate(invalid="ignore"):
        auc: np.ndarray = wins / pairs
    return auc


def _ranked(truth: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """AUC of rows sorted by score, weighted; NaN where a resample drew one class only. Shape (resamples,)."""
    positive = np.add.reduceat(weights * truth, starts, axis=1)
    negative = np.add.reduceat(weights * (1 - truth), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    wins = (positive * below).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        auc: np.ndarray = wins / pairs
    return auc


def percentile_interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """The bootstrap percentile interval of a value (Efron 1979), which it always holds.

    Args:
        value: As measured.
        drawn: As measured in each resample; NaN where it can't be.
        confidence: 0..1.
    """
    usable = drawn[np.isfinite(drawn)]
    # A resample without both classes has no AUC. With fewer than half left, say only the value.
    if len(usable) * 2 < len(drawn):
        return Interval(value=value, low=float("-inf"), high=float("inf"))
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    # Resampled calibration errors are biased upwards (noise never cancels), by more than their spread when the error is
    # near zero; an interval without its own value would only confuse.
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
