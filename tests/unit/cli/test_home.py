"""One `pilotage up` a home, whatever happened to the one before; folders and configuration are made once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

from pilotage.cli import home
from pilotage.cli.land import land
from pilotage.errors import ConfigError
from pilotage.pseudonyms import Pseudonyms
from pilotage.run_tags import CAUSE
from pilotage.runtime.access.keyfile import create_key
from pilotage.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home")
    home.prepare(made)
    return made


def holder(settings: Settings) -> subprocess.Popen[bytes]:
    code = f"""
import sys, time
from pathlib import Path
from pilotage.cli import home
from pilotage.settings import Settings
lock = home.HomeLock(Settings(home=Path({str(settings.home)!r})))
assert lock.take() is None
lock.describe(addresses={{"Dagster": "http://127.0.0.1:3000"}})
print("held", flush=True)
time.sleep(3600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_start_learns_who_runs_and_where(settings: Settings) -> None:
    with holder(settings) as process:
        running = home.HomeLock(settings).take(patience=0)
        assert running is not None
        assert running.pid == process.pid
        assert running.addresses == {"Dagster": "http://127.0.0.1:3000"}
        assert home.is_up(settings) == running
        process.kill()


def test_a_lock_whose_process_was_killed_is_free_and_known_to_be_unclean(settings: Settings) -> None:
    with holder(settings) as process:
        process.kill()
    lock = home.HomeLock(settings)
    assert lock.take() is None
    assert lock.unclean
    assert home.is_up(settings) is not None
    lock.release()
    assert home.is_up(settings) is None


def test_a_lock_that_was_given_back_is_clean(settings: Settings) -> None:
    first = home.HomeLock(settings)
    assert first.take() is None
    first.describe(addresses={})
    first.release()
    second = home.HomeLock(settings)
    assert second.take() is None
    assert not second.unclean
    second.release()


def test_reaching_serving_keeps_the_moment_of_the_start(settings: Settings) -> None:
    lock = home.HomeLock(settings)
    assert lock.take() is None
    lock.describe(addresses={"a": "b"})
    began = lock.running()
    lock.describe(addresses={"a": "b"}, ready=True)
    now = lock.running()
    assert began is not None
    assert now == home.Instance(pid=os.getpid(), started_at=began.started_at, addresses={"a": "b"}, ready=True)
    lock.release()


def test_looking_whether_it_runs_makes_nothing(tmp_path: Path) -> None:
    assert home.is_up(Settings(home=tmp_path / "none")) is None
    assert list(tmp_path.iterdir()) == []


def test_dagster_yaml_is_written_once_and_then_the_operators(settings: Settings) -> None:
    written = settings.dagster_home / "dagster.yaml"
    config = yaml.safe_load(written.read_text())
    assert config["telemetry"] == {"enabled": False}
    assert config["run_monitoring"]["enabled"] is True
    limits = {each["key"]: each["limit"] for each in config["concurrency"]["runs"]["tag_concurrency_limits"]}
    assert limits == {"retrain": 1, CAUSE: 2}
    written.write_text("telemetry: {enabled: false}\n")
    home.prepare(settings)
    assert written.read_text() == "telemetry: {enabled: false}\n"


def test_dagster_accepts_the_configuration(settings: Settings) -> None:
    code = (
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.get() as i: print(i.telemetry_enabled, i.run_retries_enabled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DAGSTER_HOME": str(settings.dagster_home)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["False", "True"]


def test_a_home_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be set up") as caught:
        home.prepare(Settings(home=tmp_path / "file" / "home"))
    assert "PILOTAGE_HOME" in caught.value.fix


def test_programs_get_the_home_absolute_and_nothing_reports_anywhere(settings: Settings) -> None:
    told = home.variables(settings)
    assert told["PILOTAGE_HOME"] == str(settings.home)
    assert told["DAGSTER_HOME"] == str(settings.home / "dagster")
    assert {name: told[name] for name in ("MLFLOW_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK", "DO_NOT_TRACK")} == {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
    }
    assert told["GX_ANALYTICS_ENABLED"] == "false"
    assert told["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_a_home_is_made_for_its_user_alone_whichever_command_makes_it(tmp_path: Path, mask: int) -> None:
    def make_key(settings: Settings) -> None:
        create_key(settings.api_keys, "booking", roles=["predict"], limit=None)

    def land_a_day(settings: Settings) -> None:
        land(settings, "flights", date(2013, 1, 1), date(2013, 1, 1))

    def make_pseudonyms(settings: Settings) -> None:
        Pseudonyms.of(settings)

    before = os.umask(mask)
    try:
        for command in (home.prepare, make_key, land_a_day, make_pseudonyms):
            settings = Settings(home=tmp_path / command.__name__)
            command(settings)
            assert settings.home.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_home_that_somebody_made_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    home.prepare(Settings(home=tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o750
