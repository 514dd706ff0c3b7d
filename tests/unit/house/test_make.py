"""`make` and the installer behind it, with a Python and a uv that only write down what they are asked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.settings import PROJECT

TARGETS = ("up", "test", "lint", "fmt", "bench", "lock", "screenshots", "reset", "clean", "help")

WORKING = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
BROKEN_SHIM = "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n"
TOO_OLD = "#!/bin/sh\n# Whatever it is asked, it is no supported version.\nexit 1\n"

UV = f"""#!/bin/sh
echo "$*" >>"$UV_LOG"
if [ "$1" = venv ]; then
    for last; do :; done
    mkdir -p "$last/bin"
    ln -sf "{sys.executable}" "$last/bin/python"
fi
if [ -n "${{UV_FAILS:-}}" ] && [ "$1" = pip ]; then exit 1; fi
"""


class Machine:
    """A copy of what the installer reads, and a PATH that holds only what it is given."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.path = folder / "bin"
        self.log = folder / "uv.log"
        (self.project / "scripts").mkdir(parents=True)
        self.path.mkdir()
        for name in ("scripts/install", "requirements.lock", "pyproject.toml", "Makefile"):
            shutil.copy(PROJECT / name, self.project / name)
        for tool in ("sh", "cmp", "cp", "mkdir", "rm", "dirname", "ln", "make", "awk"):
            (self.path / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")

    def put(self, name: str, script: str) -> None:
        (self.path / name).write_text(script)
        (self.path / name).chmod(0o755)

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path), "UV_LOG": str(self.log), **variables}
        script = self.project / "scripts" / "install"
        return subprocess.run([script], env=environment, capture_output=True, text=True, check=False)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_make_alone_says_what_there_is():
    told = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\S", told, re.MULTILINE), target


def test_without_a_python_it_says_what_to_do(machine: Machine):
    machine.put("python3", TOO_OLD)
    done = machine.install()
    assert done.returncode == 1
    assert "Pilotage needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "make up PYTHON=" in done.stderr
    assert not (machine.project / ".venv").exists()


def test_a_python_that_is_found_but_does_not_run_is_passed_over(machine: Machine):
    machine.put("python3.11", BROKEN_SHIM)
    machine.put("python3.12", WORKING)
    machine.put("uv", UV)
    assert machine.install().returncode == 0
    assert machine.calls()[0] == "venv --quiet --clear --python python3.12 .venv"


def test_a_python_that_was_named_is_used_or_refused_but_never_replaced(machine: Machine):
    machine.put("python3.11", WORKING)
    machine.put("mine", WORKING)
    machine.put("uv", UV)
    assert machine.install(PYTHON="mine").returncode == 0
    assert "--python mine" in machine.calls()[0]
    shutil.rmtree(machine.project / ".venv")
    done = machine.install(PYTHON="nowhere")
    assert done.returncode == 1
    assert "PYTHON=nowhere is no working Python" in done.stderr


def test_uv_installs_the_lock_by_hash_and_the_project_without_dependencies(machine: Machine):
    machine.put("python3.11", WORKING)
    machine.put("uv", UV)
    machine.install()
    _, libraries, project = machine.calls()
    assert "--require-hashes -r requirements.lock" in libraries
    assert "--no-deps --no-build-isolation -e ." in project


def test_a_second_time_does_nothing_until_the_lock_or_the_project_file_changes(machine: Machine):
    machine.put("python3.11", WORKING)
    machine.put("uv", UV)
    machine.install()
    before = machine.calls()
    again = machine.install()
    assert (again.returncode, again.stderr, machine.calls()) == (0, "", before)
    for name in ("requirements.lock", "pyproject.toml"):
        with (machine.project / name).open("a") as file:
            file.write("\n# changed\n")
        machine.log.unlink()
        machine.install()
        assert len(machine.calls()) == 2, f"{name} changed: install again, into the same environment"


def test_an_install_that_failed_is_tried_again(machine: Machine):
    machine.put("python3.11", WORKING)
    machine.put("uv", UV)
    assert machine.install(UV_FAILS="1").returncode == 1
    assert machine.install().returncode == 0
    assert len([call for call in machine.calls() if "--require-hashes" in call]) == 2


def test_an_environment_whose_python_has_gone_is_made_anew(machine: Machine):
    machine.put("python3.11", WORKING)
    machine.put("uv", UV)
    machine.install()
    python = machine.project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert machine.install().returncode == 0
    assert len([call for call in machine.calls() if call.startswith("venv")]) == 2


def test_without_uv_and_without_pip_in_the_environment_pip_is_put_there(machine: Machine):
    """uv makes environments without pip; somebody may lose uv afterwards."""
    python = machine.project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    log = machine.log
    python.write_text(
        f'#!/bin/sh\necho "$*" >>"{log}"\n'
        f'case "$*" in "-m pip --version") exit 1 ;; -m*) exit 0 ;; esac\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    machine.put("python3.11", WORKING)
    assert machine.install().returncode == 0
    calls = [call for call in machine.calls() if call.startswith("-m")]
    assert calls[:2] == ["-m pip --version", "-m ensurepip"]
    assert "--no-deps --require-hashes -r requirements.lock" in calls[2]
    assert "--no-deps --no-build-isolation -e ." in calls[3]


def test_ci_runs_what_a_person_runs():
    text = (PROJECT / ".ci" / "run").read_text()
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)
    assert re.search(r"^make lint$", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)
