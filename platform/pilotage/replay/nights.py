"""The clock of a replay: its days begin and end at the hour before the nightly work. No data, no decisions.

A replayed day *d* has the predictions made from 3:00 on its morning to 3:00 on the next, local time. Its night is that
next 3:00: what was known by then decides, and what is decided answers from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from zoneinfo import ZoneInfo

import polars as pl

from pilotage.cron import read_cron
from pilotage.errors import ConfigError
from pilotage.spec import ModelSpec

HOUR = 3
"""Local hour at which a day ends. The first flights leave at 5:00 and are predicted at 3:00, so a day has the
predictions of its own flights; the shipped schedules begin their work within the hour that follows."""


def night(spec: ModelSpec, day: date) -> datetime:
    """When a day's nightly work is done: 3:00 local time of the next morning, as UTC."""
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


def scheduled(cron: str | None, morning: date) -> bool:
    """Whether a nightly schedule is due on a morning. Only its days are looked at: a replay has one night a day.

    Args:
        cron: Five fields, as the spec declares it; ``None`` for never.
        morning: Local day on which the night's work would begin.

    Raises:
        ConfigError: It is no such expression.
    """
    return cron is not None and read_cron(cron).due(morning)
