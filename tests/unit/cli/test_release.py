"""First releases are the platform's, recorded as such; MLflow's store is there whole or not at all."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from pilotage.cli import declared
from pilotage.cli.release import PLATFORM, create_store, release_first
from pilotage.cli.runs import RESULT
from pilotage.cli.servers import has_store
from pilotage.errors import NotApproved, NotReleasable, RegistryUnavailable
from pilotage.policy import Rollout
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import ApprovalRule
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle, tiny_spec
from tests.unit.cli.ledgers import append, promoted, refused, registered
from tests.unit.release.lives import registered as draft_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_a_model_whose_candidates_were_refused_is_not_released_and_says_why(settings: Settings) -> None:
    refused(settings, "loan_approval", "AUC 0.6 is below the floor of 0.7.")
    with pytest.raises(NotReleasable, match=r"no version that may be promoted: AUC 0\.6 is below the floor of 0\.7\."):
        release_first(settings, "loan_approval")


def test_a_champion_that_is_there_is_left_alone_and_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "loan_approval", 1)
    promoted(settings, "loan_approval", 1)
    registered(settings, "loan_approval", 2)
    release_first(settings, "loan_approval")
    told = json.loads(capsys.readouterr().out.removeprefix(RESULT))
    assert (told["model"], told["version"], told["by"]) == ("loan_approval", 1, "ada")


def test_a_first_release_of_high_risk_is_approved_by_the_platform_and_says_that_no_person_looked(
    settings: Settings, tmp_path: Path
) -> None:
    sha256 = make_bundle(tmp_path / "bundle")
    rule = ApprovalRule(needed=1)
    append(
        settings,
        draft_of("loan_approval", 1, by=PLATFORM, rule=rule, bundle=str(tmp_path / "bundle"), sha256=sha256),
    )
    release_first(settings, "loan_approval")
    release_first(settings, "loan_approval")
    _, approved, promoted = SqlLedger(settings.ledger).events()
    assert (approved.kind, approved.actor) == ("approved", "pilotage up")
    assert approved.cause.startswith("No person looked at it")
    assert (promoted.kind, promoted.actor, promoted.payload["how"]) == ("promoted", "pilotage up", "first version")
    assert promoted.payload["approval"] == {"needed": 1, "approvers": ["pilotage up"]}


def test_nobody_takes_the_place_of_approvers_that_a_file_names(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tiny_spec("tiny", rollout=Rollout(approvals=1, approvers=("ana",)))
    monkeypatch.setattr(declared, "model", {"tiny": named}.__getitem__)
    sha256 = make_bundle(tmp_path / "bundle")
    append(settings, draft_of("tiny", 1, bundle=str(tmp_path / "bundle"), sha256=sha256))
    with pytest.raises(NotApproved, match="May approve: ana"):
        release_first(settings, "tiny")


# MLflow's own models use what SQLAlchemy 2.1 deprecates, and its client warns of it when it is first imported.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.slow
def test_a_store_whose_making_was_interrupted_is_made_again(settings: Settings) -> None:
    settings.home.mkdir()
    store = settings.home / "mlflow.db"
    connection = sqlite3.connect(store)
    # What a kill in the middle of a migration leaves: MLflow can't go on from it.
    connection.executescript(
        "create table alembic_version (version_num text); insert into alembic_version values ('no such revision');"
        "create table runs (run_uuid text);"
    )
    connection.close()
    (settings.home / "mlflow.db.new").write_bytes(b"half of one")
    assert not has_store(settings)
    create_store(settings)
    assert has_store(settings)
    connection = sqlite3.connect(store)
    assert connection.execute("select name from experiments").fetchall() == [("Default",)]
    connection.close()
    assert (settings.home / "mlflow.db.broken").exists()
    assert list(settings.home.glob("mlflow.db.new*")) == []


# MLflow's own models use what SQLAlchemy 2.1 deprecates, and its client warns of it when it is first imported.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.slow
def test_a_broken_store_that_holds_runs_is_never_thrown_away(settings: Settings) -> None:
    settings.home.mkdir()
    store = settings.home / "mlflow.db"
    connection = sqlite3.connect(store)
    connection.executescript(
        "create table alembic_version (version_num text); insert into alembic_version values ('no such revision');"
        "create table runs (run_uuid text); insert into runs values ('precious');"
    )
    connection.close()
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db can't be opened"):
        create_store(settings)
    connection = sqlite3.connect(store)
    assert connection.execute("select * from runs").fetchall() == [("precious",)]
    connection.close()
