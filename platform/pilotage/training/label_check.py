"""Whether the labels of a training set may be learned from: a rate that jumps where none ever was is a broken feed.

Looks at nothing but the set. How labels come in, and from where, is ``monitoring/label_quality.py``'s to watch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.spec import ModelSpec

HISTORY = 14
"""Days before, at least, that a day is compared with."""
FARTHER = 1.5
"""How many times farther from the median than any day before, in log-odds, a day's rate may be."""
LEAST = 3.0
"""Distance in log-odds that is never a jump: from 20 % to 80 %, as a storm may do."""
ROWS = 20
"""Labelled rows below which a day's rate says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A day whose labels can hardly be what they are called."""

    day: date
    rows: int
    rate: float
    """Share of positives, 0..1."""
    usual: float
    """Median of the days before."""
    lowest: float
    """Of the days before."""
    highest: float

    @property
    def why(self) -> str:
        return (
            f"On {self.day} {self.rate:.0%} of {self.rows:,} labels are true; on the days before it were "
            f"{self.lowest:.0%} to {self.highest:.0%}."
        )

    def payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "day": self.day.isoformat(), "why": self.why, "kind": "label_rate"}


def label_jumps(spec: ModelSpec, frame: pl.DataFrame, *, accepted: date | None = None) -> list[Jump]:
    """Days on which the rate of positives is far from that of every day before, oldest first.

    A day is held against the days before it that were no jump themselves, so that the second day of a broken feed
    does not look normal.

    Args:
        spec: The model; nothing comes of one without a time.
        frame: Rows with event time and label.
        accepted: Days up to this one are none, by somebody's word.
    """
    if spec.event_time is None or frame.is_empty():
        return []
    day = pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date().alias("day")
    days = (
        frame.group_by(day)
        .agg(rows=pl.col(LABEL).count(), positives=pl.col(LABEL).sum())
        .filter(pl.col("rows") >= ROWS)
        .sort("day")
    )
    rows, positives = days["rows"].to_numpy(), days["positives"].to_numpy()
    odds = np.log((positives + 0.5) / (rows - positives + 0.5))
    rates = positives / rows
    sound: list[int] = []
    jumps: list[Jump] = []
    for place in range(days.height):
        if len(sound) >= HISTORY and (accepted is None or days["day"][place] > accepted):
            before = odds[sound]
            usual = np.median(before)
            if abs(odds[place] - usual) > max(LEAST, FARTHER * np.abs(before - usual).max()):
                jumps.append(
                    Jump(
                        day=days["day"][place],
                        rows=int(rows[place]),
                        rate=float(rates[place]),
                        usual=float(np.median(rates[sound])),
                        lowest=float(rates[sound].min()),
                        highest=float(rates[sound].max()),
                    )
                )
                continue
        sound.append(place)
    return jumps
