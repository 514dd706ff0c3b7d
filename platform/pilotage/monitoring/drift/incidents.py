"""Incidents: a day or a few that are unlike all of the weeks before, such as a storm that cancels half the flights.

They are told at once, and left out of what is compared, of the reference, and of what thresholds are learned from: the
next storm must not look normal. What lasts longer than an incident may is no incident but a change, and is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import msgspec
import numpy as np

from pilotage.monitoring.drift.bins import Bins
from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.measures import coarse_shares

LONG, SHORTEST = 28, 7
"""Days before, at most and at least, that a day is compared with."""
JUMP = 0.2
"""How far a rate of nulls, missing labels or unseen levels is above the highest of the days before, 0..1."""
ROWS = 2.0
"""How many times fewer, or more, rows than on the day before with the fewest, or the most."""
FARTHER = 2.0
"""How many times farther the values are from the days before than any of these was (total variation distance)."""
MOST = 0.5
"""Share of the weight of all columns whose values have to be farther."""
_DAY = timedelta(days=1)


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Days that are unlike the weeks before them."""

    days: tuple[date, ...]
    why: str
    """What is unlike, on the first of them."""


def find_incidents(
    days: Days,
    bins: Sequence[Bins],
    weights: Mapping[str, float],
    *,
    at_most: int,
    known: Iterable[date] = (),
    since: date | None = None,
) -> list[Incident]:
    """Looks at each day beside the weeks before it, in their order.

    Args:
        days: Counts of days. A column without rows on a day was not there, or not known yet.
        bins: Their bins.
        weights: Column → what it matters.
        at_most: Days that an incident may last; the days of a longer one are given back.
        known: Days that were found before, when there was more before them.
        since: Days before this one were looked at then, and are not again; ``None`` to look at all.

    Returns:
        The incidents, oldest first. The last one may still go on.
    """
    earlier = set(known)
    odd: dict[int, str] = {}
    for place, day in enumerate(days.days):
        before = [each for each in range(max(0, place - LONG), place) if each not in odd]
        if day in earlier:
            odd[place] = "Found before"
        elif (
            (since is None or day >= since)
            and len(before) >= SHORTEST
            and (why := _unlike(days, bins, weights, place, np.array(before)))
        ):
            odd[place] = why
        if place in odd and not _short(odd, place, at_most):
            # It lasts: from its first day on it was a change.
            for back in range(place, -1, -1):
                if odd.pop(back, None) is None:
                    break
    found: list[Incident] = []
    for place, why in odd.items():
        if found and days.days[place] - found[-1].days[-1] == _DAY:
            found[-1] = Incident(days=(*found[-1].days, days.days[place]), why=found[-1].why)
        else:
            found.append(Incident(days=(days.days[place],), why=why))
    return found


def _short(odd: Mapping[int, str], place: int, at_most: int) -> bool:
    return not all(place - back in odd for back in range(at_most + 1))


def _unlike(
    days: Days, bins: Sequence[Bins], weights: Mapping[str, float], place: int, before: np.ndarray
) -> str | None:
    rows = days.rows
    fewest, most = rows[before].min(), rows[before].max()
    if rows[place] * ROWS < fewest or rows[place] > most * ROWS:
        return f"{rows[place]:,} rows, where the days before had {fewest:,} to {most:,}"
    told: list[tuple[float, str]] = []
    farther = 0.0
    for each in bins:
        counts = days.counts[each.name].astype(np.float64)
        there = before[counts[before].sum(axis=1) > 0]
        if len(there) < SHORTEST or not counts[place].sum():
            continue
        rates = {"without a value": -1} | ({} if each.numeric else {"with a level never seen": -2})
        for words, bin_ in rates.items():
            share = counts[:, bin_] / np.maximum(counts.sum(axis=1), 1)
            highest = share[there].max()
            if share[place] >= highest + JUMP:
                told.append(
                    (share[place] - highest, f"{each.name}: {share[place]:.0%} {words}, at most {highest:.0%} before")
                )
        shares = coarse_shares(each, counts)
        pool = coarse_shares(each, counts[there].sum(axis=0))
        apart = np.abs(shares[[*there, place]] - pool).sum(axis=1) / 2
        if apart[-1] > FARTHER * max(apart[:-1].max(), 0.05):
            farther += weights[each.name]
    if told:
        return max(told, key=lambda one: one[0])[1]
    if farther > MOST * sum(weights.values()):
        return f"Values of columns that make {farther / sum(weights.values()):.0%} of the weight are far off"
    return None
