"""Small worlds for the rules of point-in-time features: a definition, facts, and the answers by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import strategies as st

from pilotage.features.asof import Reader
from pilotage.features.definition import Definition
from pilotage.features.view import FeatureView
from pilotage.spec import Latest, Window

START = datetime(2013, 3, 10, tzinfo=UTC)
"""The day on which New York's clocks jump: nothing here may care."""
MOMENT = pl.Datetime("us", "UTC")
READINGS = {
    "sensor": pl.String(),
    "lane": pl.Int64(),
    "known_at": MOMENT,
    "value": pl.Int64(),
    "good": pl.Boolean(),
    "level": pl.Float64(),
    "seen_on": pl.Date(),
}
PLACES = {"sensor": pl.String(), "height": pl.Float64(), "built": MOMENT, "tall": pl.Boolean()}
REQUEST = {"sensor": pl.String(), "lane": pl.Int64(), "at": MOMENT}

DEFINITION = Definition(
    request=REQUEST,
    predicts_at=pl.col("at"),
    asof=(
        Latest(
            name="last", source="readings", on={"sensor": "sensor"}, known_at="known_at",
            columns={"value": pl.Int64, "level": pl.Float64, "good": pl.Boolean, "known_at": MOMENT,
                     "seen_on": pl.Date},
        ),
        Latest(
            name="fresh", source="readings", on={"lane": "lane", "sensor": "sensor"}, known_at="known_at",
            columns={"value": pl.Int64}, max_age=timedelta(minutes=7),
        ),
        Latest(name="place", source="places", on={"sensor": "sensor"},
               columns={"height": pl.Float64, "built": MOMENT, "tall": pl.Boolean}),
        Window(name="rows_10m", source="readings", on={"sensor": "sensor"}, known_at="known_at",
               over=timedelta(minutes=10), aggregate="count"),
        Window(name="values_10m", source="readings", on={"sensor": "sensor"}, known_at="known_at",
               over=timedelta(minutes=10), aggregate="count", value=pl.col("value")),
        Window(name="total_3m", source="readings", on={"sensor": "sensor"}, known_at="known_at",
               over=timedelta(minutes=3), aggregate="sum", value=pl.col("value")),
        Window(name="mean_10m", source="readings", on={"sensor": "sensor"}, known_at="known_at",
               over=timedelta(minutes=10), aggregate="mean", value=pl.col("value")),
        Window(name="good_20m", source="readings", on={"sensor": "sensor", "lane": "lane"}, known_at="known_at",
               over=timedelta(minutes=20), aggregate="mean", value=pl.col("good"), where=pl.col("value") > 0),
    ),
    features={
        "lane": pl.col("lane"),
        "gap": (pl.col("at") - pl.col("last_known_at")).dt.total_seconds(),
        "above": pl.col("mean_10m") - pl.col("place_height"),
        "worth": pl.col("rows_10m") * pl.col("good_20m"),
        "sensor": pl.col("sensor"),
    },
)  # fmt: skip
VIEW = FeatureView(DEFINITION)

_minutes = st.integers(-25, 20)
_sensors = st.sampled_from(["a", "b", None])
_lanes = st.sampled_from([0, 1, None])
# Floats that compare equal and differ in bits, or that SQLite would lose; integers whose quotients need rounding.
_levels = st.sampled_from([None, 0.0, -0.0, float("nan"), float("inf"), 0.1, -2.5])
_values = st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**58), 2**58))
_flags = st.sampled_from([True, False, None])


@dataclass(frozen=True)
class World:
    """Facts and requests as rows."""

    readings: list[dict[str, Any]]
    places: list[dict[str, Any]]
    requests: list[dict[str, Any]]

    @property
    def population(self) -> pl.DataFrame:
        return pl.DataFrame(self.requests, schema=REQUEST, orient="row")

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        return {
            "readings": pl.DataFrame(self.readings, schema=READINGS, orient="row"),
            "places": pl.DataFrame(self.places, schema=PLACES, orient="row"),
        }

    @property
    def read(self) -> Reader:
        """Gives no more than was asked for, so that a range asked too narrowly shows."""

        def read(source: str, since: datetime | None, until: datetime | None) -> pl.LazyFrame:
            frame = self.frames[source].lazy()
            if source == "readings":
                frame = frame.filter(pl.lit(True) if since is None else pl.col("known_at") >= since)
                frame = frame.filter(pl.lit(True) if until is None else pl.col("known_at") <= until)
            return frame

        return read

    def offline(self) -> pl.DataFrame:
        return VIEW.offline(self.population, self.read)


def moment(minutes: int, microseconds: int = 0) -> datetime:
    return START + timedelta(minutes=minutes, microseconds=microseconds)


reading = st.fixed_dictionaries({
    "sensor": _sensors,
    "lane": _lanes,
    # Some a microsecond after the full minute at which requests ask.
    "known_at": st.one_of(st.none(), st.builds(moment, _minutes, st.sampled_from([0, 0, 0, 1]))),
    "value": _values,
    "good": _flags,
    "level": _levels,
    "seen_on": st.one_of(st.none(), _minutes.map(lambda m: moment(m).date())),
})  # fmt: skip
place = st.fixed_dictionaries({
    "sensor": _sensors,
    "height": _levels,
    "built": st.one_of(st.none(), _minutes.map(moment)),
    "tall": _flags,
})  # fmt: skip
request = st.fixed_dictionaries({"sensor": _sensors, "lane": _lanes, "at": st.integers(0, 15).map(moment)})
worlds = st.builds(
    World,
    readings=st.lists(reading, max_size=25),
    places=st.lists(place, max_size=4),
    requests=st.lists(request, min_size=1, max_size=6),
)


class FrameLake:
    """A lake of frames, for what only reads the newest version."""

    def __init__(self, frames: dict[str, pl.DataFrame]) -> None:
        self.frames = frames

    def versions(self, tables: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(tables, 0)

    def days(self, table: str) -> list[date]:
        return []

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        return self.frames[table.removeprefix("validated/")].lazy()


# The definitions by brute force: one row, one rule, no sorting, no joins.


def known(rows: list[dict[str, Any]], on: dict[str, Any], at: datetime) -> list[dict[str, Any]]:
    """The facts about a key that were known at a moment."""
    if None in on.values():
        return []
    return [
        row
        for row in rows
        if row["known_at"] is not None and row["known_at"] <= at and all(row[c] == v for c, v in on.items())
    ]


def window(world: World, asked: dict[str, Any], declared: Window) -> list[int]:
    """The values that count in a window; 1 a row where rows are counted."""
    facts = known(world.readings, {c: asked[r] for r, c in declared.on.items()}, asked["at"])
    facts = [row for row in facts if row["known_at"] > asked["at"] - declared.over]
    if declared.where is not None:
        facts = [row for row in facts if row["value"] is not None and row["value"] > 0]
    if declared.value is None:
        return [1] * len(facts)
    (column,) = declared.value.meta.root_names()
    return [int(row[column]) for row in facts if row[column] is not None]


def aggregate(values: list[int], kind: str) -> int | float | None:
    if kind == "count":
        return len(values)
    if kind == "sum":
        return sum(values)
    return float(sum(values)) / float(len(values)) if values else None
