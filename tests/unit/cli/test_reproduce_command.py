"""``pilotage reproduce``: what it says, and with which exit code it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotage import discovery
from pilotage.cli import declared
from pilotage.cli.main import cli, run
from pilotage.data.lake import Lake
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from tests.unit.cli.ledgers import registered
from tests.unit.governance.test_reproduce import ROWS, SPEC, trained
from tests.unit.training.conftest import parcel_spec, publish


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one registered version."""
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    declare(monkeypatch, SPEC)
    settings = Settings.load()
    lake = Lake(settings.lake)
    publish(lake, SPEC, ROWS)
    candidate = trained(lake, tmp_path / "candidate")
    registered(settings, SPEC.name, bundle=candidate.bundle, bundle_sha256=candidate.bundle_sha256)
    return tmp_path


def declare(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    monkeypatch.setattr(declared, "_model_files", lambda: {spec.name: Path("parcel_late.py")})
    monkeypatch.setattr(discovery, "load_declaration", lambda *_, **__: spec)


def reproduced(*arguments: str) -> int:
    try:
        return run(lambda: cli.main(["reproduce", *arguments], standalone_mode=False)) or 0
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def test_a_version_that_comes_out_the_same_ends_with_0_and_leaves_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(home.iterdir())
    assert reproduced("parcel_late", "1") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "training set the same 2,400 rows, SHA-256" in told
    assert "model.txt the same" in told
    assert "answers to 20 golden rows: the same" in told
    assert "parcel_late version 1 comes out the same, byte for byte." in told
    assert sorted(home.iterdir()) == before


def test_one_that_comes_out_different_ends_with_3_and_is_kept_where_asked(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(
        monkeypatch,
        parcel_spec(kpi=SPEC.kpi.model_copy(update={"cost": SPEC.kpi.cost.model_copy(update={"false_negative": 9.0})})),
    )
    kept = home / "kept"
    assert reproduced("parcel_late", "1", "--keep", str(kept)) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert "decision.json DIFFERENT" in told
    assert "does not come out the same. What that can mean: docs/how-to/reproduce-a-version.md" in told
    assert (kept / "bundle" / "model.txt").exists()
    assert (kept / "training_set.parquet").exists()
    assert reproduced("parcel_late", "1", "--keep", str(kept)) == 2
    assert "Name a folder that does not exist yet" in " ".join(capsys.readouterr().err.split())


def test_which_of_several_policies_it_was_made_by_is_in_the_ledger(home: Path) -> None:
    settings = Settings.load()
    candidate = trained(
        Lake(settings.lake),
        home / "second",
        refitted=True,
        variants=[{"name": "young", "half_life_days": 3.0}, {"name": "younger", "half_life_days": 1.0}],
    )
    made = {"bundle": candidate.bundle, "bundle_sha256": candidate.bundle_sha256}
    registered(settings, SPEC.name, 2, **made, facts={"policy": candidate.policy})
    assert reproduced("parcel_late", "2") == 0
    registered(settings, SPEC.name, 3, **made, facts={})
    assert reproduced("parcel_late", "3") == 3


def test_a_program_reads_it_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduced("parcel_late", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["version"], told["same"], told["files"]["model.txt"]) == ("parcel_late", 1, True, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("parcel_late", "2"), 1, "parcel_late has no version 2"),
        (("parcel_lost", "1"), 2, "There is no model 'parcel_lost'"),
    ],
)
def test_what_is_not_there_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], code: int, told: str
) -> None:
    assert reproduced(*arguments) == code
    assert told in " ".join(capsys.readouterr().err.split())
