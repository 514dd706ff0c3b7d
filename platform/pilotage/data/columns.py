"""Expressions that `prepare` functions share. None of them can fail on a value: what can't be read becomes null, and
the contract says so. No I/O, no declarations."""

from __future__ import annotations

import polars as pl


def joined(*parts: pl.Expr | str, separator: str = "") -> pl.Expr:
    """Values as one text, in their order; null if any of them is. Plain strings are column names.

    ``pl.format`` says the same, but in Polars 2.1 it panics on a frame of which a filter left one chunk empty.
    """
    return pl.concat_str(*parts, separator=separator)


def calendar_day(year: pl.Expr, month: pl.Expr, day: pl.Expr) -> pl.Expr:
    """The date made of its three parts; null where there is no such day (``pl.date`` would raise for all rows)."""
    parts = joined(year, month.cast(pl.String).str.zfill(2), day.cast(pl.String).str.zfill(2), separator="-")
    return parts.str.to_date("%Y-%m-%d", strict=False)


def minute_of_day(hhmm: pl.Expr) -> pl.Expr:
    """Clock time written as a number (``517`` is 5:17) → minute of the day, 0 to 1439.

    Midnight is 0, whether written 0 or 2400. Null for what is no time of day (``2561``).
    """
    hour, minute = hhmm // 100, hhmm % 100
    is_time = hour.is_between(0, 23) & minute.is_between(0, 59)
    return pl.when(hhmm == 2400).then(0).when(is_time).then(hour * 60 + minute).cast(pl.Int64)


def minutes(number: pl.Expr) -> pl.Expr:
    """A number of minutes as a duration; null where the number is."""
    return pl.duration(minutes=number, time_unit="us")
