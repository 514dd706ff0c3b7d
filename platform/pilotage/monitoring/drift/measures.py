"""How far two counts are from each other: effect sizes, not p-values. Arrays in, arrays out; nothing is judged here.

- ``psi``: Σ (q − p) · ln(q / p) over the coarse bins' shares (Siddiqi, "Credit Risk Scorecards", 2006, page 136); 0 or
  more. Half a row is added to every bin that has a row on either side (Jeffreys' prior), so that an empty bin is
  neither infinite nor decided by a constant. Null is a bin.
- ``js``: square root of the Jensen-Shannon divergence to base 2 of the same shares (Endres and Schindelin 2003), 0..1.
- ``ks``: largest difference of the distribution functions of what is not null, at the cuts, 0..1.
- ``wasserstein``: area between these distribution functions, linear between two cuts, over the reference's scale:
  how many of its standard deviations the values moved on average; 0 or more.
- ``nulls``: absolute difference of the null rates, 0..1.
- ``unseen``: share of rows with a level that the reference does not have, 0..1.
- ``truth``: how far the label rate moved where the model said the same: mean absolute difference of the rates of five
  ranges of the prediction, weighted by the window's rows, 0..1. Other inputs alone don't move it.

At 70,000 rows every p-value is significant; an effect size stays what it is. What is much is learned (``learning.py``).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pilotage.monitoring.drift.bins import Bins

Floats = npt.NDArray[np.float64]

NUMERIC = ("psi", "ks", "wasserstein", "nulls")
TEXT = ("psi", "unseen", "nulls")
CONCEPT = ("truth",)
"""What is decided on. ``js`` is told beside them: it ranks as PSI does."""
SMALLEST = {"psi": 0.05, "ks": 0.05, "wasserstein": 0.1, "nulls": 0.05, "unseen": 0.05, "truth": 0.03}
"""Smaller effects mean nothing, however surely they are there."""


def decided_on(bins: Bins) -> tuple[str, ...]:
    """The measures that can raise an alarm for a column."""
    if bins.role == "concept":
        return CONCEPT
    if not bins.numeric:
        return TEXT
    return NUMERIC if bins.scale is not None else tuple(name for name in NUMERIC if name != "wasserstein")


def measures(bins: Bins, reference: npt.NDArray[np.number], current: npt.NDArray[np.number]) -> dict[str, Floats]:
    """Every measure of a column.

    Args:
        bins: The column's.
        reference: Counts; shape (…, bins).
        current: Counts of a shape that goes with it.

    Returns:
        Measure → shape (…). ``ks`` and ``wasserstein`` are NaN where either side has no values, or the reference does
        not vary.
    """
    before, now = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if bins.role == "concept":
        return {"truth": _by_truth(before, now)}
    found = dict(zip(("psi", "js"), _by_shares(_coarse(bins, before), _coarse(bins, now)), strict=True))
    total_before, total_now = before.sum(axis=-1), now.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found["nulls"] = np.abs(now[..., -1] / total_now - before[..., -1] / total_before)
        if bins.numeric:
            found |= _by_distribution(bins, before, now)
        else:
            found["unseen"] = now[..., -2] / total_now
    return found


def null_rate(counts: npt.NDArray[np.number]) -> float:
    """Share of rows without a value, 0..1."""
    return float(counts[-1] / counts.sum())


def noise(bins: Bins, measure: str, reference_rows: float, rows: float) -> float:
    """What a measure exceeds in about one of a thousand windows by rows alone, had they been drawn independently.

    For PSI: without drift it is about (1/n + 1/m) times a chi-square with bins − 1 degrees of freedom (Yurdakul,
    "Statistical Properties of Population Stability Index", 2018), whose quantile is Wilson and Hilferty's (1931).
    For KS the bound of Massart (1990); the others are near-normal.
    """
    z = 3.0902  # 99.9 % of the standard normal distribution
    per_row = 1 / reference_rows + 1 / rows
    if measure == "psi":
        freedom = len(bins.groups) - 1
        spread = 2 / (9 * freedom)
        return per_row * freedom * float(1 - spread + z * math.sqrt(spread)) ** 3
    if measure == "ks":
        return math.sqrt(math.log(2 / 0.001) / 2 * per_row)
    return z * math.sqrt(per_row) * (0.5 if measure in ("nulls", "unseen", "truth") else 1.0)


def coarse_shares(bins: Bins, counts: npt.NDArray[np.number]) -> Floats:
    """Shares of the coarse bins; shape (…, coarse bins). Where there are no rows, 0."""
    coarse = _coarse(bins, np.asarray(counts, dtype=np.float64))
    shares: Floats = coarse / np.maximum(coarse.sum(axis=-1, keepdims=True), 1.0)
    return shares


def _coarse(bins: Bins, counts: Floats) -> Floats:
    if not bins.numeric:
        return counts
    summed: Floats = np.add.reduceat(counts, bins.groups, axis=-1)
    return summed


def _by_shares(before: Floats, now: Floats) -> tuple[Floats, Floats]:
    used = (before > 0) | (now > 0)
    half = 0.5 * used
    # What neither side has is 1/1 on both sides and adds nothing.
    p = (before + half) / (before.sum(axis=-1, keepdims=True) + half.sum(axis=-1, keepdims=True))
    q = (now + half) / (now.sum(axis=-1, keepdims=True) + half.sum(axis=-1, keepdims=True))
    p, q = np.where(used, p, 1.0), np.where(used, q, 1.0)
    psi = ((q - p) * np.log(q / p)).sum(axis=-1)
    middle = (p + q) / 2
    shannon = np.where(used, p * np.log2(p / middle) + q * np.log2(q / middle), 0.0).sum(axis=-1) / 2
    return psi, np.sqrt(np.clip(shannon, 0.0, 1.0))


def _by_truth(before: Floats, now: Floats) -> Floats:
    """Levels come in pairs of false and true, one a range of the prediction."""
    false_before, true_before = before[..., 0:-3:2], before[..., 1:-3:2]
    false_now, true_now = now[..., 0:-3:2], now[..., 1:-3:2]
    rows_before, rows_now = false_before + true_before, false_now + true_now
    # A range that the reference hardly has tells little: half a row of each is added, as above.
    apart = np.abs((true_now + 0.5) / (rows_now + 1) - (true_before + 0.5) / (rows_before + 1))
    rows = rows_now.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved: Floats = (apart * rows_now).sum(axis=-1) / rows
    return moved


def _by_distribution(bins: Bins, before: Floats, now: Floats) -> dict[str, Floats]:
    apart = _below(before) - _below(now)
    empty = np.full(apart.shape[:-1], np.nan)
    if not bins.cuts:
        return {"ks": empty, "wasserstein": empty}
    found = {"ks": np.abs(apart).max(axis=-1), "wasserstein": empty}
    if bins.scale is not None:
        places = np.array([cut.at for cut in bins.cuts])
        # A heavy value has two cuts at one place, with no width between them: its jump counts on both sides.
        width = np.diff(places)
        middle = (np.abs(apart[..., :-1]) + np.abs(apart[..., 1:])) / 2
        found["wasserstein"] = (middle * width).sum(axis=-1) / bins.scale
    return found


def _below(counts: Floats) -> Floats:
    """Share of the values below each cut; shape (…, cuts). NaN where there are no values."""
    values = counts[..., :-1]
    share: Floats = np.cumsum(values, axis=-1)[..., :-1] / values.sum(axis=-1, keepdims=True)
    return share
