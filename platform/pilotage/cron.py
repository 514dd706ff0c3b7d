"""Schedules as they are declared: cron expressions of five fields. What is read here, Dagster reads the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pilotage.errors import ConfigError

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days that each month may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """On which days a schedule is due. Its minutes and hours are only known to be some."""

    of_month: frozenset[int]
    months: frozenset[int]
    of_week: frozenset[int]
    """0 is Sunday."""
    either: bool
    """Whether a day of the month will do as well as one of the week: cron's way, if both are given."""

    def due(self, day: date) -> bool:
        """Whether it is due at some time of a day."""
        by_month, by_week = day.day in self.of_month, day.isoweekday() % 7 in self.of_week
        return day.month in self.months and (by_month or by_week if self.either else by_month and by_week)


def read_cron(text: str) -> Cron:
    """Reads minute, hour, day of the month, month and day of the week.

    Raises:
        ConfigError: It has another form, or names a day that no month has.
    """
    fields = text.split()
    if len(fields) != 5:
        raise ConfigError(f"{text!r} has {len(fields)} fields, not five.", fix="Write minute hour day month weekday.")
    minute, hour, of_month, month, of_week = fields
    _numbers(minute, 0, 59, "minutes")
    _numbers(hour, 0, 23, "hours")
    days = _numbers(of_month, 1, 31, "days of the month")
    # In cron both 0 and 7 are Sunday; the week of Dagster's 1/2 ends on Saturday.
    weekdays = frozenset(day % 7 for day in _numbers(of_week, 0, 7, "days of the week", names=_WEEKDAYS, end=6))
    cron = Cron(
        of_month=days,
        months=_numbers(month, 1, 12, "months", names=_MONTHS),
        of_week=weekdays,
        # Only a * chooses nothing: who writes 0-6 or */1 has named every day.
        either="*" not in {*of_month.split(","), *of_week.split(",")},
    )
    if min(cron.of_month) > max(_LONGEST[month - 1] for month in cron.months):
        raise ConfigError(f"{text!r} names a day that none of its months has.", fix="Name another day, or month.")
    return cron


def _numbers(
    field: str, lowest: int, highest: int, what: str, *, names: Sequence[str] = (), end: int | None = None
) -> frozenset[int]:
    """The numbers that a field names: ``*``, numbers (or their names), ranges, and steps over these.

    A step over a single number goes on to the ``end``, which is the highest, unless another one is given.
    """
    known = {name: str(lowest + place) for place, name in enumerate(names)}
    found: set[int] = set()
    for part in field.lower().split(","):
        span, stepped, step = part.partition("/")
        first, ranged, last = (str(lowest), "-", str(highest)) if span == "*" else span.partition("-")
        first, last = known.get(first, first), known.get(last, last)
        if not ranged:
            last = str(end or highest) if stepped else first
        if not all(number.isascii() and number.isdigit() for number in (first, last, step or "1")):
            raise ConfigError(
                f"{field!r} in a schedule is no list of numbers, ranges and steps.", fix="Write 1,3 or 1-5 or */5."
            )
        # A range that begins where it ends is all there are, as Dagster reads it, and hardly what is meant.
        all_of_them = bool(ranged or stepped) and int(first) == int(last)
        if not lowest <= int(first) <= int(last) <= highest or all_of_them or int(step or 1) < 1:
            raise ConfigError(
                f"{field!r} in a schedule names {what} that there are not, or none.",
                fix=f"Use {lowest} to {highest}, the smaller one of a range first.",
            )
        found |= set(range(int(first), int(last) + 1, int(step or 1)))
    return frozenset(found)
