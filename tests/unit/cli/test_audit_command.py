"""``pilotage audit verify``: what it says, and how it ends."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from assets.ledger import ledger_asset
from pilotage.cli import home
from pilotage.cli.main import cli, run
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from resources.platform_home import PlatformHome
from tests.unit.cli import ledgers


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    return Settings.load()


def verify(*options: str) -> int:
    try:
        return run(lambda: cli.main(["audit", "verify", *options], standalone_mode=False))
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def fill(settings: Settings) -> None:
    ledgers.registered(settings, "m")
    ledgers.promoted(settings, "m")
    ledgers.refused(settings, "m", "worse")


def edit(settings: Settings, statement: str) -> None:
    connection = sqlite3.connect(settings.home / "ledger.db")
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_ledger_that_verifies_shows_its_count_and_its_head(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(settings)
    ledger = SqlLedger(settings.ledger)
    last = ledger.events()[-1]
    ledger.close()
    assert verify() == 0
    assert capsys.readouterr().out.splitlines() == [
        "✓ The ledger verifies: 3 events.",
        f"Head: 3:{last.hash}, appended {last.at.isoformat()}",
        f"Event 3 is noted in {settings.ledger_head}",
    ]
    assert verify("--json", "--head", f"3:{last.hash}") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "ok": True,
        "events": 3,
        "keyed": 0,
        "keyed_since": None,
        "head": 3,
        "head_hash": last.hash,
        "head_at": last.at.isoformat(),
        "noted": 3,
        "faults": [],
        "notes": [],
        "noted_by_dagster": 0,
    }


def test_one_that_does_not_says_which_event_and_what(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    fill(settings)
    edit(settings, "UPDATE pilotage_ledger SET actor = 'eve' WHERE sequence = 2")
    edit(settings, "DELETE FROM pilotage_ledger WHERE sequence = 3")
    assert verify() == 1
    told = capsys.readouterr().out
    assert "✗ event 2, edited: Its hash is not that of what it says." in told
    assert "✗ event 3, truncated: Event 3 is cut off" in told
    assert "docs/runbooks/ledger-does-not-verify.md" in told
    assert verify("--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [(fault["sequence"], fault["kind"]) for fault in found["faults"]] == [(2, "edited"), (3, "truncated")]


def test_an_older_ledger_with_its_older_head_file_is_found_by_what_dagster_noted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(settings.dagster_home))
    home.prepare(settings)
    fill(settings)
    older = settings.ledger_head.read_text()
    ledgers.promoted(settings, "m")
    platform = PlatformHome(home=str(settings.home))
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        assert dg.materialize([ledger_asset()], instance=instance, resources={"platform": platform}).success
    assert verify() == 0
    assert "Dagster noted it the same in 1 run" in capsys.readouterr().out
    edit(settings, "DELETE FROM pilotage_ledger WHERE sequence = 4")
    settings.ledger_head.write_text(older)
    assert verify("--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [(fault["sequence"], fault["kind"]) for fault in told["faults"]] == [(4, "truncated")]
    (settings.dagster_home / "dagster.yaml").write_text("event_log_storage: 3")
    assert verify() == 0
    assert "! The heads that Dagster's runs noted can't be read" in capsys.readouterr().out


def test_an_empty_home_verifies_and_is_not_made(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify() == 0
    assert capsys.readouterr().out == "✓ The ledger verifies: 0 events.\n"
    assert not settings.home.exists()


def test_a_key_file_that_is_not_there_is_a_wrong_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTAGE_LEDGER_KEY_FILE", str(settings.home / "key"))
    assert verify() == 2
    assert "PILOTAGE_LEDGER_KEY_FILE" in capsys.readouterr().err


def test_a_noted_event_that_is_none_is_asked_wrongly(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("--head", "latest") == 2
    assert "NUMBER:HASH" in capsys.readouterr().err
