"""The watch over runs that failed: raises what the sensor `run_failures` could not, and says what was made good since.

Dagster gives that sensor each failure once, whether or not it could write the alarm down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from pilotage.run_tags import RANGE_FIRST, RANGE_LAST
from pilotage.settings import Settings
from resources.failures import what_failed
from sensors.failures import PARTITION, RUN_FAILED, failure, named, tried_again, withdrawn

if TYPE_CHECKING:
    from pilotage.monitoring.alerts import Alarm, Alert, AlertBook
    from pilotage.monitoring.alerts.watches import Look, Watch

SETTLED = timedelta(minutes=1)
"""How long a failed run is left to `run_failures`, and to Dagster's word whether it is tried again."""
FIRST_LOOK = timedelta(days=1)
"""How far the first look goes back."""
_LATER = 200
"""Runs, the newest first, among which one is looked for that made good what failed."""

Todo = tuple[dg.AssetKey, str]
"""An asset and the day, or other partition, that a run was to make of it; empty where it has none."""


@dataclass(slots=True)
class FailedRunsWatch:
    """Looks at Dagster's runs."""

    instance: dg.DagsterInstance
    book: "AlertBook"
    settings: Settings
    now: datetime
    seen: datetime | None
    """Up to when failed runs were looked at; ``None`` before the first look. The caller keeps it."""

    def watch(self) -> "Watch":
        """This watch."""
        from pilotage.monitoring.alerts.watches import Watch

        return Watch(name="failed runs", kinds=frozenset({RUN_FAILED}), look=self.look)

    def look(self) -> "Look":
        """A failure that nobody was told of is raised; an alarm stays until what failed was made good."""
        from pilotage.monitoring.alerts.watches import Look

        missed = self._missed()
        still = {
            alarm.key for alarm in self.book.alarms() if alarm.key.kind == RUN_FAILED and not self._made_good(alarm)
        }
        self.seen = self.now - SETTLED
        words = f"{len(still)} jobs have failed and not succeeded since, {len(missed)} failures were not told yet"
        return Look(alerts=tuple(missed), unknown=frozenset(still), words=words)

    def _missed(self) -> list["Alert"]:
        """Alerts of the failed runs that the book does not know."""
        # A minute is looked at twice: the limits of a range are not in it.
        since = (self.seen or self.now - FIRST_LOOK) - SETTLED
        failed = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since, updated_before=self.now - SETTLED
        )
        records = self.instance.get_run_records(failed, ascending=True)
        # A tag that is added to an old run updates it, too.
        runs = [each.dagster_run for each in records if (each.end_time or 0.0) >= since.timestamp()]
        if not runs:
            return []
        known = {alarm.key: alarm.occurrences for alarm in self.book.alarms(open_only=False)}
        alerts = [
            failure(run, what_failed(self.instance, run.run_id), self.settings)
            for run in runs
            if not tried_again(run) and not withdrawn(run, self.settings)
        ]
        return [alert for alert in alerts if alert.occurrence not in known.get(alert.key, ())]

    def _made_good(self, alarm: "Alarm") -> bool:
        """Whether the job has succeeded since; or, without a job, whether later runs did what was left undone."""
        evidence = alarm.alert.evidence
        failed = self.instance.get_run_record_by_id(str(evidence["run"]))
        since = failed.end_time if failed is not None and failed.end_time else alarm.raised_at.timestamp()
        worked = dg.RunsFilter(job_name=evidence["job"], statuses=[dg.DagsterRunStatus.SUCCESS])
        if failed is None or named(failed.dagster_run):
            records = self.instance.get_run_records(worked, limit=1)
            return any((each.end_time or 0.0) > since for each in records)
        left = self._left(failed.dagster_run)
        for record in self.instance.get_run_records(worked, limit=_LATER):
            if (record.end_time or 0.0) > since:
                run = record.dagster_run
                left -= {(key, day) for key in run.asset_selection or () for day in {"", *_days(run.tags)}}
        return not left

    def _left(self, run: dg.DagsterRun) -> set[Todo]:
        """What a run was to make and did not; all of it, if it made everything and failed nevertheless."""
        made = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        wanted = frozenset(run.asset_selection or ())
        keys = wanted - {entry.asset_materialization.asset_key for entry in made if entry.asset_materialization}
        return {
            (key, day) for key in keys or wanted for day in ((_days(run.tags) or {""}) if self._has_days(key) else {""})
        }

    def _has_days(self, key: dg.AssetKey) -> bool:
        """Whether an asset has partitions. Of one that was never made, the run's days are to be made."""
        event = self.instance.get_latest_materialization_event(key)
        made = event.asset_materialization if event is not None else None
        return made is None or made.partition is not None


def _days(tags: Mapping[str, str]) -> set[str]:
    """The days, or other partitions, that a run was for."""
    if PARTITION in tags:
        return {tags[PARTITION]}
    if RANGE_FIRST not in tags or RANGE_LAST not in tags:
        return set()
    try:
        first, last = date.fromisoformat(tags[RANGE_FIRST]), date.fromisoformat(tags[RANGE_LAST])
    except ValueError:
        return {tags[RANGE_FIRST], tags[RANGE_LAST]}
    return {(first + timedelta(days=offset)).isoformat() for offset in range((last - first).days + 1)}
