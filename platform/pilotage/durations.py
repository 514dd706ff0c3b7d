"""How long something lasts, as people say it."""

from __future__ import annotations

from datetime import timedelta

_UNITS = {"days": timedelta(days=1), "hours": timedelta(hours=1), "minutes": timedelta(minutes=1)}


def in_words(span: timedelta) -> str:
    """``36 hours``, ``10 minutes``: in the largest unit of which there are two, to two decimals."""
    for name, unit in _UNITS.items():
        if span >= 2 * unit:
            return f"{round(span / unit, 2):g} {name}"
    return f"{round(span.total_seconds(), 2):g} seconds"
