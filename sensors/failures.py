"""A run that failed → an alarm. How bad that is depends on what the run was for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
from dagster_shared.record import replace

from pilotage.run_tags import ATTEMPT, CAUSE, LANDING, MODEL, RANGE_FIRST, RANGE_LAST, REQUEST
from pilotage.settings import Settings
from resources.failures import in_a_line, what_failed
from resources.platform_home import PlatformHome
from sensors.landings import MAX_ATTEMPTS

if TYPE_CHECKING:
    from dagster._core.definitions.sensor_definition import SensorExecutionData

    from pilotage.monitoring.alerts import Alert, Tier

RUN_FAILED = "run_failed"
URGENT = ("audit_ledger", "kill_", "rollback_", "reject_")
"""Jobs (or how their names begin) whose failure somebody has to know at once: nobody tries them again."""
PARTITION = "dagster/partition"
"""Dagster's own tag: the day of a run over one."""
QUIET = "No run has failed since the last look."
_EMPTY = "Sensor function returned an empty result"
"""What Dagster says where a sensor says nothing."""
_WILL_RETRY = "dagster/will_retry"
_NAMES = 3
"""Sources or assets that a subject names; it counts the others."""


def run_failures_sensor() -> dg.SensorDefinition:
    """Raises an alarm for each job that fails; the sensor `heartbeat` clears it once the job succeeds."""

    def run_failures(context: dg.RunStatusSensorContext, platform: PlatformHome) -> dg.SkipReason | None:
        from pilotage.monitoring.alerts import AlertBook

        run = context.dagster_run
        if tried_again(run):
            return dg.SkipReason(f"Run {run.run_id[:8]} of {run.job_name} crashed, and Dagster tries it again.")
        settings = platform.settings
        if withdrawn(run, settings):
            return dg.SkipReason(f"The request that run {run.run_id[:8]} of {run.job_name} was of is withdrawn.")
        with AlertBook.of(settings) as book:
            book.raise_(failure(run, what_failed(context.instance, run.run_id), settings))
        return None

    return _RunFailures(
        name="run_failures",
        run_status=dg.DagsterRunStatus.FAILURE,
        run_status_sensor_fn=run_failures,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Raises an alarm when a run fails: critical where data stops coming in after the last attempt, or where a "
            "kill, a rollback or the audit of the ledger did not work; a warning elsewhere."
        ),
    )


class _RunFailures(dg.RunStatusSensorDefinition):
    """Dagster's own, which at a look without a failure says no more than "Sensor function returned an empty result"."""

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> "SensorExecutionData":
        told = super().evaluate_tick(context)
        if told.dagster_run_reactions or told.skip_message != _EMPTY:
            return told
        return replace(told, skip_message=QUIET)


def failure(run: dg.DagsterRun, said: str, settings: Settings) -> "Alert":
    """The alert about a run that failed. Every failure of one job is one alarm, until the job succeeds.

    Args:
        run: The run.
        said: Why it failed.
        settings: Where the UI is.
    """
    from pilotage.monitoring.alerts import Alert

    tags = run.tags
    what = subject(run)
    attempt = int(tags.get(ATTEMPT, "1"))
    return Alert.of(
        RUN_FAILED,
        f"Run {run.run_id[:8]} of {what} failed. {in_a_line(said)}",
        tier=tier(run.job_name, tags),
        model=tags.get(MODEL),
        subject=what,
        evidence={
            "job": run.job_name,
            "run": run.run_id,
            "cause": tags.get(CAUSE, ""),
            "attempt": attempt,
            "sources": _sources(run),
            "days": _days(tags),
            "landing": tags.get(LANDING, ""),
        },
        run_url=run_url(settings, run.run_id),
        occurrence=run.run_id,
    )


def tier(job: str, tags: Mapping[str, str]) -> "Tier":
    """How bad it is that a run of a job failed."""
    if tags.get(CAUSE) == "new_data":
        # It is tried again; after the last attempt nobody does, and data has stopped.
        return "critical" if int(tags.get(ATTEMPT, "1")) >= MAX_ATTEMPTS else "warning"
    return "critical" if job.startswith(URGENT) else "warning"


def subject(run: dg.DagsterRun) -> str:
    """What failed, in a few words: the job; without one, the sources or assets that it was about, and the days.

    Not the files: those that are corrected have another hash, and what they mend is the same.
    """
    if named(run):
        return run.job_name
    names = _sources(run) if LANDING in run.tags else []
    names = names or sorted(key.to_user_string() for key in run.asset_selection or ())
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return " ".join(part for part in (", ".join(names[:_NAMES]) + more or "assets", _days(run.tags)) if part)


def named(run: dg.DagsterRun) -> bool:
    """Whether a run is of a job, not of assets that somebody or a sensor picked."""
    return not run.job_name.startswith("__")


def tried_again(run: dg.DagsterRun) -> bool:
    """Whether Dagster itself tries a run again that crashed."""
    return run.tags.get(_WILL_RETRY) == "true"


def withdrawn(run: dg.DagsterRun, settings: Settings) -> bool:
    """Whether a run carried out a request to retrain that somebody took back: it fails since it may record nothing.

    Where no ledger can say so, it counts as not withdrawn: its failure is told.
    """
    from pilotage.errors import PilotageError
    from pilotage.release.champions import states

    if REQUEST not in run.tags:
        return False
    try:
        state = states(settings=settings).get(run.tags[MODEL])
    except PilotageError:
        return False
    request = state.retraining.find(int(run.tags[REQUEST])) if state is not None else None
    return request is not None and request.outcome == "withdrawn"


def _sources(run: dg.DagsterRun) -> list[str]:
    """Sources that a run was to ingest."""
    return sorted(key.path[-1] for key in run.asset_selection or () if key.path[0] == "raw")


def _days(tags: Mapping[str, str]) -> str:
    first, last = (tags.get(name) or tags.get(PARTITION, "") for name in (RANGE_FIRST, RANGE_LAST))
    return first if first == last else f"{first} … {last}"


def run_url(settings: Settings, run_id: str) -> str:
    """Where a run is in the UI."""
    return f"{settings.dagster_ui}/runs/{run_id}"
