"""Whether the share of true labels is normal: each day and the last days, beside the days before.

A label that is suddenly nearly always true is more often a broken feed than a new world, and a model that learns from
it harms. But days differ: of the flights of 2013, a stormy day had 79 % late ones and a calm one 4 %, in months of 13 %
to 33 %. So the log-odds of a window's rate are compared with those of the windows of the same length among the sound
days before: the moving-block bootstrap (Künsch 1989) with one block, which keeps how days follow each other. Limits are
set so that no window of 2013 is called a defect, and each day at 97 % is (``tests/unit/monitoring``). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

REFERENCE_DAYS = 56
"""Sound days that a window is compared with: two months know calm and storms, and follow the season."""
FEWEST_REFERENCE = 21
"""Days below which nothing can be said."""
FEWEST_LABELS = 30
"""Labels that a day needs to be judged, or to judge by."""
LIMITS = {1: 4.75, 3: 6.0, 7: 7.0}
"""Days of a window → deviations from the reference that are too many. Of 2013 the farthest were 4.4, 5.2 and 6.2."""
LEAST_SPREAD = 0.25
"""Log-odds. Below, days are more alike than is worth an alarm: a rate of 20 % to within 4 points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateOfDays:
    """The share of true labels in a window, and what was normal."""

    last: date
    days: int
    labels: int
    rate: float
    """Of several days, where their log-odds average."""
    reference_days: int
    normal: float
    """Middle of the reference, 0..1."""
    low: float
    high: float
    """Rates beyond are a defect."""
    deviations: float

    @property
    def normal_enough(self) -> bool:
        return abs(self.deviations) <= LIMITS[self.days]


def daily_rates(labels: pl.LazyFrame | pl.DataFrame) -> pl.DataFrame:
    """One row per day: ``day``, ``labels`` (with one) and ``positives``, in order.

    Args:
        labels: One row per thing: ``day`` and ``label``, null without one.
    """
    counted = (
        labels.lazy()
        .group_by("day")
        .agg(
            pl.col("label").count().cast(pl.Int64).alias("labels"),
            pl.col("label").sum().cast(pl.Int64).alias("positives"),
        )
    )
    return counted.sort("day").collect()


def judge_rates(days: pl.DataFrame, *, newest: int = 7, accepted: date | None = None) -> list[RateOfDays]:
    """Judges the windows that end within the newest days. What was a defect is not what later ones are judged by.

    Args:
        days: From ``daily_rates``; some two months more than ``newest``.
        newest: Days that windows end in.
        accepted: Days up to this one are normal, by somebody's word: they are judged by, and not judged.

    Returns:
        One per day and window that could be judged, in the order of days.
    """
    usable = days.filter(pl.col("labels") >= FEWEST_LABELS).sort("day")
    counts, hits = usable["labels"].to_numpy().astype(float), usable["positives"].to_numpy().astype(float)
    odds = np.log((hits + 0.5) / (counts - hits + 0.5))
    dates: list[date] = usable["day"].to_list()
    sound: list[int] = []
    judged: list[RateOfDays] = []
    for place in range(len(dates)):
        of_day = [
            found
            for length, limit in LIMITS.items()
            if place + 1 >= length
            and (accepted is None or dates[place + 1 - length] > accepted)
            and (found := _judge(odds, counts, hits, dates, sound, place, length, limit)) is not None
        ]
        judged += of_day
        if all(found.normal_enough for found in of_day):
            sound.append(place)
    shown = set(dates[-newest:])
    return [found for found in judged if found.last in shown]


def _judge(
    odds: np.ndarray,
    counts: np.ndarray,
    hits: np.ndarray,
    dates: Sequence[date],
    sound: Sequence[int],
    place: int,
    length: int,
    limit: float,
) -> RateOfDays | None:
    window = slice(place + 1 - length, place + 1)
    reference = odds[[day for day in sound if day < window.start][-REFERENCE_DAYS:]]
    if len(reference) < FEWEST_REFERENCE:
        return None
    middle = float(reference.mean())
    means = np.convolve(reference, np.full(length, 1 / length), "valid")
    # Overlapping windows share their days: fewer are independent than there are.
    spread = float(means.std()) * math.sqrt(len(means) / max(1, len(means) - length))
    normal = 1 / (1 + math.exp(-middle))
    by_chance = 1 / (float(counts[window].sum()) * normal * (1 - normal))
    deviation = math.sqrt(max(spread, LEAST_SPREAD) ** 2 + by_chance)
    rates = [1 / (1 + math.exp(-(middle + side * limit * deviation))) for side in (-1, 1)]
    mean = float(odds[window].mean())
    return RateOfDays(
        last=dates[place],
        days=length,
        labels=int(counts[window].sum()),
        rate=float(hits[place] / counts[place]) if length == 1 else 1 / (1 + math.exp(-mean)),
        reference_days=len(reference),
        normal=normal,
        low=rates[0],
        high=rates[1],
        deviations=(mean - middle) / deviation,
    )
