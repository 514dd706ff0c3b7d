"""The population stability index of one column, from bins that the reference sample fixes. Numbers only, no verdicts.

Evidently draws equal-width bins over both samples, so that a single value of 1e6 puts everything else into one bin
and hides a shift of one standard deviation; it drops nulls; and it raises on a column without values. Here the bins
come from the reference alone, null is a bin of its own, and any column has an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from pilotage.errors import DataError

QUANTILES = 10
"""Bins of a numeric column: deciles of the reference."""
RARE = 0.01
"""Levels with less than this share of the reference are one bin: a hundred rare levels would add up to mere noise."""

_NULL = -1
_UNSEEN = -2
_RARE = -3


@dataclass(frozen=True, slots=True, kw_only=True)
class Psi:
    """The index of one column, with what it takes to judge it."""

    value: float
    """Sum over bins of (current - reference) · ln(current / reference) of the bins' shares; 0 or more."""
    bins: int
    """Bins in which either sample has a row."""


def psi(reference: pl.Series, current: pl.Series) -> Psi:
    """Measures how far ``current`` has moved from ``reference``. The order of the rows doesn't matter.

    Half a row is added to every bin that has a row in either sample (Jeffreys' prior), so that an empty bin is neither
    infinite nor decided by a constant. Formula: Siddiqi, "Credit Risk Scorecards" (2006), page 136.

    Args:
        reference: Numbers, booleans, times or strings.
        current: The same kind of values.

    Raises:
        DataError: A sample has no rows, or one holds text and the other numbers.
    """
    for sample, series in (("reference", reference), ("current", current)):
        if series.is_empty():
            raise DataError(
                f"The {sample} sample of {series.name} has no rows.", fix="Give a sample with rows.", column=series.name
            )
    empty = pl.Null()
    if empty not in (reference.dtype, current.dtype) and _is_text(reference) != _is_text(current):
        raise DataError(
            f"{current.name} is {current.dtype} now, and {reference.dtype} in the reference sample.",
            fix="Compare columns of one type.",
            column=current.name,
        )
    text = _is_text(reference) or (reference.dtype == empty and _is_text(current))
    before, now = _by_level(reference, current) if text else _by_quantile(_numeric(reference), _numeric(current))
    bins = sorted(before.keys() | now.keys())
    total_before, total_now = reference.len() + len(bins) / 2, current.len() + len(bins) / 2
    shares = [((before.get(one, 0) + 0.5) / total_before, (now.get(one, 0) + 0.5) / total_now) for one in bins]
    return Psi(value=math.fsum((q - p) * math.log(q / p) for p, q in shares), bins=len(bins))


def noise(bins: int, reference_rows: int, current_rows: int) -> float:
    """The index that two samples of one distribution exceed in one of a thousand cases.

    Without drift the index is about (1/n + 1/m) times a chi-square with bins - 1 degrees of freedom (Yurdakul,
    "Statistical Properties of Population Stability Index", 2018); its quantile is Wilson and Hilferty's (1931).
    """
    freedom = bins - 1
    if freedom < 1:
        return 0.0
    z = 3.0902  # 99.9 % of the standard normal distribution
    spread = 2 / (9 * freedom)
    return (1 / reference_rows + 1 / current_rows) * freedom * (1 - spread + z * math.sqrt(spread)) ** 3


def _is_text(series: pl.Series) -> bool:
    return series.dtype in (pl.String, pl.Categorical, pl.Enum)


def _numeric(series: pl.Series) -> pl.Series:
    """Physical numbers; NaN counts as null."""
    if series.dtype in (pl.Boolean, pl.Null):
        return series.cast(pl.Int64)
    if series.dtype.is_temporal():
        return series.to_physical()
    return series.fill_nan(None) if series.dtype.is_float() else series


def _by_quantile(reference: pl.Series, current: pl.Series) -> tuple[dict[int, int], dict[int, int]]:
    ordered = reference.drop_nulls().sort()
    rows = ordered.len()
    deciles = [ordered[math.ceil(rows * part / QUANTILES) - 1] for part in range(1, QUANTILES)] if rows else []
    edges = sorted(set(deciles))
    # A value that takes more than one decile is a bin of its own: what is below it and above it are told apart, so
    # that a flag which was nearly always 1, or rain that was nearly always 0, can drift in either direction.
    atoms = [edge for edge in edges if deciles.count(edge) > 1]
    return _counted(reference, edges, atoms), _counted(current, edges, atoms)


def _counted(series: pl.Series, edges: list[float], atoms: list[float]) -> dict[int, int]:
    values = series.drop_nulls()
    counts = {_NULL: series.null_count()} if series.null_count() else {}
    if values.is_empty():
        return counts
    # Bins are (edge, next edge]; the second term moves a value on from its atom's lower side to the atom itself.
    bins = pl.Series(edges, dtype=pl.Float64).search_sorted(values.cast(pl.Float64), side="left").cast(pl.Int64)
    bins += pl.Series(atoms, dtype=pl.Float64).search_sorted(values.cast(pl.Float64), side="right").cast(pl.Int64)
    return counts | _tally(bins)


def _by_level(reference: pl.Series, current: pl.Series) -> tuple[dict[int, int], dict[int, int]]:
    levels = reference.cast(pl.String).drop_nulls().value_counts().rows()
    common = sorted(level for level, rows in levels if rows >= RARE * reference.len())
    code = {level: _RARE for level, _ in levels} | {level: number for number, level in enumerate(common)}

    def counted(series: pl.Series) -> dict[int, int]:
        counts = {_NULL: series.null_count()} if series.null_count() else {}
        for level, rows in series.cast(pl.String).drop_nulls().value_counts().rows():
            one = code.get(level, _UNSEEN)
            counts[one] = counts.get(one, 0) + rows
        return counts

    return counted(reference), counted(current)


def _tally(bins: pl.Series) -> dict[int, int]:
    return dict(bins.rename("bin").value_counts().rows())
