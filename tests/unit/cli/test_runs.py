"""What a run says is read from Dagster's log lines: progress, the run's id, and how it failed."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from pilotage.cli.runs import RESULT, RunTranscript, Transcript, Work, alive, owner, parse
from pilotage.settings import Settings
from tests.unit.cli.programs import gone, pid_in, python, says_its_pid

RUN = "d2018092-b825-4786-bd16-ddd48e63451e"
HEAD = "2026-11-20 10:55:40 +0000 - dagster"
FAILED = f"""\
{HEAD} - DEBUG - jb - {RUN} - 9352 - RUN_START - Started execution of run for "jb".
{HEAD} - DEBUG - jb - {RUN} - 9352 - flight_delay__features - STEP_START - Started execution of step "b".
{HEAD} - INFO - jb - {RUN} - flight_delay__features - Read 4,000 rows - all of them
and a second line
{HEAD} - ERROR - jb - {RUN} - 9352 - flight_delay__features - STEP_FAILURE - Execution of step "b" failed.

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "b"::

pilotage.errors.UnpublishedData: There is no validated/flights. Fix: Run ingest_flights.

Stack Trace:
  File "x.py", line 57, in op_execution_error_boundary
    yield

{HEAD} - ERROR - jb - {RUN} - 9352 - RUN_FAILURE - Execution of run for "jb" failed. Steps failed: ['b'].

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "b":
Stack Trace:
Error: Run {RUN} resulted in failure.
"""


def test_a_step_and_what_it_says_are_told_apart_from_dagsters_events() -> None:
    said = parse(f"{HEAD} - INFO - jb - {RUN} - b - Read 3 rows - done")
    assert said is not None
    assert (said.run_id, said.step, said.event, said.text) == (RUN, "b", "", "Read 3 rows - done")
    event = parse(f'{HEAD} - DEBUG - jb - {RUN} - 93 - RUN_SUCCESS - Finished execution of run for "jb".')
    assert event is not None
    assert (event.step, event.event) == ("", "RUN_SUCCESS")


def test_colours_are_not_read_as_text() -> None:
    said = parse(f"\x1b[32m{HEAD}\x1b[0m - \x1b[34mINFO\x1b[0m - jb - {RUN} - b - blue")
    assert said is not None
    assert said.text == "blue"


@pytest.mark.parametrize("line", ["", "Stack Trace:", "  File x", "2026-11-20 some other log"])
def test_a_line_of_something_else_is_no_log_line(line: str) -> None:
    assert parse(line) is None


def test_a_failed_run_is_told_by_its_step_and_its_own_message_without_the_stack() -> None:
    heard: list[str] = []
    transcript = RunTranscript(heard.append)
    for line in FAILED.splitlines(keepends=True):
        transcript.feed(line)
    assert transcript.run_id == RUN
    assert transcript.failed_step == "flight_delay__features"
    assert (
        transcript.error == "pilotage.errors.UnpublishedData: There is no validated/flights. Fix: Run ingest_flights."
    )
    assert heard == ["flight_delay features", "Read 4,000 rows - all of them"]


def test_a_failure_that_dagster_tells_only_of_the_run_is_told_as_well() -> None:
    lines = f"""\
{HEAD} - DEBUG - jb - {RUN} - 9352 - it - STEP_START - Started execution of step "b".
{HEAD} - ERROR - jb - {RUN} - 9352 - RUN_FAILURE - Execution of run for "jb" failed. Steps failed: ['it'].

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "b":

Stack Trace:
  File "x.py", line 57, in op_execution_error_boundary
    yield

The above exception was caused by the following exception:
pilotage.errors.UnpublishedData: There is no validated/flights. Fix: Run ingest_flights.

Stack Trace:
  File "y.py", line 8, in features
"""
    transcript = RunTranscript(lambda _: None)
    for line in lines.splitlines(keepends=True):
        transcript.feed(line)
    assert transcript.failed_step == "it"
    assert (
        transcript.error == "pilotage.errors.UnpublishedData: There is no validated/flights. Fix: Run ingest_flights."
    )


def test_a_failure_in_plain_words_that_dagster_tells_only_of_the_run_is_told_as_well() -> None:
    lines = f"""\
{HEAD} - ERROR - jb - {RUN} - 9352 - RUN_FAILURE - Execution of run for "jb" failed. Steps failed: ['it'].

dagster._core.definitions.events.Failure: flights was refused. Fix: Have it delivered again.

Stack Trace:
  File "y.py", line 8, in features
"""
    transcript = RunTranscript(lambda _: None)
    for line in lines.splitlines(keepends=True):
        transcript.feed(line)
    assert transcript.error == "flights was refused. Fix: Have it delivered again."


def test_a_command_of_ours_tells_progress_result_and_error_apart() -> None:
    heard: list[str] = []
    transcript = Transcript(heard.append)
    for line in ("31 days\n", f"{RESULT}{{}}\n", "Error: No room.\n", "Fix: Delete something.\n"):
        transcript.feed(line)
    assert heard == ["31 days"]
    assert transcript.answer == "{}"
    assert transcript.error == "No room. Fix: Delete something."


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def work(settings: Settings, code: str, heard: list[str]) -> Work:
    return Work(python(code), settings=settings, log=settings.home / "it.log", transcript=Transcript(heard.append))


def test_work_is_heard_line_by_line_and_kept_in_its_log(settings: Settings) -> None:
    heard: list[str] = []
    result = work(settings, "print('one'); print('result: 2')", heard).run()
    assert (result.ok, result.answer, result.error, heard) == (True, "2", "", ["one"])
    assert (settings.home / "it.log").read_text() == "one\nresult: 2\n"


def test_work_that_fails_without_a_word_says_its_exit_code(settings: Settings) -> None:
    assert work(settings, "raise SystemExit(4)", []).run().error == "exit code 4"


def test_work_that_crashes_says_its_last_line(settings: Settings) -> None:
    result = work(settings, "raise ValueError('no such thing')", []).run()
    assert (result.ok, result.error) == (False, "ValueError: no such thing")


def test_stopped_work_leaves_no_process(settings: Settings, tmp_path: Path) -> None:
    started = work(settings, says_its_pid(tmp_path / "pid"), [])
    results = []
    thread = threading.Thread(target=lambda: results.append(started.run()))
    thread.start()
    pid = pid_in(tmp_path / "pid")
    started.stop()
    thread.join(30)
    assert gone(pid)
    assert (results[0].ok, results[0].error) == (False, "stopped")


def test_work_that_was_stopped_before_it_began_does_not_begin(settings: Settings, tmp_path: Path) -> None:
    started = work(settings, says_its_pid(tmp_path / "pid"), [])
    started.stop()
    assert started.run().error == "stopped"
    assert not (tmp_path / "pid").exists()


def test_the_owner_of_a_run_is_known_to_live_and_another_process_with_its_id_is_not_taken_for_it() -> None:
    assert alive(owner())
    assert not alive(f"{os.getpid()}@1")
    assert not alive("nonsense")


def test_programs_run_in_the_environment_of_this_python(settings: Settings) -> None:
    heard: list[str] = []
    work(settings, "import sys; print(sys.executable)", heard).run()
    assert heard == [sys.executable]
