"""``pilotage keys``: what it makes, shows and refuses."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path

import click
import pytest

from pilotage.cli import main as commands
from pilotage.cli.keys import duration, limit_of
from pilotage.cli.main import cli, run
from pilotage.errors import ConfigError, Unauthenticated
from pilotage.runtime.access.caller import ROLES, Limit
from pilotage.runtime.access.keyfile import read_keys
from pilotage.runtime.access.keys import KeyRing
from pilotage.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    return Settings.load()


def keys(*options: str) -> int:
    return run(lambda: cli.main(["keys", *options], standalone_mode=False))


def test_a_new_key_goes_to_standard_output_alone_and_works(settings: Settings, capsys: pytest.CaptureFixture[str]):
    assert keys("create", "booking", "--role", "predict", "--role", "outcomes", "--rate", "50") == 0
    said = capsys.readouterr()
    [text] = said.out.splitlines()
    caller = KeyRing(settings.api_keys).authenticate(f"Bearer {text}")
    assert (caller.name, caller.roles, caller.limit) == (
        "booking",
        {"predict", "outcomes"},
        Limit(per_second=50, burst=100),
    )
    assert caller.id in said.err
    assert "predict, outcomes" in said.err
    assert text.split("_", 2)[2] not in said.err


def test_a_key_is_shown_once_and_never_again(
    settings: Settings, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG):
        keys("create", "booking", "--role", "predict")
        secret = capsys.readouterr().out.strip().split("_", 2)[2]
        keys("list")
        keys("list", "--json")
        keys("revoke", read_keys(settings.api_keys)[0].id, "--why", "test")
        keys("create", "other", "--role", "predict", "--json")
    said = capsys.readouterr()
    assert secret not in said.out + said.err + caplog.text
    assert not [file for file in settings.home.rglob("*") if file.is_file() and secret in file.read_text()]


def test_a_program_gets_the_key_with_what_is_known_of_it(settings: Settings, capsys: pytest.CaptureFixture[str]):
    assert keys("create", "nightly", "--role", "read", "--unlimited", "--expires", "90d", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert KeyRing(settings.api_keys).authenticate(f"Bearer {made['key']}").id == made["id"]
    assert (made["roles"], made["limit"], made["state"]) == (["read"], None, "valid")
    assert keys("list", "--json") == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert "sha256" not in listed


def test_the_list_shows_what_became_of_each_key(settings: Settings, capsys: pytest.CaptureFixture[str]):
    keys("create", "one [bold]x", "--role", "predict")
    keys("create", "two", "--role", "operate", "--expires", "13d")
    first, second = read_keys(settings.api_keys)
    keys("revoke", first.id, "--why", "left on a laptop")
    capsys.readouterr()
    assert keys("list") == 0
    table = capsys.readouterr().out
    assert first.id in table
    assert second.id in table
    assert "[bold]x" in table
    assert "laptop" in table
    assert "soon" in table


def test_without_keys_the_list_says_what_that_means(settings: Settings, capsys: pytest.CaptureFixture[str]):
    assert keys("list") == 0
    assert "answers this machine without one" in capsys.readouterr().out
    assert not settings.home.exists(), "looking makes nothing"


def test_a_revoked_key_gets_nobody_in(settings: Settings, capsys: pytest.CaptureFixture[str]):
    keys("create", "booking", "--role", "predict")
    text = capsys.readouterr().out.strip()
    [key] = read_keys(settings.api_keys)
    assert keys("revoke", key.id, "--why", "left on a laptop") == 0
    assert "left on a laptop" in capsys.readouterr().out
    with pytest.raises(Unauthenticated, match="revoked"):
        KeyRing(settings.api_keys).authenticate(f"Bearer {text}")


def test_who_has_a_leaked_key_need_not_take_it_apart_to_revoke_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    keys("create", "booking", "--role", "predict")
    text = capsys.readouterr().out.strip()
    assert keys("revoke", text, "--why", "in a public repository") == 0
    assert [key.why for key in read_keys(settings.api_keys)] == ["in a public repository"]
    secret = text.split("_", 2)[2]
    assert keys("revoke", f"plt_unknown_{secret}", "--why", "in a public repository") == 2
    said = capsys.readouterr()
    assert "no key with the id 'unknown'" in said.err
    assert secret[:10] not in said.out + said.err


def test_keys_made_elsewhere_are_taken_over(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PILOTAGE_API_KEYS_FILE", str(tmp_path / "elsewhere.json"))
    keys("create", "booking", "--role", "predict")
    text = capsys.readouterr().out.strip()
    monkeypatch.delenv("PILOTAGE_API_KEYS_FILE")
    assert keys("import", str(tmp_path / "elsewhere.json")) == 0
    assert "booking" in capsys.readouterr().out
    assert KeyRing(settings.api_keys).authenticate(f"Bearer {text}").name == "booking"
    assert keys("import", str(tmp_path / "elsewhere.json")) == 0
    assert "nothing new" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["create", "x"],
        ["create", "x", "--role", "root"],
        ["create", " ", "--role", "read"],
        ["create", "x", "--role", "read", "--rate", "0"],
        ["create", "x", "--role", "read", "--rate", "nan"],
        ["create", "x", "--role", "read", "--rate", "inf"],
        ["create", "x", "--role", "read", "--burst", "0"],
        ["create", "x", "--role", "read", "--rate", "5", "--unlimited"],
        ["create", "x", "--role", "read", "--burst", "5", "--unlimited"],
        ["create", "x", "--role", "read", "--expires", "soon"],
        ["create", "x", "--role", "read", "--expires", "-1d"],
        ["revoke", "x", "--why", "y"],
        ["revoke", "x"],
        ["import", "nothing.json"],
    ],
)
def test_what_makes_no_sense_is_refused_with_exit_code_2_and_leaves_nothing(settings: Settings, options: list[str]):
    assert keys(*options) == 2
    assert not settings.api_keys.exists()


@pytest.mark.parametrize(
    ("text", "span"), [("12h", timedelta(hours=12)), ("90d", timedelta(days=90)), ("4w", timedelta(weeks=4))]
)
def test_a_time_span_is_hours_days_or_weeks(text: str, span: timedelta):
    assert duration(text) == span


@pytest.mark.parametrize("text", ["", "d", "0d", "90", "90 d", "1.5d", "90D", "3651d", "999999w", "٣d"])
def test_anything_else_is_no_time_span(text: str):
    with pytest.raises(ConfigError, match="no time span"):
        duration(text)


def test_a_burst_is_twice_the_rate_and_at_least_one():
    assert limit_of(100, None).burst == 200
    assert limit_of(0.01, None).burst == 1
    assert limit_of(100, 7).burst == 7


@pytest.mark.parametrize("rate", ["1e-310", "inf", "-inf", "nan", "1e308"])
def test_a_rate_that_no_clock_can_keep_is_refused(settings: Settings, rate: str):
    assert keys("create", "x", "--role", "predict", "--rate", rate) == 2
    assert not settings.api_keys.exists()
    with pytest.raises(ConfigError, match="--rate and --burst don't fit"):
        limit_of(float(rate), None)


def test_the_command_offers_the_roles_that_there_are():
    [choices] = [option.type for option in commands.keys_create.params if option.name == "roles"]
    assert isinstance(choices, click.Choice)
    assert tuple(choices.choices) == ROLES
