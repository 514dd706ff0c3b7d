"""Programs under supervision: restarted with back-off, given up in the end, stopped within a bound."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pilotage.cli.orphans import MARK, end_orphans
from pilotage.cli.supervisor import BACK_OFF, STEADY_SECONDS, Lasting, Program, Supervised, Supervisor, leashed, tree
from tests.unit.cli.programs import DEAF, FOREVER, family, gone, pid_in, python, says_its_pid, until


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.stop(harsh=lambda: True)


def program(tmp_path: Path, code: str, **options: object) -> Program:
    return Program(name="it", command=python(code), log=tmp_path / "it.log", **options)


def dies(supervised: Supervised) -> None:
    until(lambda: supervised.tick() or supervised.state != "starting")


def test_a_program_that_dies_is_started_again_after_its_back_off(tmp_path: Path, clock: Clock) -> None:
    supervised = Supervised(program(tmp_path, "print('hello'); raise SystemExit(3)"), clock=clock)
    supervised.start()
    dies(supervised)
    assert supervised.state == "restarting"
    assert supervised.detail == f"ended with exit code 3, see {tmp_path / 'it.log'}; restart 1 in 1 s"
    supervised.tick()
    assert supervised.state == "restarting"
    clock.now += BACK_OFF[0]
    supervised.tick()
    assert supervised.state == "starting"
    dies(supervised)
    assert (tmp_path / "it.log").read_text() == "hello\nhello\n"


def test_a_program_that_keeps_dying_is_given_up_and_reported(tmp_path: Path, clock: Clock) -> None:
    supervised = Supervised(program(tmp_path, "raise SystemExit(1)"), clock=clock)
    supervised.start()
    for delay in BACK_OFF:
        dies(supervised)
        clock.now += delay
        supervised.tick()
    dies(supervised)
    assert supervised.state == "failed"
    assert supervised.detail.endswith(f"given up after {len(BACK_OFF)} restarts")
    clock.now += 3600
    supervised.tick()
    assert supervised.state == "failed"


def test_a_program_that_ran_long_starts_again_with_the_first_back_off(tmp_path: Path, clock: Clock) -> None:
    supervised = Supervised(program(tmp_path, says_its_pid(tmp_path / "pid", "raise SystemExit(1)")), clock=clock)
    supervised.restarts = len(BACK_OFF)
    supervised.start()
    clock.now += STEADY_SECONDS
    dies(supervised)
    assert supervised.state == "restarting"
    assert supervised.restarts == 1


def test_the_health_of_a_program_is_what_its_check_says(tmp_path: Path, supervisor: Supervisor) -> None:
    answers = iter(["no answer yet", None, "answers 503", None])
    supervised = supervisor.add(program(tmp_path, FOREVER, check=lambda: next(answers)))
    supervisor.start(supervised)
    seen = []
    for _ in range(4):
        supervised.ask()
        seen.append((supervised.state, supervised.detail))
    assert seen == [("starting", "no answer yet"), ("healthy", ""), ("unwell", "answers 503"), ("healthy", "")]


def test_what_no_waiting_mends_is_told_of_a_program_that_is_only_starting(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    answers = iter(["no answer yet", Lasting("definitions don't load"), None])
    supervised = supervisor.add(program(tmp_path, FOREVER, check=lambda: next(answers)))
    supervisor.start(supervised)
    seen = []
    for _ in range(3):
        supervised.ask()
        seen.append((supervised.state, supervised.detail))
    assert seen == [("starting", "no answer yet"), ("unwell", "definitions don't load"), ("healthy", "")]


def test_a_check_that_raises_is_the_programs_trouble_and_the_others_are_still_asked(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    def odd() -> str | None:
        raise LookupError("no such field")

    ill = supervisor.add(program(tmp_path, FOREVER, check=odd))
    fine = supervisor.add(program(tmp_path, FOREVER, check=lambda: None))
    supervisor.start(ill)
    supervisor.start(fine)
    thread = supervisor.watch(0.01)
    until(lambda: fine.state == "healthy")
    assert ill.detail == "can't be asked: LookupError: no such field"
    assert thread.is_alive()


def test_an_answer_of_a_program_that_died_meanwhile_is_not_believed(tmp_path: Path) -> None:
    supervised = Supervised(program(tmp_path, "raise SystemExit(1)", check=lambda: dies(supervised)))
    supervised.start()
    supervised.ask()
    assert supervised.state == "restarting"


def test_stop_leaves_no_process_of_any_program(tmp_path: Path, supervisor: Supervisor) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        supervisor.start(supervisor.add(program(tmp_path, family(tmp_path / name))))
    pids = [pid_in(tmp_path / name / who) for name in ("one", "two") for who in ("parent", "child")]
    leashes = [supervised.pid or 0 for supervised in supervisor.programs]
    assert len(tree(leashes[0])) == 3
    assert supervisor.stop() == []
    assert all(gone(pid) for pid in [*pids, *leashes])
    assert [supervised.state for supervised in supervisor.programs] == ["stopped", "stopped"]


def test_a_harsh_stop_does_not_wait_for_a_deaf_program(tmp_path: Path, supervisor: Supervisor) -> None:
    supervised = supervisor.add(program(tmp_path, DEAF + says_its_pid(tmp_path / "pid"), grace=3600))
    supervisor.start(supervised)
    pid = pid_in(tmp_path / "pid")
    assert supervisor.stop(harsh=lambda: True, patience=3600) == []
    assert gone(pid)


def test_a_leash_that_hangs_is_killed_with_everything_below_it_and_named(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervised = supervisor.add(program(tmp_path, family(tmp_path)))
    supervisor.start(supervised)
    pids = [pid_in(tmp_path / "parent"), pid_in(tmp_path / "child")]
    psutil.Process(supervised.pid).suspend()
    assert supervisor.stop(harsh=lambda: True) == ["it"]
    assert all(gone(pid) for pid in pids)


def test_what_a_killed_leash_leaves_behind_ends_before_the_program_starts_again(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    """The program dies with its leash; its child would have kept the port."""
    supervised = supervisor.add(program(tmp_path, family(tmp_path), variables={MARK: f"{tmp_path}: it"}))
    supervisor.start(supervised)
    (tmp_path / "other").mkdir()
    other = leashed(python(family(tmp_path / "other")), variables={MARK: f"{tmp_path}: other"}, output=subprocess.PIPE)
    with other:
        pids = [pid_in(tmp_path / "parent"), pid_in(tmp_path / "child")]
        beside = pid_in(tmp_path / "other" / "child")
        psutil.Process(supervised.pid).kill()
        dies(supervised)
        assert supervised.state == "restarting"
        assert all(gone(pid) for pid in pids)
        assert not gone(beside)
        assert end_orphans(lambda mark: mark.startswith(f"{tmp_path}: ")) == []
        other.kill()
        until(lambda: gone(pid_in(tmp_path / "other" / "parent")))
        assert end_orphans(lambda mark: mark.startswith(f"{tmp_path}: ")) == [beside]
        assert gone(beside)


def test_nothing_starts_once_everything_is_being_stopped(tmp_path: Path, supervisor: Supervisor) -> None:
    supervised = supervisor.add(program(tmp_path, FOREVER))
    supervisor.stop()
    supervisor.start(supervised)
    assert supervised.pid is None


def test_variables_reach_the_program_and_no_process_list() -> None:
    code = "import os, psutil\nfor each in (psutil.Process(), psutil.Process().parent()): print(each.cmdline())\n"
    command = [sys.executable, "-c", f"{code}print(os.environ['WORD'])"]
    with leashed(command, variables={"WORD": "a=b c"}, output=subprocess.PIPE) as started:
        assert started.stdout is not None
        program, leash, word = started.stdout.read().decode().splitlines()
    assert word == "a=b c"
    assert "pilotage.cli.leash" in leash
    assert "a=b c" not in program + leash
