"""The sensor of the prediction log asks for a move when segments wait, once, and says why when it doesn't."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jobs.serving import MOVE
from pilotage.monitoring.move_plan import MovePlan, write_plan
from pilotage.run_tags import ATTEMPT, LANDING
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from sensors.attempts import LONGEST_PAUSE
from sensors.prediction_log import MOVE_AFTER, SILENT, prediction_log_sensor
from tests.unit.monitoring.logs import prediction, write_segment


class Desk:
    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.sensor = prediction_log_sensor()

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        context = dg.build_sensor_context(
            instance=self.instance, resources={"platform": PlatformHome(home=str(self.settings.home))}
        )
        result: Any = self.sensor(context)
        return list(result.run_requests or []), result.skip_reason.skip_message if result.skip_reason else ""

    def wait(self, number: int, *, since: timedelta, sealed: bool = True) -> Path:
        path = write_segment(self.settings.prediction_log, [prediction(number)], number=number, sealed=sealed)
        then = time.time() - since.total_seconds()
        os.utime(path, (then, then))
        return path

    def ran(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
        self.instance.add_run(dg.DagsterRun(job_name=MOVE, status=status, tags=dict(request.tags)))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(tmp_path, instance)


def test_without_segments_it_says_where_it_looked(desk: Desk) -> None:
    requests, reason = desk.tick()
    assert requests == []
    assert str(desk.settings.prediction_log) in reason


def test_segments_that_just_came_wait_for_more_and_one_that_is_written_is_left_alone(desk: Desk) -> None:
    desk.wait(1, since=timedelta(seconds=10))
    desk.wait(2, since=timedelta(seconds=10), sealed=False)
    requests, reason = desk.tick()
    assert requests == []
    assert reason.startswith("1 segments") and "moved after 300 s" in reason


def test_old_segments_are_asked_for_once_by_their_names(desk: Desk) -> None:
    desk.wait(1, since=MOVE_AFTER + timedelta(seconds=1))
    [first], _ = desk.tick()
    [again], _ = desk.tick()
    assert first.run_key == again.run_key
    assert first.tags[ATTEMPT] == "1"
    desk.wait(2, since=timedelta(0))
    [other], _ = desk.tick()
    assert other.run_key != first.run_key


def test_an_open_segment_that_nobody_writes_to_is_taken_for_a_dead_workers(desk: Desk) -> None:
    desk.wait(1, since=SILENT + timedelta(seconds=1), sealed=False)
    requests, _ = desk.tick()
    assert len(requests) == 1


def test_an_open_segment_without_records_is_an_idle_workers_and_waits_for_nothing(desk: Desk) -> None:
    path = write_segment(desk.settings.prediction_log, [], sealed=False)
    os.utime(path, (0, 0))
    requests, reason = desk.tick()
    assert requests == []
    assert reason.startswith("No sealed segment waits")


def test_while_a_move_is_under_way_no_other_is_asked_for(desk: Desk) -> None:
    desk.wait(1, since=MOVE_AFTER * 2)
    [request], _ = desk.tick()
    desk.ran(request, dg.DagsterRunStatus.STARTED)
    desk.wait(2, since=MOVE_AFTER * 2)
    requests, reason = desk.tick()
    assert requests == []
    assert "moves them" in reason


def test_what_a_move_had_to_leave_is_not_asked_for_again(desk: Desk) -> None:
    desk.wait(1, since=MOVE_AFTER * 2)
    [request], _ = desk.tick()
    desk.ran(request, dg.DagsterRunStatus.SUCCESS)
    requests, reason = desk.tick()
    assert requests == []
    assert "had to leave them" in reason


def test_a_move_that_could_not_end_is_asked_for_again_though_its_run_succeeded(desk: Desk) -> None:
    desk.wait(1, since=MOVE_AFTER * 2)
    [request], _ = desk.tick()
    desk.ran(request, dg.DagsterRunStatus.SUCCESS)
    write_plan(desk.settings.prediction_log, MovePlan(id="log", number=1, segments=("w1.sealed",)))
    requests, reason = desk.tick()
    assert requests == []
    assert "could not end its move yet, and they are tried again" in reason
    write_plan(desk.settings.prediction_log, MovePlan(id="log", number=1))
    _, reason = desk.tick()
    assert "had to leave them" in reason


def test_a_move_that_failed_is_asked_for_again_under_another_key_after_a_pause(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.wait(1, since=MOVE_AFTER * 2)
    [request], _ = desk.tick()
    desk.ran(request, dg.DagsterRunStatus.FAILURE)
    requests, reason = desk.tick()
    assert requests == []
    assert "tried again" in reason
    [record] = desk.instance.get_run_records(dg.RunsFilter(tags={LANDING: request.tags[LANDING]}))
    ended = time.time() - 61

    def records(*args: object, **kwargs: object) -> list[Any]:
        return [record._replace(end_time=ended)]

    monkeypatch.setattr(desk.instance, "get_run_records", records)
    [second], _ = desk.tick()
    assert second.tags[ATTEMPT] == "2"
    assert second.run_key != request.run_key
    tags = {**record.dagster_run.tags, ATTEMPT: "40"}
    record = record._replace(dagster_run=record.dagster_run.with_tags(tags))
    ended = time.time() - LONGEST_PAUSE.total_seconds() - 1
    [last], _ = desk.tick()
    assert last.tags[ATTEMPT] == "41"
