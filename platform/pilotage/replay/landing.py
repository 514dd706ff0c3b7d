"""Lands the sample's history day by day, as the airlines' export job and the weather service would have: each file with
what was known when it is landed, and once more when the rest is. What platforms do with files is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol

import polars as pl

from pilotage.data.sample import Delivered, delivered
from pilotage.data.source import SourceSpec
from pilotage.errors import ConfigError
from pilotage.spec import ModelSpec

TAXI = timedelta(minutes=60)
"""As the source of flights has it: an arrival is known an hour after the flight time is over."""
UNKNOWN = "NA"


class Archive(Protocol):
    """History that can be landed."""

    def require(self, first: date, last: date) -> None:
        """Makes sure that the history has these days; ``ConfigError`` if not."""

    def land(self, landing: Path, day: date, *, known_by: datetime) -> int:
        """Lands a day's files with what was known at a moment (UTC); returns how many were written."""

    def events(self, day: date) -> pl.DataFrame:
        """What happened on a day, with hindsight: the prepared rows of the model's source."""


class Flights:
    """Flights and weather of 2013."""

    def __init__(self, source: SourceSpec) -> None:
        self._source = source
        self._flights, self._weather = delivered("flights"), delivered("weather")
        columns = self._flights.columns
        self._departure = [columns.index(name) for name in ("dep_time", "dep_delay")]
        self._arrival = [columns.index(name) for name in ("arr_time", "arr_delay", "air_time")]
        self._at = {name: columns.index(name) for name in ("time_hour", "minute", "dep_delay", "air_time")}

    def require(self, first: date, last: date) -> None:
        """See ``Archive``."""
        for day in (first, last):
            _of(self._flights, day)

    def land(self, landing: Path, day: date, *, known_by: datetime) -> int:
        """See ``Archive``."""
        flights = [self._as_known(line, known_by) for line in _of(self._flights, day)]
        written = self._flights.land(landing, day, flights)
        if day in self._weather.days:  # There is none for 31 December.
            written += self._weather.land(landing, day, self._weather.days[day])
        return written

    def events(self, day: date) -> pl.DataFrame:
        """See ``Archive``. Empty for a day that there is none of."""
        lines = self._flights.days.get(day, [])
        text = "\n".join([self._flights.header, *lines]).encode()
        types = {name: dtype for name, dtype in self._source.columns.items() if not dtype.is_temporal()}
        times = [name for name, dtype in self._source.columns.items() if dtype.is_temporal()]
        frame = pl.read_csv(text, schema_overrides=types | dict.fromkeys(times, pl.String), null_values=[UNKNOWN, ""])
        read = frame.with_columns(
            pl.col(times).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").dt.replace_time_zone("UTC"),
            pl.lit(day).alias("day"),
            pl.col("day").alias("delivered_day"),
        )
        return self._source.prepare(read.lazy()).collect()

    def _as_known(self, line: str, known_by: datetime) -> str:
        cells = line.split(",")
        for column in self._later(cells, known_by):
            cells[column] = UNKNOWN
        return ",".join(cells)

    def _later(self, cells: list[str], known_by: datetime) -> Iterator[int]:
        """Columns whose value became known after a moment."""
        delay, air_time = cells[self._at["dep_delay"]], cells[self._at["air_time"]]
        if delay == UNKNOWN:
            return
        hour = datetime.strptime(cells[self._at["time_hour"]], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        departed = hour + timedelta(minutes=int(cells[self._at["minute"]]) + int(delay))
        if departed > known_by:
            yield from self._departure
        if departed > known_by or (
            air_time != UNKNOWN and departed + timedelta(minutes=int(air_time)) + TAXI > known_by
        ):
            yield from self._arrival


def archive_of(spec: ModelSpec, sources: Mapping[str, SourceSpec]) -> Archive:
    """The history of a model.

    Args:
        spec: The model.
        sources: Every declared source.

    Raises:
        ConfigError: There is none to replay.
    """
    if spec.source != "flights":
        raise ConfigError(
            f"There is no dated history of {spec.source} to replay {spec.name} from.",
            fix="Replay flight_delay, or give the model an archive in pilotage/replay/landing.py.",
            model=spec.name,
        )
    return Flights(sources[spec.source])


def _of(source: Delivered, day: date) -> list[str]:
    if day not in source.days:
        raise ConfigError(f"The sample data has no {source.name} of {day}.", fix="Use days of 2013.", day=str(day))
    return source.days[day]
