"""Reads validated sources at fixed versions, and of a daily one only the days that can matter.

The day on which something happened says little about when it became known: a label may take weeks, and a correction
longer. So what each day tells is looked up, not guessed. What the rows are used for is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.asof import Lookup
from pilotage.features.timeline import MOMENT, Timeline

_DAY = "day"


class ValidatedRows:
    """The validated rows of the sources that some look-ups ask."""

    def __init__(self, lake: Lake, lookups: Iterable[Lookup], versions: Mapping[str, int]) -> None:
        """Opens nothing yet.

        Args:
            lake: Where ``validated/<source>`` is read.
            lookups: What will be asked.
            versions: ``validated/<source>`` → Delta version that is read.
        """
        self._lake = lake
        self._versions = versions
        self._timed: dict[str, dict[str, Timeline]] = {}
        self._untimed: set[str] = set()
        for timeline in (lookup.timeline for lookup in lookups):
            if timeline.known_at is None:
                self._untimed.add(timeline.source)
            else:
                self._timed.setdefault(timeline.source, {})[timeline.name] = timeline
        self._opened: dict[str, pl.LazyFrame] = {}
        self._days: dict[str, pl.DataFrame] = {}

    def all(self, source: str) -> pl.LazyFrame:
        """All rows of a source. The table is opened once: every further scan would read its log again."""
        if source not in self._opened:
            table = f"validated/{source}"
            self._opened[source] = self._lake.scan(table, version=self._versions[table])
        return self._opened[source]

    def read(self, source: str, since: datetime | None, until: datetime | None) -> pl.LazyFrame:
        """The rows of every day that tells something that became known from ``since`` to ``until`` (UTC).

        All rows of a source that is also asked without a time: what always was known may stand in any of them.
        """
        if source in self._untimed:
            return self.all(source)
        days = self._days_of(source)
        if days.is_empty() or _DAY not in days.columns:
            return self.all(source)
        after = pl.lit(True) if since is None else pl.col("last") >= since
        before = pl.lit(True) if until is None else pl.col("first") <= until
        matter = days.filter(after, before).get_column(_DAY)
        return self.all(source).filter(pl.col(_DAY).is_between(matter.min(), matter.max()))

    def newest(self, *, by: datetime | None = None) -> dict[str, datetime]:
        """Source → when its newest fact became known (UTC); without sources that have no time or no facts.

        Args:
            by: Facts that become known later are left out, such as the outcome of something planned. Default: now.
        """
        until = by or datetime.now(UTC)
        newest: dict[str, datetime] = {}
        for source, timelines in self._timed.items():
            found = (timeline.newest(self.all(source), by=until) for timeline in timelines.values())
            if moments := [moment for moment in found if moment is not None]:
                newest[source] = max(moments)
        return newest

    def lags(self) -> dict[str, timedelta]:
        """Daily source → the longest that a fact became known after its day had begun (UTC); without those that have no
        time or no facts."""
        lags = {}
        for source in self._timed:
            days = self._days_of(source)
            if _DAY in days.columns:
                after = (pl.col("last") - pl.col(_DAY).cast(MOMENT)).max()
                lag = days.select(after).item()
                if isinstance(lag, timedelta):
                    lags[source] = lag
        return lags

    def _days_of(self, source: str) -> pl.DataFrame:
        """When the first and the last fact of each day became known; one row for a source without days."""
        if source not in self._days:
            rows = self.all(source)
            known_at = sorted({str(timeline.known_at) for timeline in self._timed.get(source, {}).values()})
            there = rows.collect_schema()
            ranges = [
                pl.min_horizontal(pl.col(known_at).min()).alias("first"),
                pl.max_horizontal(pl.col(known_at).max()).alias("last"),
            ]
            if not known_at or any(there.get(name) != MOMENT for name in known_at):  # The view says what is wrong.
                self._days[source] = pl.DataFrame(schema={"first": MOMENT, "last": MOMENT})
            elif self._lake.days(f"validated/{source}"):
                self._days[source] = rows.group_by(_DAY).agg(ranges).collect()
            else:
                self._days[source] = rows.select(ranges).collect()
        return self._days[source]
