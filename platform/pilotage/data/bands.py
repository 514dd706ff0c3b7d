"""Bands that a day's numbers must lie in, learned from the days before it. Pure arithmetic on small series.

A band is median ± k · 1.4826 · MAD (the median absolute deviation, scaled so that for normal data it estimates the
standard deviation; Rousseeuw & Croux 1993, doi:10.1080/01621459.1993.10476408). It is never narrower than the
expectation's ``narrowest``, so that a number that hardly ever moves does not raise an alarm over nothing.

A day is judged only by earlier days that passed. Days that were themselves out of the band are left out, so that a
storm does not make the next one look ordinary, unless they are the majority of the last fourteen: then the world has
changed, and the band follows it. For that, days count that nothing but this band refused; days without rows never do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from pilotage.data.source import Expectation

WINDOW = 60
"""Days a band is learned from at most: two months, so that it follows the season."""
MINIMUM = 7
"""Days a band is learned from at least. With fewer, only fixed bounds hold."""
RECENT = 14
"""Days of which a majority out of band means that the world has changed."""
_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The numbers of one batch, and how it did."""

    day: date | None
    values: Mapping[str, float | None]
    """Expectation → number, for those that can be judged on this batch."""
    passed: bool = True
    """Whether nothing that blocks was out of band."""
    unmet: frozenset[str] = frozenset()
    """Expectations that were not met."""
    empty: bool = False
    """Whether no row of it is in order, so that its numbers are those of nothing."""
    not_finite: frozenset[str] = frozenset()
    """Those whose SQL gave NaN or infinity, and that therefore have no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What one number of one batch may be."""

    low: float | None
    high: float | None
    learned_from: int
    """Earlier days behind it; 0 for fixed bounds alone."""

    def holds(self, value: float | None) -> bool:
        """Whether a value lies in the band, ends included. What could not be measured does not."""
        return (
            value is not None and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        )


def learn(
    expectations: Sequence[Expectation], batches: Sequence[Measured], *, history: Iterable[Measured] = ()
) -> list[dict[str, Band]]:
    """The bands of every batch.

    Args:
        expectations: What is expected.
        batches: The batches to judge, oldest first. A later one learns from an earlier one that is in order.
        history: Days judged in earlier runs, oldest first, none of them among ``batches``.

    Returns:
        One mapping (name → band) for each batch, in their order, with the names that the batch has numbers for.
    """
    memory = {item.name: deque[tuple[float, bool]](maxlen=WINDOW) for item in expectations}
    earlier = deque(history)
    learned = []
    for batch in batches:
        while earlier and batch.day is not None and earlier[0].day is not None and earlier[0].day < batch.day:
            _remember(memory, earlier.popleft(), expectations)
        bands = {item.name: band(item, memory[item.name]) for item in expectations if item.name in batch.values}
        learned.append(bands)
        unmet = {name for name, each in bands.items() if not each.holds(batch.values[name])}
        blocked = any(item.severity == "block" and item.name in unmet for item in expectations)
        _remember(
            memory,
            replace(batch, passed=batch.passed and not blocked, unmet=frozenset(unmet)),
            expectations,
        )
    return learned


def band(expectation: Expectation, past: Sequence[tuple[float, bool]]) -> Band:
    """The band of one expectation.

    Args:
        past: Earlier values, oldest first, each with whether it had met the expectation.
    """
    low, high, used = expectation.low, expectation.high, 0
    if expectation.learned is not None:
        ordinary = _ordinary(past)
        if len(ordinary) >= MINIMUM:
            values = np.asarray(ordinary)
            middle = float(np.median(values))
            spread = float(np.median(np.abs(values - middle)))
            half = max(expectation.learned * _TO_SIGMA * spread, expectation.narrowest)
            used = values.size
            low = middle - half if low is None else max(low, middle - half)
            high = middle + half if high is None else min(high, middle + half)
    return Band(low=low, high=high, learned_from=used)


def _ordinary(past: Sequence[tuple[float, bool]]) -> list[float]:
    recent = list(past)[-RECENT:]
    if len(recent) == RECENT and sum(not met for _, met in recent) > RECENT // 2:
        return [value for value, _ in recent]
    return [value for value, met in past if met]


def _remember(
    memory: Mapping[str, deque[tuple[float, bool]]], batch: Measured, expectations: Sequence[Expectation]
) -> None:
    if batch.empty:
        return
    refused_by = {item.name for item in expectations if item.severity == "block" and item.name in batch.unmet}
    for name, past in memory.items():
        value = batch.values.get(name)
        if value is not None and (batch.passed or refused_by == {name}):
            past.append((value, name not in batch.unmet))
