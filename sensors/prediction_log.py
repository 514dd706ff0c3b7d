"""Sealed segments of the prediction log → a run that moves them into the lake."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from jobs.serving import MOVE
from pilotage.run_tags import ATTEMPT, DECISION, LANDING
from resources.platform_home import PlatformHome
from sensors.asking import UNDER_WAY, skipped
from sensors.attempts import pause_before

if TYPE_CHECKING:
    from pilotage.runtime.log import Segment

MOVE_AFTER = timedelta(minutes=5)
"""How long the oldest segment waits. What waits is read all the same; a run and a commit a minute would be for
nothing."""
MANY_BYTES = 256 * 2**20
"""Segments that are moved at once, whatever their age."""
SILENT = timedelta(minutes=10)
"""An open segment that nobody wrote to for so long may be a dead worker's: a living one seals it within a minute."""


def prediction_log_sensor() -> dg.SensorDefinition:
    """Lists the folder of the log, reads the plan of its move, and nothing else."""

    @dg.sensor(
        name="prediction_log",
        job_name=MOVE,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Launches `{MOVE}` when a sealed segment of the prediction log has waited for "
            f"{MOVE_AFTER.total_seconds() / 60:.0f} minutes, or many wait. A move that fails is tried again, later."
        ),
    )
    def prediction_log(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.monitoring.move_plan import unfinished
        from pilotage.runtime.log import segments

        folder, now = platform.settings.prediction_log, datetime.now(UTC)
        there = segments(folder)
        # One that is gone by now was moved or sealed since it was listed: the next tick sees how it went.
        waiting = [each for each in there if (age := _age(each, now)) is not None and _waits(each, age)]
        written = len(there) - len(waiting)
        if not waiting:
            return skipped(f"No sealed segment waits in {folder}; {written} are being written.")
        size = sum(each.bytes for each in waiting)
        oldest = max((age for each in waiting if (age := _age(each, now)) is not None), default=timedelta(0))
        told = f"{len(waiting)} segments ({size / 2**20:.1f} MiB) wait, the oldest for {oldest.total_seconds():.0f} s"
        if oldest < MOVE_AFTER and size < MANY_BYTES:
            return skipped(f"{told}; they are moved after {MOVE_AFTER.total_seconds():.0f} s.")
        if running := context.instance.get_runs(dg.RunsFilter(job_name=MOVE, statuses=UNDER_WAY), limit=1):
            return skipped(f"{told}; run {running[0].run_id[:8]} moves them.")
        key = _key(waiting)
        last = context.instance.get_run_records(dg.RunsFilter(job_name=MOVE, tags={LANDING: key}), limit=1)
        attempt = 1
        if last:
            run, ended = last[0].dagster_run, datetime.fromtimestamp(last[0].end_time or now.timestamp(), UTC)
            worked = run.status is dg.DagsterRunStatus.SUCCESS
            if worked and not unfinished(folder):
                return skipped(f"{told}; run {run.run_id[:8]} had to leave them: see its check of the prediction log.")
            attempt = int(run.tags.get(ATTEMPT, "1")) + 1
            pause = pause_before(attempt)
            if now - ended < pause:
                failed = "could not end its move yet" if worked else "failed to move them"
                return skipped(
                    f"{told}; run {run.run_id[:8]} {failed}, and they are tried again "
                    f"{pause.total_seconds() / 60:.0f} min after it."
                )
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=f"{key}-{attempt}",
                    tags={DECISION: "move_log", LANDING: key, ATTEMPT: str(attempt)},
                )
            ]
        )

    return prediction_log


def _waits(segment: "Segment", age: timedelta) -> bool:
    """Whether a segment is to be moved. An open one without records is an idle worker's, however old it is."""
    from pilotage.runtime.log import has_records

    return segment.sealed or (age > SILENT and has_records(segment.path))


def _age(segment: "Segment", now: datetime) -> timedelta | None:
    """Since it was last written to; ``None`` if it is gone."""
    try:
        return now - datetime.fromtimestamp(segment.path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def _key(waiting: Sequence["Segment"]) -> str:
    text = "\n".join(f"{each.path.name} {each.bytes}" for each in waiting)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
