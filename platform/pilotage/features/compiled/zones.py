"""Local time of a time zone, by Polars' own tables: a system's zone files may be of another year than Polars'."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import polars as pl

_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_GRID_US = 6 * 3_600_000_000
"""No zone ever changed its clocks twice within six hours."""


@cache
def to_local(zone: str) -> Callable[[int], int]:
    """Makes a function from microseconds since 1970 UTC to microseconds of the local clock.

    It raises ``OverflowError`` for times outside the years 1900 to 2199.
    """
    first, last = (int(moment.timestamp()) * 1_000_000 for moment in (_FIRST, _LAST))
    grid = pl.int_range(first, last + 1, _GRID_US, eager=True)
    offsets = _offsets(grid, zone)
    before = (offsets.diff().fill_null(0) != 0).arg_true() - 1
    low, high = grid.gather(before), grid.gather(before + 1)
    old = offsets.gather(before)
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        still = _offsets(middle, zone) == old
        low, high = middle.zip_with(still, low), high.zip_with(still, middle)
    starts: list[int] = [first, *high.to_list()]
    shifts: list[int] = _offsets(pl.Series(starts, dtype=pl.Int64), zone).to_list()

    # Requests are mostly of one season: the last one is tried first.
    season = (last, last, 0)

    def local(moment: int) -> int:
        nonlocal season
        start, end, shift = season
        if start <= moment < end:
            return moment + shift
        if not first <= moment < last:
            raise OverflowError
        place = bisect_right(starts, moment)
        season = starts[place - 1], starts[place] if place < len(starts) else last, shifts[place - 1]
        return moment + shifts[place - 1]

    return local


def _offsets(moments: pl.Series, zone: str) -> pl.Series:
    """Microseconds by which the local clock is ahead of UTC."""
    local = moments.cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone).dt.replace_time_zone(None)
    return local.cast(pl.Int64) - moments
