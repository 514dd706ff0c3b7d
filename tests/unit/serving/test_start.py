"""How the service is started: where it may listen, and with how many workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pilotage.errors import ConfigError
from pilotage.runtime.access.keyfile import create_key, lock_of, read_keys, revoke_key
from pilotage.settings import Settings
from serving import __main__ as start


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that this process would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    for name in ("BENTOML_HOME", "BENTOML_CONFIG_OPTIONS", "BENTOML_DO_NOT_TRACK"):
        # Set first, so that what the start sets is undone at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return commands


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["serving", *options])
    return start.main()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.2"])
def test_on_loopback_no_key_is_needed_and_it_says_so(settings: Settings, host: str):
    assert "No API key is needed" in start.require_keys(settings, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "", "example.com"])
def test_where_others_reach_it_it_does_not_listen_without_a_key(settings: Settings, host: str):
    with pytest.raises(ConfigError, match="pilotage keys create"):
        start.require_keys(settings, host)
    key, _ = create_key(settings.api_keys, "booking", roles=["predict"], limit=None)
    assert "API keys are needed" in start.require_keys(settings, host)
    revoke_key(settings.api_keys, key.id, why="test")
    assert "API keys are needed" in start.require_keys(settings, host), "then nobody gets in, which is no open door"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_does_not_start_on_a_damaged_or_lost_file_of_keys(settings: Settings, host: str):
    create_key(settings.api_keys, "booking", roles=["predict"], limit=None)
    settings.api_keys.write_text("{")
    with pytest.raises(ConfigError, match="can't be used"):
        start.require_keys(settings, host)
    settings.api_keys.unlink()
    with pytest.raises(ConfigError, match="it is gone"):
        start.require_keys(settings, host)
    lock_of(settings.api_keys).unlink()
    assert read_keys(settings.api_keys) == ()


def test_the_refusal_is_one_sentence_with_a_fix_and_exit_code_2(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, "--host", "0.0.0.0", "--port", "1") == 2
    said = capsys.readouterr()
    assert "does not listen on 0.0.0.0" in said.err
    assert "Fix: pilotage keys create" in said.err
    assert "Traceback" not in said.err
    assert became == []


def test_it_becomes_bentomls_server_with_the_workers_that_are_set_and_a_bound_on_its_end(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(start, "_free", lambda *_: True)
    monkeypatch.setenv("PILOTAGE_SERVICE_WORKERS", "3")
    assert run(monkeypatch, "--port", "8123") == 0
    [command] = became
    assert command[:5] == [sys.executable, "-m", "bentoml", "serve", "serving.service:PredictionService"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--timeout-graceful-shutdown") + 1] == str(start.GRACE_S)
    assert os.environ["BENTOML_CONFIG_OPTIONS"] == "services.PredictionService.workers=3"
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "home" / "bentoml"), "nothing is written outside"
    assert capsys.readouterr().out.count("No API key is needed on 127.0.0.1") == 1


def test_the_number_of_workers_can_be_given_and_belongs_to_the_service_that_is_started(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(start, "_free", lambda *_: True)
    monkeypatch.setenv("BENTOML_HOME", "/elsewhere")
    assert run(monkeypatch, "--workers", "2", "--service", "some.module:Tiny") == 0
    assert os.environ["BENTOML_CONFIG_OPTIONS"] == "services.Tiny.workers=2"
    assert os.environ["BENTOML_HOME"] == "/elsewhere"


@pytest.mark.parametrize("number", ["0", "65", "-1", "many", "1.5"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch, number: str
):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--workers", number)
    assert ended.value.code == 2
    assert became == []
