"""The ways of looking after a model that a team would otherwise choose: the opponents of Pilotage's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl

from pilotage.replay.season import Night
from pilotage.replay.workshop import Trained
from pilotage.training.config import TrainConfig

PSI = 0.2
"""What the popular recipe calls "has shifted"."""
WINDOW = timedelta(days=7)
_BINS = 10
_LEAST = 1e-4


class Frozen:
    """Never trained again."""

    name = "frozen"

    def decide(self, night: Night) -> None:
        """Nothing."""


class Nightly:
    """Trains every night, and promotes whatever comes out."""

    def __init__(self, config: TrainConfig, *, every: int = 1, all_rows: bool = False) -> None:
        """Prepares it.

        Args:
            config: Of every training.
            every: Nights from one training to the next.
            all_rows: Whether nothing is held back: who always promotes needs no rows to judge on.
        """
        self.name = "nightly, all rows" if all_rows else "nightly"
        self._train = _trainer(config, all_rows=all_rows)
        self._every = every

    def decide(self, night: Night) -> None:
        """Trains and promotes."""
        if night.day.toordinal() % self._every == 0:
            night.promote(self._train(night, "Every night."), "Always.")


class Threshold:
    """What the popular recipe does: when any input's PSI over the last week is above 0.2, train and promote."""

    def __init__(self, config: TrainConfig, *, all_rows: bool = False) -> None:
        """See ``Nightly``."""
        self.name = "threshold, all rows" if all_rows else "threshold"
        self._train = _trainer(config, all_rows=all_rows)

    def decide(self, night: Night) -> None:
        """Compares the last seven days with the champion's reference sample."""
        reference = night.champion.bundle.reference
        current = night.champion.bundle.compute(night.inputs(night.day - WINDOW + timedelta(days=1)))
        moved = {name: psi(reference[name], current[name]) for name in reference.columns}
        worst = max(moved, key=lambda name: moved[name])
        if moved[worst] > PSI:
            why = f"PSI of {worst} is {moved[worst]:.2f}, above {PSI}."
            night.note("alarm", None, why)
            night.promote(self._train(night, why), "Always.")


def _trainer(config: TrainConfig, *, all_rows: bool) -> Callable[[Night, str], Trained]:
    if all_rows:
        return lambda night, why: night.fit_all(why, config=config)
    return lambda night, why: night.train(why, config=config)


def psi(reference: pl.Series, current: pl.Series) -> float:
    """The index as the popular recipe has it: deciles of the reference, nulls dropped, empty bins at 0.0001.

    The platform's own is in ``pilotage.monitoring``; it counts nulls and knows its noise.
    """
    both = before, now = reference.drop_nulls(), current.drop_nulls()
    if before.is_empty() or now.is_empty():
        return 0.0
    if before.dtype == pl.String:
        shares = [_shares(series.to_numpy()) for series in both]
    else:
        quantiles = [before.quantile(part / _BINS, "linear") for part in range(1, _BINS)]
        edges = sorted({float(edge) for edge in quantiles if edge is not None})
        shares = [_shares(np.searchsorted(edges, series.cast(pl.Float64).to_numpy(), side="left")) for series in both]
    bins = set(shares[0]) | set(shares[1])
    pairs = [(max(shares[0].get(one, 0.0), _LEAST), max(shares[1].get(one, 0.0), _LEAST)) for one in bins]
    return math.fsum((after - share) * math.log(after / share) for share, after in pairs)


def _shares(values: np.ndarray) -> dict[object, float]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), (counts / counts.sum()).tolist(), strict=True))
