"""MLflow's aliases and tags follow the ledger; what somebody changes by hand is recorded, and adopted or reverted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from mlflow.exceptions import MlflowException

from jobs.rollout import RECONCILE, release_jobs
from pilotage.policy import Rollout
from pilotage.release import aliases, commands, mlflow_store
from pilotage.release.champions import champion, states
from pilotage.release.ledger import SqlLedger
from pilotage.release.reconcile import reconcile
from pilotage.run_tags import DECISION
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle, tiny_spec
from resources.platform_home import PlatformHome
from sensors.aliases import alias_sensor
from tests.unit.release.lives import registered

pytestmark = [
    pytest.mark.slow,
    # MLflow's own models use what SQLAlchemy 2.1 deprecates, and its client warns of it when it is first imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning"),
]

REVERTS = tiny_spec("tiny")
ADOPTS = tiny_spec("tiny", rollout=Rollout(alias_edits="adopt"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Any, Path, str]]:
    """One MLflow with three registered versions, whose registration is not the business here."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings.load().model_copy(update={"home": home})
    sha256 = make_bundle(home / "bundle")
    with mlflow_store.session(settings) as client:
        client.create_registered_model("tiny")
        for _ in range(3):
            client.create_model_version("tiny", source=f"file://{home / 'bundle'}")
        yield settings, client, home / "bundle", sha256


class Desk:
    """A fresh ledger beside the MLflow of all."""

    def __init__(self, store: tuple[Settings, Any, Path, str], folder: Path, patch: pytest.MonkeyPatch) -> None:
        shared, self.client, bundle, sha256 = store
        self._patch = patch
        self.settings = shared.model_copy(update={"home": folder, "mlflow_uri": shared.mlflow})
        for alias in aliases.ALIASES:
            self.client.delete_registered_model_alias("tiny", alias)
        for tag in (aliases.PROJECTED, aliases.SEQUENCE, aliases.KILLED):
            if tag in self.client.get_registered_model("tiny").tags:
                self.client.delete_registered_model_tag("tiny", tag)
        ledger = SqlLedger.of(self.settings)
        for number in (1, 2, 3):
            ledger.append(registered("tiny", number, bundle=str(bundle), sha256=sha256))
        ledger.close()

    def do(self, command: Any, *arguments: Any, **more: Any) -> Any:
        return command("tiny", *arguments, **{"settings": self.settings, "actor": "ada", "why": "because", **more})

    @property
    def aliases(self) -> dict[str, int]:
        return {name: int(number) for name, number in self.client.get_registered_model("tiny").aliases.items()}

    def edits(self) -> list[Any]:
        events = SqlLedger(self.settings.ledger).events()
        return [event for event in events if event.kind == "alias_edited"]

    @property
    def platform(self) -> PlatformHome:
        self._patch.setenv("PILOTAGE_MLFLOW_URI", self.settings.mlflow)
        return PlatformHome(home=str(self.settings.home))

    def sensed(self, cursor: str | None = None) -> dg.SensorResult:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, resources={"platform": self.platform}, cursor=cursor)
            return alias_sensor({"tiny": REVERTS})(context)  # type: ignore[return-value]


