"""Whether data keeps coming, by the newest day of each daily source: a corrected old day makes nothing fresh.

The clock for data is the data: a source is behind when others on its calendar are ahead. A source that says how often a
new day is to be expected is watched by the wall clock too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pilotage.data.lake import Lake
from pilotage.data.source import Daily, SourceSpec
from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.watches.look import Look, Watch

NOTHING = ""
"""The newest of a source that never brought anything: before every day and version."""
BEHIND = timedelta(days=1)
"""How far a source may lie behind the others: some deliver in the evening, some in the morning."""


@dataclass(slots=True)
class FreshnessWatch:
    """Looks at the newest days, and remembers since when each is the newest."""

    sources: Mapping[str, SourceSpec]
    lake: Lake
    now: datetime
    memory: dict[str, tuple[str, str]]
    """Source → its newest day or version, and when it was first seen (ISO 8601). The caller keeps it between looks."""

    def watch(self) -> Watch:
        """This watch."""
        return Watch(name="freshness", kinds=frozenset({"freshness", "data_stopped"}), look=self.look)

    def look(self) -> Look:
        """See the module."""
        daily = {name: spec.daily for name, spec in self.sources.items() if spec.daily is not None}
        newest = {name: days[-1] for name in daily if (days := self._days(name))}
        watched = {name for name, spec in self.sources.items() if spec.expected_every is not None}
        marks = {name: day.isoformat() for name, day in newest.items()}
        marks |= {name: self._version(name) for name in watched - set(daily) if self.lake.exists(f"raw/{name}")}
        # One that never brought anything is waited for, too: since the first look.
        marks = dict.fromkeys(watched, NOTHING) | marks
        self.memory = {name: self._since(name, mark) for name, mark in marks.items()}
        alerts = [alert for name, day in newest.items() if (alert := _behind(name, day, daily, newest)) is not None]
        for name in sorted(watched):
            spec = self.sources[name]
            last = spec.daily.last if spec.daily is not None else None
            finished = last is not None and name in newest and newest[name] >= last
            if not finished and (alert := self._stopped(spec)) is not None:
                alerts.append(alert)
        shown = ", ".join(f"{name} {day}" for name, day in newest.items()) or "no daily source has data yet"
        return Look(alerts=tuple(alerts), words=f"newest days: {shown}")

    def _days(self, name: str) -> list[date]:
        table = f"validated/{name}"
        return self.lake.days(table) if self.lake.exists(table) else []

    def _version(self, name: str) -> str:
        return f"version {self.lake.version(f'raw/{name}'):09d}"

    def _since(self, name: str, mark: str) -> tuple[str, str]:
        known = self.memory.get(name)
        # What was taken away again makes the one before it no news.
        old = known is not None and known[0] >= mark
        return (mark, known[1] if known is not None and old else self.now.isoformat())

    def _stopped(self, spec: SourceSpec) -> Alert | None:
        mark, seen = self.memory[spec.name]
        waited = self.now - datetime.fromisoformat(seen)
        if spec.expected_every is None or waited <= spec.expected_every:
            return None
        hours = waited / timedelta(hours=1)
        new = f"Nothing new has come from {spec.name} for {hours:.1f} hours: the newest is {mark}."
        return Alert.of(
            "data_stopped",
            f"Nothing has ever come from {spec.name}, looked for these {hours:.1f} hours." if mark == NOTHING else new,
            subject=spec.name,
            evidence={"newest": mark, "since": seen, "expected_every_h": spec.expected_every / timedelta(hours=1)},
        )


def _behind(name: str, day: date, daily: Mapping[str, Daily], newest: Mapping[str, date]) -> Alert | None:
    mine = daily[name]
    peers = [other for other in newest if (daily[other].first, daily[other].last) == (mine.first, mine.last)]
    ahead = max(peers, key=lambda other: newest[other])
    clock = newest[ahead]
    if clock - day <= BEHIND or (mine.last is not None and day >= mine.last):
        return None
    days = (clock - day).days
    return Alert.of(
        "freshness",
        f"{name} ends on {day}, {days} days behind {ahead}, which has {clock}.",
        subject=name,
        evidence={"newest_day": day, "data_clock": clock, "days_behind": days, "ahead": ahead},
    )
