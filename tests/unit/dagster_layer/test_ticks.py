"""A sensor or a schedule that fails at every look is an alarm, until it works, is stopped or is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from pilotage.settings import Settings
from sensors.ticks import ticks_watch

SAID = SerializableErrorInfo("pilotage.errors.LakeError: The lake is gone.\nFix: Bring it back.\n", [], "LakeError")
ERROR = SerializableErrorInfo("Error occurred during the execution of evaluation_fn\n", [], "SensorError", SAID)
LOCATION = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="definitions.py"), location_name="pilotage")


class Daemon:
    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.now = instance, 1_000_000.0

    def has(self, name: str, kind: InstigatorType = InstigatorType.SENSOR, *, on: bool = True) -> InstigatorState:
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(LOCATION, "__repository__"), name)
        status = InstigatorStatus.DECLARED_IN_CODE if on else InstigatorStatus.STOPPED
        at = ScheduleInstigatorData("0 4 * * *") if kind is InstigatorType.SCHEDULE else None
        return self.instance.add_instigator_state(InstigatorState(origin, kind, status, at))

    def looks(self, state: InstigatorState, *ends: TickStatus) -> None:
        for end in ends:
            self.now += 30
            error = ERROR if end is TickStatus.FAILURE else None
            self.instance.create_tick(
                TickData(
                    state.instigator_origin_id,
                    state.name,
                    state.instigator_type,
                    end,
                    self.now,
                    run_ids=[],
                    run_keys=[],
                    error=error,
                    selector_id=state.selector_id,
                )
            )

    def failing(self, *declared: str) -> dict[str, str]:
        look = ticks_watch(self.instance, declared or None, Settings()).look()
        return {alert.subject: alert.summary for alert in look.alerts}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Daemon(instance)


FAILS, WORKS, SKIPS, STARTS = TickStatus.FAILURE, TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.STARTED


def test_a_sensor_that_fails_three_times_in_a_row_is_told_with_what_it_said(daemon: Daemon) -> None:
    sensor = daemon.has("retrain_m")
    daemon.looks(sensor, WORKS, FAILS, FAILS)
    assert daemon.failing() == {}
    daemon.looks(sensor, FAILS, STARTS)
    assert daemon.failing() == {
        "retrain_m": "The sensor retrain_m fails, and does nothing until that is mended. "
        "LakeError: The lake is gone. Fix: Bring it back."
    }
    daemon.looks(sensor, SKIPS)
    assert daemon.failing() == {}


def test_a_schedule_is_told_at_once_for_its_next_look_may_be_a_week_away(daemon: Daemon) -> None:
    daemon.looks(daemon.has("nightly_m", InstigatorType.SCHEDULE), WORKS, FAILS)
    assert daemon.failing()["nightly_m"].startswith("The schedule nightly_m fails")


def test_one_that_somebody_stopped_or_whose_file_is_gone_is_no_alarm(daemon: Daemon) -> None:
    daemon.looks(daemon.has("stopped", on=False), FAILS, FAILS, FAILS)
    daemon.looks(daemon.has("gone"), FAILS, FAILS, FAILS)
    assert daemon.failing("stopped", "there") == {}
    assert list(daemon.failing("gone")) == ["gone"]
