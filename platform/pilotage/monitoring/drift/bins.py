"""The bins of a column, fixed once by the reference. Where values are counted; counting itself is ``counting.py``.

Evidently draws equal-width bins over both samples, so that a single value of 1e6 puts everything else into one bin
and hides a shift of one standard deviation; it drops nulls; and it raises on a column without values. Here the bins
come from the reference alone, null is a bin of its own, and any column has an answer.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import polars as pl

from pilotage.errors import DataError

FINE, COARSE = 50, 10
"""Quantiles of the reference at which a numeric column is cut: for KS and Wasserstein, and for PSI and Jensen-Shannon.
A KS distance is exact at the cuts, so it is off by 1/50 at most."""
BEYOND = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Cuts beyond the outermost quantiles (2 and 98 %), in the reference's scale. What lies further out
counts as if it lay at the last of them:
an outlier of 1e6 then moves Wasserstein's distance as little as one of eight scales does."""
RARE = 0.01
"""Levels with less than this share of the reference are one bin: a hundred rare levels would add up to mere noise."""
KNOWN_LEVELS = 10_000
"""Rare levels that are remembered, the most frequent first. Beyond them a level can't be told from a new one."""
SAMPLE_ROWS = 200_000
"""Rows of a long reference that its cuts are taken from, evenly spaced. Its counts are of all rows."""

Role = Literal["input", "prediction", "label", "concept"]
"""``concept``: what the labels were where the model said what it said. Only it moves when the inputs stay as they were
and the truth behind them changes."""


class Cut(msgspec.Struct, frozen=True):
    """A place at which a numeric column is cut."""

    at: float
    below: bool
    """Counts what is < ``at``, and not what is ≤: a heavy value has a cut on each side, and a bin of its own."""
    coarse: bool
    """Whether the coarse bins are cut here too."""


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """The bins of one column.

    A numeric column has ``len(cuts) + 1`` bins of values and one of nulls; a categorical one a bin a level, one of
    rare levels, one of levels that the reference doesn't have, and one of nulls.
    """

    name: str
    role: Role
    cuts: tuple[Cut, ...] = ()
    scale: float | None = None
    """What Wasserstein's distance is divided by: the reference's IQR / 1.349 (σ of a normal distribution), or its
    standard deviation where half of it is one value. ``None`` where it doesn't vary, or for levels."""
    levels: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    numeric: bool = True

    @property
    def count(self) -> int:
        """Number of bins."""
        return len(self.cuts) + 2 if self.numeric else len(self.levels) + 3

    @property
    def groups(self) -> list[int]:
        """First bin of each coarse bin, in order; the last one is that of the nulls."""
        if not self.numeric:
            return list(range(self.count))
        return [0, *(place + 1 for place, cut in enumerate(self.cuts) if cut.coarse), len(self.cuts) + 1]


RANGES = 5
"""Ranges of the prediction in which labels are counted apart."""


def concept_bins(name: str) -> Bins:
    """The bins of labels given predictions: ``1 false``, ``1 true``, ``2 false``, …; no label is null."""
    levels = tuple(f"{place} {truth}" for place in range(1, RANGES + 1) for truth in ("false", "true"))
    return Bins(name=name, role="concept", levels=levels, numeric=False)


def concept_column(name: str, prediction: Bins, label: str) -> pl.Expr:
    """The level of each row: the fifth of the reference's predictions that its own is in, and what became true."""
    coarse = sorted({cut.at for cut in prediction.cuts if cut.coarse})
    edges = coarse[1::2][: RANGES - 1]
    said = pl.col(prediction.name)
    place = pl.sum_horizontal([pl.lit(1, pl.Int64), *[(said > edge) for edge in edges]])
    words = pl.when(pl.col(label)).then(pl.lit(" true")).otherwise(pl.lit(" false"))
    known = pl.col(label).is_not_null() & said.is_not_null()
    return pl.when(known).then(place.cast(pl.String) + words).alias(name)


def fit_bins(frame: pl.LazyFrame, roles: dict[str, Role]) -> list[Bins]:
    """Fixes the bins of columns by the reference.

    Args:
        frame: The reference: one row per prediction.
        roles: Column → what it is to the model.

    Raises:
        DataError: The reference has no rows, or lacks a column.
    """
    schema = frame.collect_schema()
    if missing := [name for name in roles if name not in schema]:
        raise DataError(
            f"The reference has no column {missing[0]}.",
            fix="Compare with a bundle that was trained on the same features.",
            missing=missing,
        )
    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    if rows == 0:
        raise DataError("The reference has no rows.", fix="Give a sample with rows.")
    step = math.ceil(rows / SAMPLE_ROWS)
    return [
        _levels(frame, name, role, rows) if is_text(schema[name]) else _quantiles(frame, name, role, step)
        for name, role in roles.items()
    ]


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of this type is counted by its levels."""
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def number(name: str, dtype: pl.DataType) -> pl.Expr:
    """A column as numbers: flags as 0 and 1, times as what they are stored as; NaN counts as null."""
    column = pl.col(name)
    if dtype in (pl.Boolean, pl.Null):
        return column.cast(pl.Int8)
    if dtype.is_temporal():
        return column.to_physical()
    return column.fill_nan(None) if dtype.is_float() else column


def _quantiles(frame: pl.LazyFrame, name: str, role: Role, step: int) -> Bins:
    dtype = frame.collect_schema()[name]
    values = frame.select(number(name, dtype).cast(pl.Float64)).gather_every(step).collect().to_series()
    ordered = values.filter(values.is_finite()).sort()
    rows = ordered.len()
    if not rows:
        return Bins(name=name, role=role)

    def at(part: int, parts: int) -> float:
        return float(ordered[math.ceil(rows * part / parts) - 1])

    coarse = [at(part, COARSE) for part in range(1, COARSE)]
    fine = [at(part, FINE) for part in range(1, FINE)]
    spread = (at(3, 4) - at(1, 4)) / 1.349
    if not spread:  # Of what is not in the tails, as the outlier of 1e6 would be.
        spread = float(ordered.clip(at(1, 1000), at(999, 1000)).std(ddof=0) or 0.0)  # type: ignore[arg-type]
    low, high = fine[0], fine[-1]
    outer = {high + far * spread for far in BEYOND} | {low - far * spread for far in BEYOND}
    places = sorted({*fine, *outer}) if spread else sorted(set(fine))
    heavy = {value for value in fine if fine.count(value) > 1}
    cuts: list[Cut] = []
    for place in places:
        if place in heavy:
            cuts.append(Cut(place, True, coarse.count(place) > 1))
        cuts.append(Cut(place, False, place in coarse))
    return Bins(name=name, role=role, cuts=tuple(cuts), scale=spread or None)


def _levels(frame: pl.LazyFrame, name: str, role: Role, rows: int) -> Bins:
    counts = (
        frame.select(pl.col(name).cast(pl.String))
        .group_by(name)
        .len("rows")
        .filter(pl.col(name).is_not_null())
        .sort("rows", name, descending=[True, False])
        .head(KNOWN_LEVELS)
        .collect(engine="streaming")
        .rows()
    )
    common = sorted(level for level, count in counts if count >= RARE * rows)
    told = set(common)
    rare = tuple(sorted(level for level, _ in counts if level not in told))
    return Bins(name=name, role=role, levels=tuple(common), rare=rare, numeric=False)
