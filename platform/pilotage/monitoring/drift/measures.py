"""How far two counts are from each other: effect sizes, not p-values. Arrays in, arrays out; nothing is judged here.

At 70,000 rows every p-value is significant; an effect size stays what it is. What is much is learned (``learning.py``).
A new measure is a function and its row in ``MEASURES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotage.monitoring.drift.bins import Bins

Floats = npt.NDArray[np.float64]

_Z = 3.0902
"""99.9 % of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure that can raise an alarm."""

    words: str
    """What a verdict calls it, before its value."""
    of: Callable[[Bins], bool]
    """Which columns have it."""
    effect: Callable[[Bins, Floats, Floats], Floats]
    """Its value by the counts of reference and window, of shapes that go together (…, bins); shape (…)."""
    noise: Callable[[Bins, float], float]
    """What it exceeds in about one of a thousand windows by rows alone, had they been drawn independently; by 1/n + 1/m
    of the rows of reference and window."""
    smallest: float
    """Smaller effects mean nothing, however surely they are there."""
    declared: float
    """Its threshold while there is too little history to learn from; conservative."""


def decided_on(bins: Bins) -> tuple[str, ...]:
    """The measures that can raise an alarm for a column."""
    return tuple(name for name, each in MEASURES.items() if each.of(bins))


def effects(bins: Bins, reference: Floats, current: Floats) -> dict[str, Floats]:
    """The measures that are decided on.

    Args:
        bins: The column's.
        reference: Counts; shape (…, bins).
        current: Counts of a shape that goes with it.

    Returns:
        Measure → shape (…); NaN where either side has nothing to compare.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: MEASURES[name].effect(bins, reference, current) for name in decided_on(bins)}


def measures(bins: Bins, reference: npt.NDArray[np.number], current: npt.NDArray[np.number]) -> dict[str, Floats]:
    """Every measure of a column: the ``effects``, and ``js`` beside ``psi``. It is only told, since it ranks as PSI."""
    before, now = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    found = effects(bins, before, now)
    return found | {"js": _js(bins, before, now)} if "psi" in found else found


def declared(alert_psi: float) -> dict[str, float]:
    """Measure → threshold while there is too little history to learn from; that of PSI is the model's own."""
    return {name: each.declared for name, each in MEASURES.items()} | {"psi": alert_psi}


def null_rate(counts: npt.NDArray[np.number]) -> float:
    """Share of rows without a value, 0..1."""
    return float(counts[-1] / counts.sum())


def noise(bins: Bins, measure: str, reference_rows: float, rows: float) -> float:
    """What a measure exceeds by rows alone, as ``Measure.noise`` says."""
    return MEASURES[measure].noise(bins, 1 / reference_rows + 1 / rows)


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


def _smoothed(bins: Bins, before: Floats, now: Floats) -> tuple[Floats, Floats]:
    """Shares of the coarse bins, null among them. Half a row is added to every bin that has a row on either side
    (Jeffreys' prior), so that an empty bin is neither infinite nor decided by a constant."""
    before, now = _coarse(bins, before), _coarse(bins, now)
    used = (before > 0) | (now > 0)
    half = 0.5 * used
    p = (before + half) / (before.sum(axis=-1, keepdims=True) + half.sum(axis=-1, keepdims=True))
    q = (now + half) / (now.sum(axis=-1, keepdims=True) + half.sum(axis=-1, keepdims=True))
    # What neither side has is 1/1 on both sides and adds nothing.
    return np.where(used, p, 1.0), np.where(used, q, 1.0)


def _psi(bins: Bins, before: Floats, now: Floats) -> Floats:
    """Σ (q − p) · ln(q / p) (Siddiqi, "Credit Risk Scorecards", 2006, page 136); 0 or more."""
    p, q = _smoothed(bins, before, now)
    total: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return total


def _js(bins: Bins, before: Floats, now: Floats) -> Floats:
    """Square root of the Jensen-Shannon divergence to base 2 (Endres and Schindelin 2003), 0..1."""
    p, q = _smoothed(bins, before, now)
    middle = (p + q) / 2
    shannon = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(axis=-1) / 2
    distance: Floats = np.sqrt(np.clip(shannon, 0.0, 1.0))
    return distance


def _ks(bins: Bins, before: Floats, now: Floats) -> Floats:
    """Largest difference of the distribution functions of what is not null, at the cuts, 0..1."""
    apart = np.abs(_below(before) - _below(now))
    largest: Floats = apart.max(axis=-1) if bins.cuts else np.full(apart.shape[:-1], np.nan)
    return largest


