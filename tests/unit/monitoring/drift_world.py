"""A made-up model in a made-up world, whose days hang together as real ones do: weather lasts, delays follow it.

The truth is known, so any kind of change can be put in, and what ought to be noticed is known too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import polars as pl

from pilotage.monitoring.drift import Bins, Days, DriftState, DriftVerdict, Thresholds, count_days, judge_window, learn
from pilotage.monitoring.drift.bins import Role, concept_bins, concept_column, fit_bins
from pilotage.monitoring.drift.expected import LEAST, MEANS, expected_cost
from pilotage.monitoring.drift.measures import declared
from pilotage.monitoring.drift.observed import CONCEPT
from pilotage.spec import CostMatrix

FIRST = date(2024, 1, 1)
COST = CostMatrix(true_positive=700, false_positive=200, true_negative=0, false_negative=1000)
IMPORTANCE = {"temp": 0.25, "delay": 0.41, "visib": 0.1, "distance": 0.12, "carrier": 0.1, "rush": 0.02}
"""Feature → share of the model's gain."""
ROLES: dict[str, Role] = {**dict.fromkeys(IMPORTANCE, "input"), "prediction": "prediction", "label": "label"}
DECLARED = declared(0.25)
Change = Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]


def month(days: int = 31, *, rows: int = 250, seed: int = 0, lasts: float = 0.7) -> list[pl.DataFrame]:
    """Days of rows; ``lasts`` is how much of a day's weather is left on the next one."""
    random = np.random.default_rng(seed)
    made = []
    cold, busy = 0.0, 0.0
    for _ in range(days):
        cold = lasts * cold + np.sqrt(1 - lasts**2) * random.normal()
        busy = lasts * busy + np.sqrt(1 - lasts**2) * random.normal()
        frame = pl.DataFrame(
            {
                "temp": 40 + 8 * cold + 4 * random.normal(size=rows),
                "delay": np.exp(2 + 0.4 * busy + 0.8 * random.normal(size=rows)),
                "visib": np.where(random.random(rows) < 0.8, 10.0, random.uniform(0, 10, rows)),
                "distance": random.choice([200, 500, 1000, 2400], rows, p=[0.3, 0.3, 0.25, 0.15]),
                "carrier": random.choice(
                    ["UA", "B6", "EV", "DL", "AA", "HA"], rows, p=[0.3, 0.25, 0.2, 0.15, 0.095, 0.005]
                ),
                "rush": random.random(rows) < 0.4,
            }
        )
        made.append(answered(frame, random))
    return made


def answered(
    frame: pl.DataFrame, random: np.random.Generator, *, truth: float = 1.0, turned: float = 0.0
) -> pl.DataFrame:
    """With what the model says (a fixed function of the inputs), and what becomes true.

    Args:
        frame: Inputs.
        random: Draws the truth.
        truth: How much the odds are what the model thinks: 0 leaves them to chance.
        turned: Share of rows whose truth is turned round.
    """
    odds = (
        (pl.col("delay").fill_null(8.0).log() - 2.3) * 1.2
        - pl.col("visib").fill_null(10.0) * 0.06
        + 0.3 * pl.col("rush").cast(pl.Float64)
        - (pl.col("temp").fill_null(40.0) - 40) * 0.02
        - 0.9
    )
    frame = frame.with_columns(prediction=1 / (1 + (-odds).exp()))
    base = frame["prediction"].mean()
    p = frame["prediction"].to_numpy() * truth + float(base or 0.0) * (1 - truth)
    label = random.random(frame.height) < p
    return frame.with_columns(label=pl.Series(label ^ (random.random(frame.height) < turned)))


@dataclass
class World:
    """A month that a model was released on, and what follows."""

    seed: int = 0
    rows: int = 250
    days: int = 31
    window: int = 7
    false_alarms_a_year: float = 0.2
    years: int = 100
    left_out: tuple[date, ...] = ()
    past: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.past = self.past or month(self.days, rows=self.rows, seed=self.seed)
        self.bins: list[Bins] = [*fit_bins(pl.concat(self.past).lazy(), ROLES), concept_bins(CONCEPT)]
        self.reference = self.count(self.past, FIRST).without(self.left_out)

    def count(self, frames: list[pl.DataFrame], first: date) -> Days:
        """Counts of days, one after another."""
        said = next(each for each in self.bins if each.name == "prediction")
        made = (
            (
                first + timedelta(days=place),
                frame.with_columns(concept_column(CONCEPT, said, "label"), expected_cost("prediction", COST)),
            )
            for place, frame in enumerate(frames)
        )
        return count_days(made, self.bins, MEANS)

    @cached_property
    def thresholds(self) -> Thresholds:
        return learn(
            self.reference,
            self.bins,
            model="made_up",
            version=1,
            window_days=self.window,
            false_alarms_a_year=self.false_alarms_a_year,
            importance=IMPORTANCE,
            declared=DECLARED,
            years=self.years,
        )

    def judge(self, stream: Days, state: DriftState | None = None) -> Iterator[tuple[DriftVerdict, DriftState]]:
        """A verdict a day, from the first day that has a whole window behind it."""
        state = state or DriftState()
        for end in range(self.window, len(stream.days) + 1):
            seen = stream.only(stream.days[max(0, end - self.window - 28) : end])
            judged = judge_window(
                self.reference,
                seen,
                self.bins,
                self.thresholds,
                state,
                days=list(stream.days[end - self.window : end]),
                importance=IMPORTANCE,
                incident_days=3,
                declared_rise=LEAST * 200,
            )
            state = judged.state
            yield judged.verdict, state

    def stationary(self, days: int, *, seed: int, block: int = 7) -> list[int]:
        """Days of the month, drawn in blocks."""
        random = np.random.default_rng(seed)
        starts = random.integers(0, len(self.past), -(-days // block))
        return [int((start + step) % len(self.past)) for start in starts for step in range(block)][:days]

    def drawn(self, places: list[int], first: date = date(2025, 1, 1)) -> Days:
        """These days of the past, as if they came one after another."""
        whole = self.count_of_past
        return Days(
            tuple(first + timedelta(days=place) for place in range(len(places))),
            {name: counts[places] for name, counts in whole.counts.items()},
            {name: sums[places] for name, sums in whole.sums.items()},
        )

    @cached_property
    def count_of_past(self) -> Days:
        return self.count(self.past, FIRST)


def shifted(column: str, by: float) -> Change:
    return lambda frame, _: frame.with_columns(pl.col(column) + by)


def scaled(column: str, by: float) -> Change:
    return lambda frame, _: frame.with_columns((pl.col(column) - pl.col(column).mean()) * by + pl.col(column).mean())


def missing(column: str, share: float) -> Change:
    def change(frame: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
        keep = pl.Series(random.random(frame.height) >= share)
        return frame.with_columns(pl.when(keep).then(pl.col(column)).alias(column))

    return change


def swapped(column: str, share: float) -> Change:
    """Some rows of the most frequent level become a level that is there, and rare."""

    def change(frame: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
        turned = pl.Series(random.random(frame.height) < share) & (pl.col(column) == "UA")
        return frame.with_columns(pl.when(turned).then(pl.lit("AA")).otherwise(pl.col(column)).alias(column))

    return change


def again(change: Change, *, truth: float = 1.0, turned: float = 0.0) -> Change:
    """The change, with the model's answers to it and the truth."""

    def made(frame: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
        inputs = change(frame.drop("prediction", "label"), random)
        return answered(inputs, random, truth=truth, turned=turned)

    return made


def unchanged(frame: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return frame
