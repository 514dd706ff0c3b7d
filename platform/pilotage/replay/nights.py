"""The clock of a replay: its days begin and end at the hour of the nightly work. No data, no decisions.

A replayed day *d* has the predictions made from 4:00 on its morning to 4:00 on the next, local time. Its night is that
next 4:00: what was known by then decides, and what is decided answers from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from zoneinfo import ZoneInfo

import polars as pl

from pilotage.errors import ConfigError
from pilotage.spec import ModelSpec

HOUR = 4
"""Local hour of the nightly work, as the shipped schedule has it."""


def night(spec: ModelSpec, day: date) -> datetime:
    """When a day's nightly work is done: 4:00 local time of the next morning, as UTC."""
    local = datetime.combine(day + timedelta(days=1), clock(HOUR), ZoneInfo(spec.time_zone))
    return local.astimezone(UTC)


def replay_day(spec: ModelSpec, moment: pl.Expr) -> pl.Expr:
    """The replayed day that a prediction moment (UTC) belongs to.

    Counted on the local clock: on the days when it is put forward or back, a day has 23 or 25 hours.
    """
    local = moment.dt.convert_time_zone(spec.time_zone).dt.replace_time_zone(None)
    return (local - pl.duration(hours=HOUR)).dt.date()


def days(first: date, last: date) -> Iterator[date]:
    """Every day from ``first`` to ``last``, both included.

    Raises:
        ConfigError: They are in the wrong order.
    """
    if first > last:
        raise ConfigError(f"The first day {first} is after the last {last}.", fix="Swap them.")
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)
