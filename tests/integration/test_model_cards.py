"""A version's model card in a real MLflow: kept with the version, and shown only as the ledger knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import cli, run
from pilotage.errors import RegistryUnavailable
from pilotage.governance.card import model_card
from pilotage.release import mlflow_store
from pilotage.release.cards import CARD
from pilotage.release.promote import promote
from pilotage.release.records import Registered
from pilotage.release.registry import record
from pilotage.settings import Settings
from pilotage.testing.bundles import Run, make_run, tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from pilotage.training.records import FairnessReport, GroupDifference, Interval
from tests.unit.cli import ledgers

SPEC = tiny_spec("tiny")
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1 in production, and version 2 of before there were cards."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home)
    assert recorded(made(home), settings).version == 1
    promote("tiny", 1, settings=settings, actor="ada", why="first | best")
    ledgers.registered(settings, "tiny", 2)
    return home


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(home))
    return Settings.load()


def made(folder: Path) -> Run:
    run = make_run(folder / "run", spec=SPEC)
    arguments = run.arguments()
    del arguments["config"], arguments["card"]
    return replace(run, card=model_card(SPEC, **arguments))


def recorded(run: Run, settings: Settings, **changes: Any) -> Registered:
    result = record(SPEC, settings=settings, **{**run.arguments(), **changes})
    assert isinstance(result, Registered)
    return result


def shown(*arguments: str) -> int:
    return run(lambda: cli.main(["card", *arguments], standalone_mode=False)) or 0


def artifact(settings: Settings) -> Path:
    [found] = settings.mlflow_artifacts.rglob(CARD)
    return found


def test_the_card_of_the_version_in_production_is_shown_with_what_was_decided_since(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown("tiny") == 0
    told = capsys.readouterr().out
    assert told.startswith("# Model card: Late orders\n")
    since = told.split("## Version 1 since then: champion\n\n")[1].splitlines()
    assert since[0].endswith("registered by ada@example.org: manual (event 1)")
    assert since[1].endswith("promoted by ada: first \\| best (event 2)")
    assert shown("tiny", "1") == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("tiny", "2"), 1, "registered before there were model cards"),
        (("tiny", "7"), 1, "tiny has no version 7. Fix: Name one of its versions: 1, 2."),
        (("huge",), 2, "The ledger knows nothing of a model 'huge'. Fix: Use one of: tiny."),
    ],
)
@pytest.mark.usefixtures("settings")
def test_what_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    assert shown(*arguments) == code
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("harm", "told"), [("changed", "was changed"), ("binary", "was changed"), ("gone", "is gone")])
def test_a_card_that_is_not_the_one_that_was_written_is_not_shown(
    settings: Settings, capsys: pytest.CaptureFixture[str], harm: str, told: str
) -> None:
    file = artifact(settings)
    kept = file.read_bytes()
    try:
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes(kept.replace(b"made up", b"perfect") if harm == "changed" else b"\xff\xfe")
        assert shown("tiny", "1") == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"The card of tiny version 1 {told}" in " ".join(captured.err.split())
    finally:
        file.write_bytes(kept)
    assert shown("tiny", "1") == 0


def test_an_attempt_that_was_interrupted_leaves_the_card_that_counts(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger fails; the next attempt is another Dagster run, so that its own card would say something else."""
    settings = Settings(home=home)
    candidate = replace(make_run(tmp_path / "run", spec=SPEC, seed=2), card="# The first attempt's")
    book = InMemoryLedger()

    def fail(*_: object, **__: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(book, "append", fail)
        with pytest.raises(RegistryUnavailable, match="network"):
            record(SPEC, settings=settings, ledger=book, **candidate.arguments())
    done = recorded(candidate, settings, ledger=book, card="# The second attempt's")
    with mlflow_store.session(settings) as client:
        kept = Path(client.download_artifacts(done.mlflow_run_id, CARD, str(tmp_path))).read_text()
        tags = client.get_run(done.mlflow_run_id).data.tags
    assert kept == "# The first attempt's"
    [event] = book.events()
    assert event.payload["facts"]["model_card_sha256"] == tags["model_card_sha256"]


def test_how_far_groups_are_apart_can_be_charted(tmp_path: Path, home: Path) -> None:
    apart = GroupDifference(
        column="sex",
        rate="selection_rate",
        highest="m",
        lowest="f",
        value=Interval(value=0.3, low=0, high=0.6),
        limit=1,
    )
    report = FairnessReport(answers=40, labelled=40, without_group=0, rates=[], differences=[apart])
    run = make_run(tmp_path / "run", spec=SPEC, seed=3)
    settings = Settings(home=home)
    done = recorded(
        replace(run, evaluation=replace(run.evaluation, fairness=report)), settings, ledger=InMemoryLedger()
    )
    with mlflow_store.session(settings) as client:
        assert client.get_run(done.mlflow_run_id).data.metrics["fairness_sex_selection_rate"] == 0.3
        [evaluation] = settings.mlflow_artifacts.rglob(f"{done.mlflow_run_id}/artifacts/evaluation.json")
    assert json.loads(evaluation.read_text())["fairness"]["answers"] == 40
