"""Looks that are made at most once in a window of time. Its number is in the run key, so a second request of the window
comes to nothing: Dagster launches no run with a key that is used up, and its tick would not say why.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

RUN_KEY = "dagster/run_key"
"""Dagster's own tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of time in which one look is enough."""

    every: timedelta
    """How long it is."""
    number: int

    @classmethod
    def at(cls, now: datetime, *, every: timedelta) -> "Window":
        """The window that a moment is in."""
        return cls(every=every, number=int(now.timestamp() // every.total_seconds()))

    @property
    def ends(self) -> datetime:
        """When the next one begins, UTC."""
        return datetime.fromtimestamp((self.number + 1) * self.every.total_seconds(), UTC)

    def looked(self, instance: dg.DagsterInstance, job: str, key: str) -> str | None:
        """Which run has looked in this window, in words, and when the next one does; ``None`` if none has."""
        runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={RUN_KEY: key}), limit=1)
        if not runs:
            return None
        did = "has looked" if runs[0].is_success else "was to look, and failed"
        return f"Run {runs[0].run_id[:8]} {did}; the next look is at {self.ends:%H:%M:%S} UTC"
