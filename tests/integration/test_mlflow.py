"""The registry on a real MLflow (SQLite): what is logged, what is registered, what a notebook loads, what fails how."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, LedgerConflict, NotReleasable, RegistryUnavailable
from pilotage.release import mlflow_store
from pilotage.release.champions import champion, states
from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.release.promote import promote
from pilotage.release.records import Refused, Registered
from pilotage.release.registry import record
from pilotage.release.state import fold
from pilotage.runtime.bundle import read_bundle
from pilotage.settings import Settings
from pilotage.testing.bundles import Run, make_run, tiny_rows, tiny_spec
from pilotage.testing.ledger import InMemoryLedger

SPEC = tiny_spec("tiny", with_state=True)
# MLflow warns about its own environment: no pip in ours, and pydantic, alembic, SQLAlchemy of other ages.
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow store, made once: it takes seconds."""
    settings = Settings(home=tmp_path_factory.mktemp("store"))
    with mlflow_store.session(settings):
        pass
    return settings.home / "mlflow.db"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "first": make_run(folder / "first", spec=SPEC, seed=1),
        "second": make_run(folder / "second", spec=SPEC, seed=2),
        "refused": make_run(folder / "refused", spec=SPEC, seed=3, passed=False),
    }


@pytest.fixture
def settings(store: Path, tmp_path: Path) -> Settings:
    shutil.copy(store, tmp_path / "mlflow.db")
    (tmp_path / "mlflow.db.ready").touch()
    return Settings(home=tmp_path)


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    with mlflow_store.session(settings) as opened:
        yield opened


def recorded(run: Run, settings: Settings) -> Registered | Refused:
    return record(run.spec, settings=settings, **run.arguments())


def registered(run: Run, settings: Settings) -> Registered:
    result = recorded(run, settings)
    assert isinstance(result, Registered)
    return result