def _wasserstein(bins: Bins, before: Floats, now: Floats) -> Floats:
    """Area between these distribution functions, linear between two cuts, over the reference's scale: how many of its
    standard deviations the values moved on average; 0 or more."""
    apart = np.abs(_below(before) - _below(now))
    # A heavy value has two cuts at one place, with no width between them: its jump counts on both sides.
    width = np.diff([cut.at for cut in bins.cuts])
    area: Floats = ((apart[..., :-1] + apart[..., 1:]) / 2 * width).sum(axis=-1)
    return area / (bins.scale or math.nan)


def _below(counts: Floats) -> Floats:
    """Share of the values below each cut; shape (…, cuts). NaN where there are no values."""
    values = counts[..., :-1]
    share: Floats = np.cumsum(values, axis=-1)[..., :-1] / values.sum(axis=-1, keepdims=True)
    return share


def _unseen(_: Bins, _before: Floats, now: Floats) -> Floats:
    """Share of rows with a level that the reference does not have, 0..1."""
    share: Floats = now[..., -2] / now.sum(axis=-1)
    return share


def _nulls(_: Bins, before: Floats, now: Floats) -> Floats:
    """Absolute difference of the null rates, 0..1."""
    apart: Floats = np.abs(now[..., -1] / now.sum(axis=-1) - before[..., -1] / before.sum(axis=-1))
    return apart


def _truth(_: Bins, before: Floats, now: Floats) -> Floats:
    """How far the label rate moved where the model said the same: mean absolute difference of the rates of five ranges
    of the prediction, weighted by the window's rows, 0..1. Other inputs alone don't move it."""
    # Levels come in pairs of false and true, one a range of the prediction.
    true_before, true_now = before[..., 1:-3:2], now[..., 1:-3:2]
    rows_before, rows_now = before[..., 0:-3:2] + true_before, now[..., 0:-3:2] + true_now
    # A range that the reference hardly has tells little: half a row of each is added, as for PSI.
    apart = np.abs((true_now + 0.5) / (rows_now + 1) - (true_before + 0.5) / (rows_before + 1))
    moved: Floats = (apart * rows_now).sum(axis=-1) / rows_now.sum(axis=-1)
    return moved


def _chi_square(bins: Bins, per_row: float) -> float:
    """Without drift PSI is about (1/n + 1/m) times a chi-square with bins − 1 degrees of freedom (Yurdakul,
    "Statistical Properties of Population Stability Index", 2018), whose quantile is Wilson and Hilferty's (1931)."""
    freedom = len(bins.groups) - 1
    spread = 2 / (9 * freedom)
    return per_row * freedom * float(1 - spread + _Z * math.sqrt(spread)) ** 3


def _massart(_: Bins, per_row: float) -> float:
    """The bound of Massart (1990)."""
    return math.sqrt(math.log(2 / 0.001) / 2 * per_row)


def _near_normal(_: Bins, per_row: float) -> float:
    return _Z * math.sqrt(per_row)


def _of_a_rate(bins: Bins, per_row: float) -> float:
    return 0.5 * _near_normal(bins, per_row)


def _all_but_concept(bins: Bins) -> bool:
    return bins.role != "concept"


MEASURES: dict[str, Measure] = {
    "psi": Measure(words="PSI", of=_all_but_concept, effect=_psi, noise=_chi_square, smallest=0.05, declared=0.25),
    "ks": Measure(words="KS", of=lambda bins: bins.numeric, effect=_ks, noise=_massart, smallest=0.05, declared=0.25),
    "wasserstein": Measure(
        words="Wasserstein",
        of=lambda bins: bins.scale is not None,
        effect=_wasserstein,
        noise=_near_normal,
        smallest=0.1,
        declared=0.5,
    ),
    "unseen": Measure(
        words="unseen levels",
        of=lambda bins: not bins.numeric and bins.role != "concept",
        effect=_unseen,
        noise=_of_a_rate,
        smallest=0.05,
        declared=0.1,
    ),
    "nulls": Measure(
        words="null rate by",
        of=_all_but_concept,
        effect=_nulls,
        noise=_of_a_rate,
        smallest=0.05,
        declared=0.1,
    ),
    "truth": Measure(
        words="label rate at equal predictions by",
        of=lambda bins: bins.role == "concept",
        effect=_truth,
        noise=_of_a_rate,
        smallest=0.03,
        declared=0.15,
    ),
}
"""Every measure that is decided on."""
