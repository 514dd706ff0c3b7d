"""Dagster runs that a replay launches and waits for, and what of their time was start and what was work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotage.errors import ReleaseError
from pilotage.replay.dagster_link import Dagster

PATIENCE_S = 900.0
"""Longest wait for one run."""
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Launches and waits. What ended is kept until it is taken."""

    dagster: Dagster
    _ended: list[dict[str, Any]] = field(default_factory=list)

    def taken(self) -> list[dict[str, Any]]:
        """The facts of the runs that ended since this was last asked; see ``Run.facts``."""
        found = [*self._ended]
        self._ended.clear()
        return found

    def job(
        self,
        job: str,
        tags: Mapping[str, str],
        *,
        stop: Stop,
        config: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Launches a job and waits for its end; see ``ended``."""
        return self.ended(self.dagster.launch(job, tags=tags, config=config), job, stop=stop)

    def once(self, job: str, tags: Mapping[str, str], *, config: Mapping[str, Any] | None = None) -> str:
        """Launches a job, unless it was launched with these tags before and did not fail: a replay that was stopped
        finds its run again. The run's id."""
        before = self.dagster.runs(limit=1, pipelineName=job, tags=tags)
        if before and (not before[0].ended or before[0].status == "SUCCESS"):
            return before[0].id
        return self.dagster.launch(job, tags=tags, config=config)

    def ended(self, run: str, what: str, *, stop: Stop, must: bool = True) -> str | None:
        """Waits for the end of a run.

        Args:
            run: Its id.
            what: It does, for a message.
            stop: Asked while it waits.
            must: Whether its failure is the replay's end. What may fail is seen in the platform's own alarms.

        Returns:
            Its status; ``None`` if it was told to stop.

        Raises:
            ReleaseError: It failed, or takes too long.
        """
        [ended] = self.dagster.wait([run], within_s=PATIENCE_S, stop=stop)
        if not ended.ended:
            return None
        self._ended.append(ended.facts())
        if ended.status != "SUCCESS" and must:
            raise ReleaseError(f"{what} failed.", fix=f"See {self.dagster.run_url(run)}.", run=run)
        return ended.status

    def note_those(self, since: float, **filter_by: Any) -> None:
        """Keeps the facts of runs that the platform itself started and ended since a moment (seconds since 1970)."""
        for run in self.dagster.runs(limit=20, **filter_by):
            if run.ended and (run.created or 0.0) >= since:
                self._ended.append(run.facts())