@pytest.fixture
def desk(store: tuple[Settings, Any, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(store, tmp_path, monkeypatch)


def stage_tags(desk: Desk) -> dict[int, str]:
    found = desk.client.search_model_versions("name = 'tiny'")
    return {int(version.version): version.tags.get("stage", "") for version in found}


def test_the_sensor_asks_mlflow_only_after_somebody_wrote_to_it_or_to_the_ledger(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.do(commands.promote, 1)
    agreed = desk.sensed().cursor
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "look", lambda *_, **__: pytest.fail("MLflow's client takes seconds to import"))
        assert "neither has changed since: tiny {'champion': 1}" in str(desk.sensed(agreed).skip_reason)
    desk.do(commands.shadow, 2)
    decided = desk.sensed(agreed)
    assert "tiny {'champion': 1, 'challenger': 2}" in str(decided.skip_reason)
    assert decided.cursor != agreed
    desk.client.set_registered_model_alias("tiny", "champion", "3")
    [request] = desk.sensed(decided.cursor).run_requests or []
    assert request.tags["pilotage/looks_because"] == "tiny@champion was set to 3 by hand"


def test_aliases_and_tags_follow_every_decision(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    assert desk.aliases == {"champion": 1}
    desk.do(commands.shadow, 3)
    desk.do(commands.canary, 2, 0.1)
    assert desk.aliases == {"champion": 1, "challenger": 2}
    assert stage_tags(desk) == {1: "champion", 2: "canary", 3: "shadow"}
    desk.do(commands.kill, why="It is wrong.")
    assert desk.client.get_registered_model("tiny").tags[aliases.KILLED] == "It is wrong."
    desk.do(commands.resume)
    assert aliases.KILLED not in desk.client.get_registered_model("tiny").tags
    desk.do(commands.promote, 2)
    assert desk.aliases == {"champion": 2, "challenger": 3}
    desk.do(commands.reject, 3)
    assert desk.aliases == {"champion": 2}
    assert stage_tags(desk) == {1: "retired", 2: "champion", 3: "rejected"}


def test_an_alias_changed_by_hand_is_noticed_recorded_and_reverted(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    assert "MLflow shows what the ledger says: tiny {'champion': 1}" in str(desk.sensed().skip_reason)
    desk.client.set_registered_model_alias("tiny", "champion", "2")
    [request] = desk.sensed().run_requests or []
    assert request.tags[DECISION] == RECONCILE
    assert request.tags["pilotage/looks_because"] == "tiny@champion was set to 2 by hand"
    assert desk.edits() == []
    [done] = reconcile(REVERTS, settings=desk.settings)
    assert (done.action, desk.aliases) == ("reverted", {"champion": 1})
    [event] = desk.edits()
    assert (event.version, event.payload) == (
        2,
        {"alias": "champion", "expected": 1, "found": 2, "action": "reverted"},
    )
    assert champion("tiny", settings=desk.settings).version == 1  # type: ignore[union-attr]
    assert reconcile(REVERTS, settings=desk.settings) == []


def test_where_the_file_says_so_an_edit_is_adopted_as_a_promotion(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.client.set_registered_model_alias("tiny", "champion", "2")
    desk.client.set_registered_model_alias("tiny", "challenger", "3")
    done = reconcile(ADOPTS, settings=desk.settings)
    assert [(each.edit.alias, each.action) for each in done] == [("champion", "adopted"), ("challenger", "reverted")]
    release = champion("tiny", settings=desk.settings)
    assert release is not None
    assert (release.version, release.actor) == (2, "somebody in MLflow")
    assert desk.aliases == {"champion": 2}


@pytest.mark.parametrize("edit", ["9", "2", None], ids=["no such version", "not approved", "removed"])
def test_an_edit_that_may_not_be_adopted_is_reverted_and_says_why(desk: Desk, edit: str | None) -> None:
    strict = tiny_spec("tiny", rollout=Rollout(alias_edits="adopt", approvals=1))
    desk.do(commands.promote, 1)
    if edit is None:
        desk.client.delete_registered_model_alias("tiny", "champion")
    else:
        if edit == "9":
            while max(stage_tags(desk)) < 9:
                desk.client.create_model_version("tiny", source="file:///nowhere")
        desk.client.set_registered_model_alias("tiny", "champion", edit)
    [done] = reconcile(strict, settings=desk.settings)
    said = {"9": "has no version 9", "2": "needs 1 more approval", None: "not taken out by an alias"}[edit]
    assert done.action == "reverted"
    assert said in done.why
    assert desk.aliases == {"champion": 1}


def test_an_alias_that_lags_because_mlflow_was_down_is_nobodys_edit(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    down = desk.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    desk.do(commands.promote, 2, settings=down)
    assert desk.aliases == {"champion": 1}
    [request] = desk.sensed(desk.sensed().cursor).run_requests or []
    assert request.tags["pilotage/looks_because"] == "MLflow lags behind the ledger: tiny"
    assert reconcile(REVERTS, settings=desk.settings) == []
    assert (desk.aliases, desk.edits()) == ({"champion": 2}, [])


def over_http(desk: Desk) -> Settings:
    """As the service decides: without MLflow."""
    return desk.settings.model_copy(update={"mlflow_uri": "sqlite:////nonexistent/mlflow.db"})


def test_a_projection_that_was_broken_off_is_nobodys_edit_and_undoes_no_rollback(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.do(commands.promote, 1)

    def lost(*_: Any, **__: Any) -> None:
        raise MlflowException("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_model_version_tag", lost)
        desk.do(commands.promote, 2)
    assert desk.aliases == {"champion": 2}
    desk.do(commands.rollback, settings=over_http(desk))
    assert reconcile(ADOPTS, settings=desk.settings) == []
    assert (desk.aliases, desk.edits()) == ({"champion": 1}, [])
    assert champion("tiny", settings=desk.settings).version == 1  # type: ignore[union-attr]
    assert stage_tags(desk)[2] == "rolled_back"


def test_what_a_person_decided_since_the_look_is_not_overridden_by_an_adoption(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.do(commands.promote, 1)
    desk.client.set_registered_model_alias("tiny", "champion", "2")
    found = aliases.edits

    def meanwhile(state: Any, seen: Any) -> Any:
        monkeypatch.setattr(aliases, "edits", found)
        desk.do(commands.promote, 3, settings=over_http(desk))
        return found(state, seen)

    monkeypatch.setattr("pilotage.release.reconcile.aliases.lags", lambda *_: False)
    monkeypatch.setattr(aliases, "edits", meanwhile)
    assert reconcile(ADOPTS, settings=desk.settings) == []
    assert champion("tiny", settings=desk.settings).version == 3  # type: ignore[union-attr]
    assert desk.aliases == {"champion": 2}


def test_a_decision_does_not_hide_what_somebody_changed_before_it(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.do(commands.promote, 2)
    desk.client.set_registered_model_alias("tiny", "champion", "1")
    desk.do(commands.shadow, 3)
    assert desk.aliases == {"champion": 1, "challenger": 3}
    [done] = reconcile(REVERTS, settings=desk.settings)
    assert (done.edit.found, done.action) == (1, "reverted")
    assert desk.aliases == {"champion": 2, "challenger": 3}


def test_what_was_decided_without_mlflow_is_shown_by_the_next_look(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    assert "MLflow shows what the ledger says" in str(desk.sensed().skip_reason)
    desk.do(commands.kill, why="It is wrong.", settings=over_http(desk))
    desk.do(commands.reject, 3, settings=over_http(desk))
    [request] = desk.sensed(desk.sensed().cursor).run_requests or []
    assert request.tags["pilotage/looks_because"] == "MLflow lags behind the ledger: tiny"
    assert reconcile(REVERTS, settings=desk.settings) == []
    assert desk.client.get_registered_model("tiny").tags[aliases.KILLED] == "It is wrong."
    assert stage_tags(desk)[3] == "rejected"
    assert "MLflow shows what the ledger says" in str(desk.sensed().skip_reason)


def test_a_decision_that_is_just_being_shown_launches_nothing(desk: Desk) -> None:
    state = desk.do(commands.promote, 1, settings=over_http(desk))
    meanwhile = desk.sensed()
    assert meanwhile.run_requests == []
    assert "MLflow lags behind the ledger: tiny 4. If it still does at the next look" in str(meanwhile.skip_reason)
    aliases.show(state, settings=desk.settings)
    shown = desk.sensed(meanwhile.cursor)
    assert shown.run_requests == []
    another = desk.do(commands.promote, 2, settings=over_http(desk))
    assert desk.sensed(shown.cursor).run_requests == []
    assert desk.sensed(meanwhile.cursor).run_requests == [], "another decision than the one that was behind before"
    assert another.champion.version == 2


def test_an_older_state_is_never_shown_over_a_newer_one_unless_the_ledger_was_restored(desk: Desk) -> None:
    before = desk.do(commands.promote, 1)
    desk.do(commands.promote, 2)
    aliases.show(before, settings=desk.settings)
    assert desk.aliases == {"champion": 2}
    aliases.project(before, settings=desk.settings, over_newer=True)
    assert desk.aliases == {"champion": 1}


def test_a_note_of_before_there_was_a_list_is_understood(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.client.set_registered_model_tag("tiny", aliases.PROJECTED, '{"champion": 1}')
    desk.client.delete_registered_model_tag("tiny", aliases.SEQUENCE)
    desk.do(commands.promote, 2, settings=over_http(desk))
    assert reconcile(REVERTS, settings=desk.settings) == []
    assert (desk.aliases, desk.edits()) == ({"champion": 2}, [])


def test_the_sensor_says_that_mlflow_is_down(desk: Desk) -> None:
    desk.settings = desk.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    assert "MLflow at http://127.0.0.1:9 can't be used" in str(desk.sensed().skip_reason)


def test_the_job_reconciles_every_model(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.client.set_registered_model_alias("tiny", "champion", "3")
    job = next(job for job in release_jobs({"tiny": REVERTS}) if job.name == RECONCILE)
    assert job.execute_in_process(resources={"platform": desk.platform}).success
    assert desk.aliases == {"champion": 1}
    assert states(settings=desk.settings)["tiny"].champion is not None
