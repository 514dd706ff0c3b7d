"""Alarms that somebody has still to be told of → a run that tells them."""

import time
from datetime import UTC, datetime

import dagster as dg

from assets.alerts import KEY, THROUGH
from jobs.alerts import DELIVER
from pilotage.run_tags import DECISION
from resources.platform_home import PlatformHome
from sensors.asking import UNDER_WAY, skipped

AGAIN_AFTER_S = 120
"""Seconds between a delivery that failed and the next."""
SHOWN_EVERY_S = 300
"""Seconds between two runs that only bring the UI's table up to date."""


def alerts_sensor() -> dg.SensorDefinition:
    """Asks the book of alarms whether anything is due, and nothing else."""

    @dg.sensor(
        name="alerts",
        job_name=DELIVER,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Launches `{DELIVER}` when somebody is to be told of an alarm, and when the table of alarms in the UI is "
            "behind. To stop it stops all alerts."
        ),
    )
    def alerts(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.monitoring.alerts import AlertBook

        with AlertBook.of(platform.settings) as book:
            batch, newest, opened = book.due(), book.newest(), len(book.alarms())
        due = sum(len(notices) for notices in batch.groups.values())
        told = f"{opened} alarms are open"
        last = context.instance.get_run_records(dg.RunsFilter(job_name=DELIVER), limit=1)
        if not due and not batch.moot:
            if newest == _shown(context.instance):
                return skipped(f"{told}, and nobody waits to be told.")
            if last and time.time() - (last[0].end_time or time.time()) < SHOWN_EVERY_S:
                return skipped(f"{told}, and nobody waits to be told; the table in the UI is brought up to date soon.")
        if last and last[0].dagster_run.status in UNDER_WAY:
            return skipped(f"{told}; run {last[0].dagster_run.run_id[:8]} tells people.")
        ended = (last[0].end_time or 0.0) if last else 0.0
        if last and not last[0].dagster_run.is_success and time.time() - ended < AGAIN_AFTER_S:
            return skipped(f"{told}; the last delivery failed, and is tried again {AGAIN_AFTER_S} s after it.")
        # The same alarms may be due again, when a receiver did not take them: a key a window, not a state.
        window = int(datetime.now(UTC).timestamp() // 15)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{newest}-{window}", tags={DECISION: DELIVER, "pilotage/due": str(due)})
            ]
        )

    return alerts


def _shown(instance: dg.DagsterInstance) -> int:
    """Up to which thing that happened the UI shows the alarms."""
    event = instance.get_latest_materialization_event(KEY)
    materialization = event.asset_materialization if event is not None else None
    value = materialization.metadata.get(THROUGH) if materialization is not None else None
    return int(str(value.value)) if value is not None else 0