def test_a_candidate_that_passed_is_a_version_with_everything_that_led_to_it(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    run = runs["first"]
    result = registered(run, settings)
    assert (result.version, result.bundle_sha256) == (1, run.candidate.bundle_sha256)
    assert result.url == f"{settings.mlflow_ui}/#/models/tiny/versions/1"
    logged = client.get_run(result.mlflow_run_id)
    tags = logged.data.tags
    assert tags["gate"] == "passed"
    assert tags["dagster_run_id"] == "run-1"
    assert tags["dagster_run_url"] == "http://127.0.0.1:3000/runs/run-1"
    assert json.loads(tags["lake_versions"]) == {"validated/orders": 3}
    assert (tags["first_day"], tags["last_day"]) == ("2024-01-01", "2024-01-06")
    assert (tags["git_commit"], tags["cause"], tags["actor"]) == ("abc1234", "manual", "ada@example.org")
    assert tags["feature_fingerprint"] == run.training_set.feature_fingerprint
    assert logged.data.params["num_leaves"] == "5"
    assert logged.data.params["rows_holdout"] == "40"
    metrics = logged.data.metrics
    assert (metrics["auc"], metrics["auc_low"], metrics["auc_high"]) == (0.8, 0.7, 0.9)
    assert metrics["baseline_constant_log_loss"] == 0.69
    assert [
        (each.step, each.value) for each in client.get_metric_history(result.mlflow_run_id, "holdout_month_auc")
    ] == [(202401, 0.8)]
    assert [each.value for each in client.get_metric_history(result.mlflow_run_id, "fold_auc")] == [0.7, 0.75]
    datasets = {each.dataset.name: each.dataset for each in logged.inputs.dataset_inputs}
    assert datasets["tiny_training_set"].digest == run.training_set.sha256[:32]
    assert "stock_level" in datasets["tiny_training_set"].schema
    assert datasets["validated/orders"].digest == "version-3"
    artifacts = {item.path for item in client.list_artifacts(result.mlflow_run_id)}
    assert {"evaluation.json", "verdict.json", "config.json", "plots"} <= artifacts
    [trial] = client.search_runs([logged.info.experiment_id], "tags.kind = 'trial'")
    assert trial.data.tags["mlflow.parentRunId"] == result.mlflow_run_id
    assert trial.data.metrics["log_loss"] == 0.5
    version = client.get_model_version("tiny", "1")
    assert version.tags["bundle_sha256"] == run.candidate.bundle_sha256
    assert version.run_id == result.mlflow_run_id
    assert "http://127.0.0.1:3000/runs/run-1" in version.description
    assert "auc 0.80 is at least 0.50" in tags["mlflow.note.content"]
    assert logged.info.status == "FINISHED"


def test_the_registered_model_holds_the_bundle_and_no_pickle(runs: dict[str, Run], settings: Settings) -> None:
    result = registered(runs["first"], settings)
    bundle = read_bundle(Path(result.bundle), sha256=result.bundle_sha256)
    assert bundle.model == "tiny"
    stored = [path for path in settings.mlflow_artifacts.rglob("*") if path.is_file()]
    assert not [path.name for path in stored if path.suffix in (".pkl", ".pickle", ".cloudpickle", ".joblib")]
    assert not [path.name for path in stored if path.read_bytes().startswith(b"\x80\x04")]


def test_a_refused_candidate_leaves_its_run_and_its_reasons_and_no_version(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    result = recorded(runs["refused"], settings)
    assert isinstance(result, Refused)
    assert result.reasons == ["auc 0.80 is under 0.95"]
    tags = client.get_run(result.mlflow_run_id).data.tags
    assert (tags["gate"], tags["gate_reasons"]) == ("refused", "auc 0.80 is under 0.95")
    assert client.search_registered_models() == []
    state = states(settings=settings)["tiny"]
    [refusal] = state.refused
    assert (list(refusal.reasons), dict(state.versions)) == (["auc 0.80 is under 0.95"], {})
    with pytest.raises(NotReleasable, match="no version 1 that passed its gate"):
        promote("tiny", 1, settings=settings, actor="ada", why="hope")


def test_recording_again_gives_the_same_version_and_writes_nothing(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    first = registered(runs["first"], settings)
    assert registered(runs["first"], settings) == first
    assert recorded(runs["refused"], settings) == recorded(runs["refused"], settings)
    assert len(SqlLedger(settings.ledger).events()) == 2
    experiment = client.get_experiment_by_name("tiny").experiment_id
    assert len(client.search_runs([experiment], "tags.kind = 'candidate'")) == 2
    assert registered(runs["second"], settings).version == 2


@pytest.mark.parametrize("broken", ["_log_model", "_register", "append"])
def test_wherever_a_recording_fails_the_next_attempt_completes_it_once(
    runs: dict[str, Run], settings: Settings, client: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        if broken == "append":
            patch.setattr(SqlLedger, "append", fail)
        else:
            patch.setattr(f"pilotage.release.registry.{broken}", fail)
        with pytest.raises(RegistryUnavailable, match="the network is gone"):
            recorded(runs["first"], settings)
    assert SqlLedger(settings.ledger).events() == []
    with pytest.raises(NotReleasable):
        promote("tiny", 1, settings=settings, actor="ada", why="too early")
    assert registered(runs["first"], settings).version == 1
    assert [version.version for version in client.search_model_versions("name = 'tiny'")] == [1]
    assert [event.kind for event in SqlLedger(settings.ledger).events()] == ["registered"]


def test_a_bundle_that_is_not_what_training_wrote_is_not_recorded(
    runs: dict[str, Run], settings: Settings, tmp_path: Path
) -> None:
    run = runs["first"]
    folder = Path(shutil.copytree(run.candidate.bundle, tmp_path / "bundle"))
    (folder / "model.txt").write_text("tree")
    damaged = replace(run, candidate=replace(run.candidate, bundle=str(folder)))
    with pytest.raises(BundleCorrupt, match=r"model\.txt"):
        recorded(damaged, settings)
    assert SqlLedger(settings.ledger).events() == []


def test_promotion_is_decided_in_the_ledger_and_shown_as_an_alias(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    assert champion("tiny", settings=settings) is None
    for name in ("first", "second"):
        registered(runs[name], settings)
    release = promote("tiny", 2, settings=settings, actor="ada", why="better brier")
    assert (release.version, release.actor, release.why) == (2, "ada", "better brier")
    assert release.facts["rows"] == 200
    assert release.bundle_sha256 == runs["second"].candidate.bundle_sha256
    assert client.get_model_version_by_alias("tiny", "champion").version == 2
    assert champion("tiny", settings=settings) == release
    assert promote("tiny", 2, settings=settings, actor="bob", why="again") == release
    promote("tiny", 1, settings=settings, actor="bob", why="take it back")
    assert client.get_model_version_by_alias("tiny", "champion").version == 1
    assert [past.version for past in states(settings=settings)["tiny"].history] == [2, 1]


def test_a_damaged_bundle_may_not_become_champion(runs: dict[str, Run], settings: Settings) -> None:
    result = registered(runs["first"], settings)
    path = Path(result.bundle) / "model.txt"
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    with pytest.raises(NotReleasable, match=r"model\.txt"):
        promote("tiny", 1, settings=settings, actor="ada", why="hurry")
    assert champion("tiny", settings=settings) is None


def test_a_decision_in_the_meantime_wins_over_ours_and_one_about_another_model_does_not(
    runs: dict[str, Run], settings: Settings
) -> None:
    registered(runs["first"], settings)
    registered(runs["second"], settings)
    events = SqlLedger(settings.ledger).events()

    class Interrupted(InMemoryLedger):
        """Somebody is faster, the first time."""

        def __init__(self, other: Draft) -> None:
            super().__init__()
            for event in events:
                super().append(Draft(**{name: getattr(event, name) for name in Draft.__slots__}))
            self.other: Draft | None = other

        def append(self, draft: Draft, *, expected: int | None = None) -> Any:
            if self.other is not None:
                other, self.other = self.other, None
                super().append(other)
            return super().append(draft, expected=expected)

    same = Draft(model="tiny", kind="promoted", version=2, actor="bob", cause="faster", payload={})
    ledger = Interrupted(same)
    with pytest.raises(LedgerConflict, match="Somebody else decided about tiny"):
        promote("tiny", 1, settings=settings, actor="ada", why="slow", ledger=ledger)
    assert champion("tiny", settings=settings, ledger=ledger).version == 2  # type: ignore[union-attr]
    refusal = {"mlflow_run_id": "r", "run_url": "", "bundle_sha256": "x", "reasons": ["no"]}
    another = Draft(model="another", kind="refused", actor="bob", cause="nightly", payload=refusal)
    ledger = Interrupted(another)
    assert promote("tiny", 1, settings=settings, actor="ada", why="unmoved", ledger=ledger).version == 1


def test_a_notebook_loads_the_champion_and_gets_the_bundles_answers(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    import mlflow

    result = registered(runs["first"], settings)
    promote("tiny", 1, settings=settings, actor="ada", why="first")
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    rows = tiny_rows(SPEC, 30, seed=8).with_columns(
        stock_level=pl.when(pl.row_index() % 3 == 0).then(None).otherwise(pl.col("stock_level"))
    )
    answers = model.predict(rows.select([*SPEC.request_types(), *SPEC.state_types()]).to_pandas())
    bundle = read_bundle(Path(result.bundle), sha256=result.bundle_sha256)
    assert answers["probability"].to_list() == bundle.score(rows).tolist()
    assert answers["decision"].to_list() == (bundle.score(rows) >= bundle.threshold).tolist()
    names = [column.name for column in model.metadata.signature.inputs]
    assert names == [*SPEC.request_types(), *SPEC.state_types()]
    read_bundle(Path(result.bundle), sha256=result.bundle_sha256)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://user:secret@127.0.0.1:9"])
def test_an_mlflow_that_is_down_is_named_with_a_fix_and_without_its_password(
    runs: dict[str, Run], settings: Settings, uri: str
) -> None:
    down = settings.model_copy(update={"mlflow_uri": uri})
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9") as caught:
        recorded(runs["first"], down)
    assert "secret" not in str(caught.value) + str(caught.value.details)
    assert "run the step again" in caught.value.fix
    assert SqlLedger(settings.ledger).events() == []
    assert registered(runs["first"], settings).version == 1


def test_a_store_that_is_no_database_is_named(runs: dict[str, Run], settings: Settings) -> None:
    (settings.home / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db"):
        recorded(runs["first"], settings)
    assert SqlLedger(settings.ledger).events() == []


def test_a_promotion_holds_though_mlflow_is_down_and_the_alias_follows(
    runs: dict[str, Run], settings: Settings, client: Any
) -> None:
    from pilotage.release.aliases import project

    registered(runs["first"], settings)
    down = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    release = promote("tiny", 1, settings=down, actor="ada", why="needed now")
    assert champion("tiny", settings=settings) == release
    project(fold(SqlLedger(settings.ledger).events())["tiny"], settings=settings)
    assert client.get_model_version_by_alias("tiny", "champion").version == 1


def open_store(home: str, start: Barrier, results: Queue[str]) -> None:
    """A process that touches the fresh store at the same moment as others."""
    settings = Settings(home=Path(home))
    start.wait(120)
    with mlflow_store.session(settings) as client:
        results.put(mlflow_store.experiment_id(client, "tiny", settings))


@pytest.mark.slow
def test_processes_that_meet_a_fresh_store_at_once_do_not_break_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=open_store, args=(str(tmp_path), start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=240) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(found) == 1


def test_a_number_that_mlflow_gives_again_is_passed_over(
    runs: dict[str, Run], settings: Settings, client: Any, tmp_path: Path
) -> None:
    assert registered(runs["first"], settings).version == 1
    assert registered(runs["second"], settings).version == 2
    client.delete_registered_model("tiny")
    third = make_run(tmp_path / "third", spec=SPEC, seed=5)
    assert registered(third, settings).version == 3
    assert [each.version for each in client.search_model_versions("name = 'tiny'")] == [3]
    assert sorted(states(settings=settings)["tiny"].versions) == [1, 2, 3]


def test_an_event_that_may_not_happen_is_never_appended(runs: dict[str, Run], settings: Settings, client: Any) -> None:
    """A run that was registered elsewhere meanwhile, under the number that MLflow gives."""

    class Overtaken(InMemoryLedger):
        def append(self, draft: Draft, *, expected: int | None = None) -> Any:
            if not self.events():
                super().append(replace(draft, payload={**draft.payload, "bundle_sha256": "0" * 64}))
            return super().append(draft, expected=expected)

    book = Overtaken()
    with pytest.raises(NotReleasable, match="a version with this number is registered"):
        record(SPEC, settings=settings, ledger=book, **runs["first"].arguments())
    assert [event.kind for event in book.events()] == ["registered"]
