"""The way from a half-made home to champions: what is still to do, in which order, and what a failure leaves out."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli import home
from pilotage.cli.board import PlainBoard
from pilotage.cli.bootstrap import Bootstrap, Task
from pilotage.cli.runs import Transcript, Work
from pilotage.cli.supervisor import Supervisor
from pilotage.cli.up import Options, Orders, _Up
from pilotage.settings import Settings
from tests.unit.cli.programs import gone, pid_in, python, says_its_pid


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def board() -> PlainBoard:
    return PlainBoard(io.StringIO())


@pytest.fixture
def bootstrap(settings: Settings, board: PlainBoard) -> Bootstrap:
    return Bootstrap(settings, board, before_runs=lambda: True)


def missing(**changed: Any) -> dict[str, Any]:
    """What a home lacks on which nothing but landing has happened."""
    return {
        "champions": [],
        "models": ["flight_delay", "loan_approval"],
        "daily": ["flight_delay"],
        "releasable": [],
        "land": False,
        "ingest": ["2013-01-01", "2013-02-28"],
        "tables": True,
        "features": None,
        **changed,
    }


def order(tasks: list[Task]) -> dict[str, tuple[str, ...]]:
    return {task.name: tuple(task.after) for task in tasks}


def test_a_landed_home_runs_the_whole_lineage_and_the_loans_do_not_wait_for_the_flights(bootstrap: Bootstrap) -> None:
    assert order(bootstrap.lineage(missing())) == {
        "Ingest tables": (),
        "Train loan_approval": ("Ingest tables",),
        "Data of flight_delay": ("Ingest tables",),
        "Train flight_delay": ("Data of flight_delay",),
        "Release flight_delay": ("Train flight_delay",),
        "Release loan_approval": ("Train loan_approval",),
    }


def test_what_is_in_the_lake_is_not_ingested_again(bootstrap: Bootstrap) -> None:
    left = missing(ingest=None, tables=False, features=["2013-02-20", "2013-02-28"], models=["flight_delay"])
    assert order(bootstrap.lineage(left)) == {
        "Features of flight_delay": (),
        "Train flight_delay": ("Features of flight_delay",),
        "Release flight_delay": ("Train flight_delay",),
    }


def test_a_version_that_passed_is_only_promoted(bootstrap: Bootstrap) -> None:
    left = missing(models=["loan_approval"], releasable=["loan_approval"])
    assert order(bootstrap.lineage({**left, "tables": False, "ingest": None})) == {"Release loan_approval": ()}


def test_runs_say_their_days_and_their_cause(bootstrap: Bootstrap) -> None:
    tasks = {task.name: task for task in bootstrap.lineage(missing(features=["2013-03-01", "2013-03-02"]))}
    command = " ".join(tasks["Data of flight_delay"].make(lambda _: None).command)
    assert '"pilotage/cause": "bootstrap"' in command
    assert '"dagster/asset_partition_range_start": "2013-01-01"' in command
    assert '"dagster/asset_partition_range_end": "2013-03-02"' in command
    assert "-j data_flight_delay" in command


def task(settings: Settings, name: str, code: str, *after: str) -> Task:
    def make(progress: Callable[[str], None]) -> Work:
        log = settings.home / f"{name}.log"
        return Work(python(code), settings=settings, log=log, transcript=Transcript(progress))

    return Task(name=name, make=make, after=after)


def test_what_waits_for_a_failed_step_is_left_out_and_the_rest_goes_on(
    bootstrap: Bootstrap, board: PlainBoard, settings: Settings
) -> None:
    tasks = [
        task(settings, "bad", "print('Error: No flights.'); print('Fix: Land them.'); raise SystemExit(1)"),
        task(settings, "good", "print('hello')"),
        task(settings, "after bad", "print('never')", "bad"),
        task(settings, "after that", "print('never')", "after bad"),
        task(settings, "after good", "print('well')", "good"),
    ]
    assert not bootstrap.perform(tasks)
    assert {step.name: step.state for step in board.steps} == {
        "bad": "failed",
        "good": "done",
        "after bad": "skipped",
        "after that": "skipped",
        "after good": "done",
    }
    log = settings.home / "bad.log"
    assert bootstrap.outcome.failures == [f"bad: No flights. Fix: Land them. See {log}"]
    assert {step["name"]: step["state"] for step in bootstrap.outcome.steps} == {
        "bad": "failed",
        "good": "done",
        "after good": "done",
    }


def test_a_step_that_cannot_even_begin_fails_with_its_reason_and_nothing_waits_for_it(
    bootstrap: Bootstrap, board: PlainBoard, settings: Settings
) -> None:
    def make(progress: Callable[[str], None]) -> Work:
        raise PermissionError("the folder of logs can't be made")

    tasks = [Task(name="bad", make=make), task(settings, "good", "print(1)"), task(settings, "next", "print(1)", "bad")]
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(bootstrap.perform(tasks)), daemon=True)
    thread.start()
    thread.join(30)
    assert answers == [False]
    assert {step.name: step.state for step in board.steps} == {"bad": "failed", "good": "done", "next": "skipped"}
    [failure] = bootstrap.outcome.failures
    assert failure.startswith("bad: PermissionError: the folder of logs can't be made See ")


def test_steps_that_do_not_wait_for_each_other_run_side_by_side(
    bootstrap: Bootstrap, settings: Settings, tmp_path: Path
) -> None:
    meet = (
        "import pathlib, time\npathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    tasks = [
        task(settings, "one", meet.format(mine=a, other=b)),
        task(settings, "two", meet.format(mine=b, other=a)),
    ]
    assert bootstrap.perform(tasks)


def test_a_stop_ends_what_runs_and_begins_nothing_more(
    bootstrap: Bootstrap, board: PlainBoard, settings: Settings, tmp_path: Path
) -> None:
    tasks = [task(settings, "long", says_its_pid(tmp_path / "pid")), task(settings, "next", "print(1)", "long")]
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(bootstrap.perform(tasks)))
    thread.start()
    pid = pid_in(tmp_path / "pid")
    bootstrap.stop()
    thread.join(30)
    assert answers == [False]
    assert gone(pid)
    assert [step.name for step in board.steps] == ["long"]
    assert bootstrap.outcome.failures == []


@pytest.mark.slow
def test_dagsters_databases_are_made_once_and_again_if_the_first_time_was_interrupted(
    bootstrap: Bootstrap, board: PlainBoard, settings: Settings
) -> None:
    home.prepare(settings)
    half_made = settings.dagster_home / "schedules" / "schedules.db"
    half_made.parent.mkdir()
    half_made.touch()
    assert bootstrap.make_dagster_store()
    for file in ("schedules/schedules.db", "history/runs.db", "history/runs/index.db"):
        with closing(sqlite3.connect(settings.dagster_home / file)) as connection:
            assert len(connection.execute("select version_num from alembic_version").fetchall()) == 1
    assert bootstrap.make_dagster_store()
    assert [step.name for step in board.steps] == ["Dagster store"]


def test_no_server_opens_dagsters_databases_before_they_are_made(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def fails(_: Bootstrap) -> bool:
        told.append("Dagster store")
        return False

    monkeypatch.setattr(Bootstrap, "make_dagster_store", fails)
    monkeypatch.setattr(Supervisor, "start", lambda _, server: told.append(server.program.name))
    _Up(settings, Options(plain=True), Orders(), home.HomeLock(settings))._start()
    assert told == ["Reports", "Dagster store"]


def test_nothing_is_run_on_a_home_whose_dagster_may_not_be_used_yet(settings: Settings, board: PlainBoard) -> None:
    bootstrap = Bootstrap(settings, board, before_runs=lambda: False)
    bootstrap.run()
    assert [step.name for step in board.steps] == [
        "Looking at what is there",
        "Sample data",
        "Looking at what is there",
    ]
    assert bootstrap.outcome.failures == []
