"""Rows for a lake, and what it has of them."""

from __future__ import annotations

from datetime import date

import polars as pl

from pilotage.data.lake import Lake

MONDAY, TUESDAY, WEDNESDAY = date(2013, 1, 7), date(2013, 1, 8), date(2013, 1, 9)


def rows(**days: int) -> pl.DataFrame:
    by_name = {"monday": MONDAY, "tuesday": TUESDAY, "wednesday": WEDNESDAY}
    return pl.DataFrame(
        [(by_name[name], index) for name, count in days.items() for index in range(count)],
        schema={"day": pl.Date, "x": pl.Int64},
        orient="row",
    )


def counts(lake: Lake, table: str = "raw/flights") -> dict[date, int]:
    return dict(lake.scan(table).group_by("day").len().sort("day").collect().rows())
