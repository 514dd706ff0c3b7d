"""Nothing that runs on a leash outlives the leash, its program or its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.unit.cli.programs import DEAF, FOREVER, family, gone, pid_in, python, says_its_pid, until


@contextmanager
def leash(code: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "pilotage.cli.leash", *options, "--", *python(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_leash_ends_with_the_exit_code_of_its_program() -> None:
    with leash("raise SystemExit(7)") as process:
        assert process.wait(30) == 7


def test_a_program_that_dies_by_a_signal_is_told_apart_by_128_and_its_number() -> None:
    with leash("import os; os.kill(os.getpid(), 9)") as process:
        assert process.wait(30) == 128 + signal.SIGKILL


def test_sigterm_ends_the_program_and_a_child_in_a_session_of_its_own(tmp_path: Path) -> None:
    with leash(family(tmp_path)) as process:
        parent, child = pid_in(tmp_path / "parent"), pid_in(tmp_path / "child")
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert gone(parent)
        assert gone(child)


def test_the_program_is_ended_with_its_children_when_the_owner_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pilotage.cli.leash", "--", *python(family(tmp_path))]
    code = f"import subprocess; p = subprocess.Popen({command!r}, stdin=subprocess.PIPE); p.wait()"
    with subprocess.Popen(python(code)) as owner:
        parent, child = pid_in(tmp_path / "parent"), pid_in(tmp_path / "child")
        owner.kill()
    until(lambda: gone(parent) and gone(child))


def test_a_child_that_outlives_its_parent_is_ended_when_the_program_ends(tmp_path: Path) -> None:
    child = says_its_pid(tmp_path / "child")
    code = (
        f"import subprocess, pathlib, time; subprocess.Popen({python(child)!r}, start_new_session=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'child')!r}).exists(): time.sleep(0.01)"
    )
    with leash(code) as process:
        assert process.wait(30) == 0
        assert gone(pid_in(tmp_path / "child"))


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    with leash(DEAF + says_its_pid(tmp_path / "pid"), "--grace", "0.2") as process:
        pid = pid_in(tmp_path / "pid")
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGKILL
        assert gone(pid)


def test_a_second_order_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    with leash(DEAF + says_its_pid(tmp_path / "pid"), "--grace", "3600") as process:
        pid_in(tmp_path / "pid")
        process.terminate()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGKILL


def test_a_child_that_ignores_sigterm_is_killed_after_the_program_ended(tmp_path: Path) -> None:
    child = DEAF + says_its_pid(tmp_path / "child")
    code = f"import subprocess; subprocess.Popen({python(child)!r})\n{FOREVER}"
    with leash(code) as process:
        pid = pid_in(tmp_path / "child")
        process.terminate()
        process.wait(30)
        assert gone(pid)


def test_a_program_does_not_inherit_an_ignored_interrupt(tmp_path: Path) -> None:
    # A shell starts background jobs with SIGINT ignored; Dagster then ignores SIGTERM as well.
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    command = [sys.executable, "-m", "pilotage.cli.leash", "--", *python(code)]
    shell = (
        "import signal, subprocess; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"raise SystemExit(subprocess.Popen({command!r}, stdin=subprocess.PIPE).wait())"
    )
    assert subprocess.run(python(shell), timeout=60, check=False).returncode == 0


def test_orphans_that_end_are_not_left_as_zombies(tmp_path: Path) -> None:
    # Double fork: the grandchild is an orphan at once, and ends.
    code = (
        "import os, sys, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: os._exit(0)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    ) + says_its_pid(tmp_path / "pid")
    with leash(code) as process:
        pid = pid_in(tmp_path / "pid")
        until(lambda: [child.pid for child in psutil.Process(process.pid).children()] == [pid])
