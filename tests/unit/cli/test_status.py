"""`pilotage status` tells what the ledger says: what is in production, since when, on what data, by whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli import declared
from pilotage.cli.status import report, show
from pilotage.errors import DeclarationError
from pilotage.policy import Retraining
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.release.retraining import attempts, requests
from pilotage.settings import Settings
from tests.unit.cli.ledgers import append, promoted, refused, registered


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, dagster_port=1, mlflow_port=1, service_port=1, reports_port=1)


def test_a_champion_is_told_with_data_metrics_and_who_promoted_it(settings: Settings) -> None:
    registered(settings, "loan_approval", 1, run="abc")
    promoted(settings, "loan_approval", 1)
    registered(settings, "loan_approval", 2)
    refused(settings, "loan_approval", "AUC is too low.")
    [model] = report(settings, ["loan_approval"])["models"]
    champion = model["champion"]
    assert (champion["version"], champion["promoted_by"], champion["why"]) == (1, "ada", "better")
    assert champion["trained_at"] == "2026-01-01T00:00:00+00:00"
    assert champion["trained_because"] == "bootstrap"
    assert champion["data"] == {"rows": 10, "first": "2013-01-01", "last": "2013-02-28"}
    assert champion["metrics"] == {"auc": 0.7}
    assert champion["dagster_run"].endswith("/runs/abc")
    assert model["waiting_versions"] == [2]
    assert model["last_refusal"]["reasons"] == ["AUC is too low."]
    assert [release["version"] for release in model["releases"]] == [1]


def test_a_model_that_is_no_longer_declared_is_still_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "old_model", 1)
    promoted(settings, "old_model", 1)
    status = report(settings, [])
    assert [(model["model"], model["declared"]) for model in status["models"]] == [
        ("flight_delay", True),
        ("loan_approval", True),
        ("old_model", False),
    ]
    show(status)
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "no longer declared: a service that starts without its file does not serve it" in told


def test_people_read_the_same_and_the_next_step(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    registered(settings, "loan_approval", 1)
    show(report(settings, []))
    printed = capsys.readouterr().out
    assert "pilotage train flight_delay" in printed
    assert "pilotage promote loan_approval 1 --why" in printed
    assert "Pilotage is not running on this home." in printed


def test_a_retraining_that_was_given_up_needs_a_person_and_says_why(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    by: dict[str, Any] = {"settings": settings, "actor": "ada", "why": "drift"}
    request = requests.request("loan_approval", "manual", {}, **by)
    assert request is not None
    book, policy = SqlLedger.of(settings), Retraining(attempts=1)
    _, attempt = attempts.begin("loan_approval", request.number, run="r1", policy=policy, book=book)
    attempts.fail("loan_approval", attempt.fence, why="Run r1 is failed. No row has a label.", book=book)
    attempts.give_up("loan_approval", policy=policy, book=book)
    book.close()
    show(report(settings, ["loan_approval"]))
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "needs a person 1 attempts came to nothing; the last one: Run r1 is failed. No row has a label." in told
    requests.request("loan_approval", "manual", {}, **by)
    show(report(settings, ["loan_approval"]))
    assert "needs a person" not in capsys.readouterr().out


def test_a_file_that_does_not_load_is_told_and_hides_no_other_model(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(settings, "flight_delay", 1)
    files = declared._model_files()
    (tmp_path / "broken.py").write_text("MODEL = (")
    monkeypatch.setattr(declared, "_model_files", lambda: {**files, "broken": tmp_path / "broken.py"})
    status = report(settings, [])
    wrong = {model["model"]: model["declaration_error"] for model in status["models"] if model["declaration_error"]}
    assert (list(wrong), "assets/models/broken.py" in wrong["broken"]) == (["broken"], True)
    assert {model["model"] for model in status["models"] if model["declared"]} == set(files)
    show(status)
    assert "its file assets/models/broken.py" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert declared.model("flight_delay").name == "flight_delay"
    with pytest.raises(DeclarationError, match=r"broken\.py"):
        declared.model("broken")


def test_servers_in_other_containers_are_told_by_what_they_leave_in_the_home_that_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        home=tmp_path, service_port=1, mlflow_uri="http://127.0.0.1:1", dagster_url="https://pilotage.example:3000"
    )
    registered(settings, "loan_approval", 1)
    promoted(settings, "loan_approval", 1)
    told = {server["name"]: server["detail"] for server in report(settings, [])["servers"]}
    assert told == {
        "Dagster daemon": "has not beaten yet",
        "Alerts watch": "has not looked yet",
        "MLflow": "no answer yet",
        "Prediction service": "loading",
    }

    now = datetime.now(UTC)
    for note in ("heartbeat.json", "watch.json"):
        (tmp_path / note).write_text(json.dumps({"at": now.isoformat()}))
    settings.heartbeats.mkdir(parents=True)
    models = [{"model": "loan_approval", "ready": True, "problem": None}]
    (settings.heartbeats / "w1.json").write_text(json.dumps({"at": now.timestamp(), "models": models}))
    show(status := report(settings, []))
    assert [server["name"] for server in status["servers"] if server["healthy"]] == [
        "Dagster daemon",
        "Alerts watch",
        "Prediction service",
    ]
    printed = capsys.readouterr().out
    assert "https://pilotage.example:3000" in printed
    assert "pilotage up" not in printed, "nobody is to start a second platform in a container"

    (tmp_path / "heartbeat.json").write_text(json.dumps({"at": (now - timedelta(minutes=7)).isoformat()}))
    assert report(settings, [])["servers"][0]["detail"] == "beat last 7 minutes ago"


def test_what_people_wrote_is_shown_as_they_wrote_it(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    registered(settings, "loan_approval", 1)
    why = "see [ticket 12] and [/x]"
    append(settings, Draft(model="loan_approval", kind="promoted", version=1, actor="[ada]", cause=why, payload={}))
    refused(settings, "loan_approval", "AUC [red] is too low.")
    show(report(settings, ["loan_approval"]))
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"by [ada]: {why}" in printed
    assert "AUC [red] is too low." in printed


def test_without_the_database_of_the_alarms_it_still_tells_what_is_in_production(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "loan_approval", 1)
    promoted(settings, "loan_approval", 1)
    (settings.home / "alerts.db").write_bytes(b"no database, but of some length" * 100)
    status = report(settings, ["loan_approval"])
    assert status["models"][0]["champion"]["version"] == 1
    assert status["alarms"] is None
    assert "file is not a database" in status["alarms_unknown"]
    show(status)
    assert "not known: The alerts at" in " ".join(capsys.readouterr().out.split())
