"""The watch over sensors and schedules: one that fails at every look does nothing any more, and no run tells of it."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorTick, TickStatus

from pilotage.settings import Settings
from resources.failures import in_a_line

if TYPE_CHECKING:
    from pilotage.monitoring.alerts import Alert
    from pilotage.monitoring.alerts.watches import Look, Watch

KIND = "sensor_failing"
IN_A_ROW = 3
"""Looks of a sensor that fail before somebody is told: one or two may meet a restart. Of a schedule one is enough."""
_OVER = [TickStatus.FAILURE, TickStatus.SUCCESS, TickStatus.SKIPPED]


def ticks_watch(instance: dg.DagsterInstance, declared: Collection[str] | None, settings: Settings) -> "Watch":
    """Looks at the last ticks of every sensor and schedule that is on.

    Args:
        instance: Dagster's storage.
        declared: Names of those that there are; Dagster keeps the ticks of others. ``None`` if nobody knows.
        settings: Where the UI is.
    """
    from pilotage.monitoring.alerts.watches import Watch

    return Watch(name="ticks", kinds=frozenset({KIND}), look=lambda: _look(instance, declared, settings))


def _look(instance: dg.DagsterInstance, declared: Collection[str] | None, settings: Settings) -> "Look":
    from pilotage.monitoring.alerts.watches import Look

    on = [
        state
        for state in instance.all_instigator_state()
        if state.status is not InstigatorStatus.STOPPED and (declared is None or state.name in declared)
    ]
    alerts = []
    for state in on:
        needed = 1 if state.instigator_type is InstigatorType.SCHEDULE else IN_A_ROW
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=needed, statuses=_OVER)
        if len(ticks) == needed and all(tick.status is TickStatus.FAILURE for tick in ticks):
            alerts.append(_alert(state, ticks[0], settings))
    return Look(alerts=tuple(alerts), words=f"{len(on)} sensors and schedules are on, {len(alerts)} of them fail")


def _alert(state: InstigatorState, tick: InstigatorTick, settings: Settings) -> "Alert":
    from pilotage.monitoring.alerts import Alert

    what = state.instigator_type.value.lower()
    # Dagster's own words are around those of the sensor's code.
    said = in_a_line((tick.error.cause or tick.error).message) if tick.error is not None else ""
    location = state.origin.repository_origin.code_location_origin.location_name
    return Alert.of(
        KIND,
        f"The {what} {state.name} fails, and does nothing until that is mended. {said}",
        subject=state.name,
        evidence={"last": tick.timestamp, "error": said},
        run_url=f"{settings.dagster_ui}/locations/{location}/{what}s/{state.name}",
    )
