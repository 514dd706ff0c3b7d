"""The columns together: can a classifier tell the window from the reference? (Lopez-Paz and Oquab 2017.)

Each column may look as it did, and the way they go together not. The effect is AUC − 0.5 on days that the classifier
did not learn from: it may not know a day by its weather. What is ordinary is learned from past windows, each against
the rest of the past, since a permutation of rows would take rows of one day for independent and call everything drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pilotage.monitoring.drift.records import Multivariate

ROWS = 8_000
"""Rows of the reference that are kept for this; the window is sampled at the same rate a day."""
FEWEST_PAST = 5
"""Past windows without which nothing can be said about what is ordinary."""
LEAST = 0.1
"""Smaller effects mean nothing: AUC 0.6."""
_FOLDS, _ROUNDS, _TOLD = 3, 60, 8
_PARAMS = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.1,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.7,
    "lambda_l2": 5.0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 1,
    "verbosity": -1,
    "feature_pre_filter": False,
}

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def past_effects(rows: Floats, days: Ints, *, window_days: int) -> tuple[float, ...]:
    """Effects of past windows, one after another, each against the rest of the past.

    Args:
        rows: Encoded features; shape (rows, features).
        days: The day of each row, as its ordinal; shape (rows,).
        window_days: Length of a window.
    """
    known = np.unique(days)
    effects = []
    for begin in range(0, len(known) - window_days + 1, window_days):
        inside = np.isin(days, known[begin : begin + window_days])
        if inside.all():
            continue
        effects.append(_told_apart(rows, days, inside)[0])
    return tuple(effects)


def tell_apart(
    reference: Floats,
    reference_days: Ints,
    window: Floats,
    window_days: Ints,
    *,
    names: Sequence[str],
    past: Sequence[float],
    false_alarms_a_year: float,
    windows_a_year: float,
) -> Multivariate | None:
    """Compares a window with the reference; ``None`` if it has fewer days than folds.

    Args:
        reference: Encoded features of a sample; shape (rows, features).
        reference_days: The day of each row.
        window: The same of the window, sampled at the same rate a day.
        window_days: The day of each row.
        names: The features.
        past: From ``past_effects``.
        false_alarms_a_year: Alarms to expect in a year without drift, from this alone.
        windows_a_year: Windows that do not overlap.
    """
    if len(np.unique(window_days)) < _FOLDS or len(np.unique(reference_days)) < _FOLDS:
        return None
    rows = np.concatenate([reference, window])
    inside = np.arange(len(rows)) >= len(reference)
    effect, gain = _told_apart(rows, np.concatenate([reference_days, window_days]), inside)
    limit = _limit(past, false_alarms_a_year / windows_a_year) if len(past) >= FEWEST_PAST else None
    total = gain.sum() or 1.0
    shares = sorted(zip(names, (gain / total).tolist(), strict=True), key=lambda item: -item[1])
    return Multivariate(
        effect=effect,
        threshold=limit,
        past=tuple(past),
        rows=max(len(reference), len(window)),
        used={name: share for name, share in shares[:_TOLD] if share > 0},
        drifted=limit is not None and effect >= limit,
    )


def _limit(past: Sequence[float], share: float) -> float:
    """The bound that the next of such effects exceeds in this share of cases: mean + t · s · √(1 + 1/n)."""
    n = len(past)
    t = _student(1 - share, n - 1)
    spread = float(np.std(past, ddof=1)) * math.sqrt(1 + 1 / n)
    return min(0.499, max(LEAST, float(np.mean(past)) + t * spread))


def _student(quantile: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion from the normal one (Abramowitz and Stegun 26.7.5): within 4 % from 4
    degrees of freedom on, up to 0.9996."""
    z = NormalDist().inv_cdf(quantile)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


def _told_apart(rows: Floats, days: Ints, inside: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """AUC − 0.5 over all rows, each scored by the fold that did not see its day; and the gain of each feature."""
    from pilotage.training.fit import lightgbm

    lgb = lightgbm()
    fold = np.empty(len(rows), dtype=np.int64)
    for side in (inside, ~inside):
        # Days in runs: neighbours share their weather, and would tell on each other.
        known = np.unique(days[side])
        fold[side] = (np.searchsorted(known, days[side]) * _FOLDS) // len(known)
    scores = np.empty(len(rows))
    gain = np.zeros(rows.shape[1])
    labels = inside.astype(np.float64)
    # Both sides weigh the same, however long the reference is.
    weight = np.where(inside, 0.5 / max(1, inside.sum()), 0.5 / max(1, (~inside).sum())) * len(rows)
    for each in range(_FOLDS):
        learns = fold != each
        data = lgb.Dataset(rows[learns], labels[learns], weight=weight[learns], params=_PARAMS)
        booster = lgb.train(_PARAMS, data, _ROUNDS)
        scores[~learns] = booster.predict(rows[~learns], raw_score=True)
        gain += booster.feature_importance("gain")
    return max(0.0, _auc(scores[inside], scores[~inside]) - 0.5), gain


def _auc(positives: Floats, negatives: Floats) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / 2 / len(negatives))
