"""One server loads the project for Dagster's web server and daemon: where it listens, and that they are told."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.workspace.load import location_origins_from_yaml_paths

from pilotage.cli import code_server
from pilotage.errors import ConfigError
from pilotage.settings import PROJECT, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return made(tmp_path / "home")


def made(home: Path) -> Settings:
    settings = Settings(home=home)
    settings.dagster_home.mkdir(parents=True)
    return settings


def test_dagster_asks_the_socket_for_the_location_of_the_projects_workspace(settings: Settings) -> None:
    code_server.prepare(settings)
    options = code_server.workspaces(settings)
    assert options[::2] == ["-w", "-w"]
    [origin] = location_origins_from_yaml_paths(options[1::2])
    assert (origin.location_name, Path(str(getattr(origin, "socket", "")))) == (
        code_server.LOCATION,
        code_server.socket_of(settings),
    )
    [location] = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == code_server.MODULE


def test_each_start_has_a_socket_of_its_own_and_takes_away_those_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_server.prepare(settings)
    before = code_server.socket_of(settings)
    before.touch()
    monkeypatch.setattr(os, "getpid", lambda: 999_999_999)
    code_server.prepare(settings)
    assert code_server.socket_of(settings) != before
    assert not before.exists()


def test_a_home_with_a_long_path_has_its_socket_in_a_folder_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_server.tempfile, "gettempdir", lambda: str(tmp_path))
    settings = made(tmp_path / ("long" * 30))
    code_server.prepare(settings)
    at = code_server.socket_of(settings)
    assert at.parent.parent == tmp_path
    assert stat.S_IMODE(at.parent.stat().st_mode) == 0o700
    code_server.prepare(settings)
    assert code_server.socket_of(settings) == at
    real: Any = os.getuid
    monkeypatch.setattr(os, "getuid", lambda: real() + 1)
    at.parent.rename(tmp_path / at.parent.name.replace(f"-{real()}-", f"-{real() + 1}-"))
    with pytest.raises(ConfigError, match="somebody else's"):
        code_server.prepare(settings)


def test_it_is_well_once_somebody_listens(settings: Settings) -> None:
    assert code_server.listens(settings) == "loading the code"
    code_server.prepare(settings)
    assert code_server.listens(settings) == "loading the code"
    with socket.socket(socket.AF_UNIX) as serving:
        serving.bind(str(code_server.socket_of(settings)))
        serving.listen()
        assert code_server.listens(settings) is None
    assert json.loads((settings.dagster_home / "workspace.yaml").read_text())["load_from"]


def test_code_that_was_changed_added_or_removed_is_other_code(tmp_path: Path) -> None:
    (tmp_path / "assets" / "models").mkdir(parents=True)
    for name in ("definitions.py", "assets/models/one.py"):
        (tmp_path / name).write_text("x = 1\n")
    before = code_server.code_files(tmp_path)
    assert code_server.code_files(tmp_path) == before
    (tmp_path / "assets" / "notes.md").write_text("no code")
    assert code_server.code_files(tmp_path) == before
    os.utime(tmp_path / "assets" / "models" / "one.py", ns=(1, 1))
    changed = code_server.code_files(tmp_path)
    (tmp_path / "assets" / "models" / "two.py").write_text("x = 2\n")
    added = code_server.code_files(tmp_path)
    (tmp_path / "definitions.py").unlink()
    assert len({before, changed, added, code_server.code_files(tmp_path)}) == 4
