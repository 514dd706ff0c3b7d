"""What an operator reads of a rollout and of an A/B test; looking decides nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from pilotage.cli.main import cli
from pilotage.features.state import microseconds
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings
from tests.unit.cli.ledgers import append, promoted, registered
from tests.unit.monitoring.logs import outcome, prediction, write_segment

MODEL = "loan_approval"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    found = Settings.load()
    registered(found, MODEL, 1)
    promoted(found, MODEL, 1)
    registered(found, MODEL, 2)
    return found


def began(settings: Settings, kind: str) -> int:
    """Gives version 2 half of the traffic; the sequence number of that."""
    payload = {"share": 0.5, "salt": "s", "segment": None, "step": 0}
    append(settings, Draft(model=MODEL, kind=kind, version=2, actor="ada", cause="try it", payload=payload))  # type: ignore[arg-type]
    return len(SqlLedger(settings.ledger).events())


def answered(settings: Settings, sequence: int, *, worse: bool) -> None:
    """Traffic with outcomes: version 2 fails if it is worse, and else decides better."""
    now = datetime.now(UTC)
    records = []
    for number in range(400):
        version = 1 + number % 2
        changes = {
            "model": MODEL,
            "at": microseconds(now + timedelta(milliseconds=number)),
            "version": 1 if worse else version,
            "routed_version": version,
            "drawn_by": sequence,
            "decision": version == 2,
        }
        records += [prediction(number, **changes), outcome(number, model=MODEL, label=True)]
    write_segment(settings.prediction_log, records)


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_evidence_shows_every_guardrail_and_what_would_be_decided_without_deciding_it(settings: Settings) -> None:
    answered(settings, began(settings, "canaried"), worse=True)
    before = len(SqlLedger(settings.ledger).events())
    told = run("evidence", MODEL)
    assert told.startswith(
        f"{MODEL} version 2 against 1, canary at 50%:\n  ! errors: 1.0000 against the champion's 0.0"
    )
    assert "\nRoll back: Errors: 1.0000" in told
    assert json.loads(run("evidence", MODEL, "--json"))["decision"] == "roll_back"
    assert len(SqlLedger(settings.ledger).events()) == before


def test_a_version_that_no_rollout_is_of_is_named(settings: Settings) -> None:
    began(settings, "canaried")
    refused = CliRunner().invoke(cli, ["evidence", MODEL, "--version", "9"])
    assert "No rollout of loan_approval version 9 is under way" in str(refused.exception)


def test_the_report_of_an_ab_test_says_its_effect_and_interval(settings: Settings) -> None:
    answered(settings, began(settings, "ab_started"), worse=False)
    assert run("ab", "report", MODEL).startswith("Version 2 is better than 1 in cost: -")
    told = json.loads(run("ab", "report", MODEL, "--metric", "brier", "--json"))
    assert (told["verdict"], told["metric"], told["until"]) == ("undecided so far", "brier", None)


def test_a_metric_that_is_none_is_refused_with_those_there_are(settings: Settings) -> None:
    began(settings, "ab_started")
    result = CliRunner().invoke(cli, ["ab", "report", MODEL, "--metric", "probability"])
    assert result.exit_code != 0
    assert "less is better" in str(result.exception or result.output)
