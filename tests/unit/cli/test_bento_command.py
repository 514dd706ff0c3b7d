"""``pilotage bento``: what it refuses before anything is built. That a bento serves is shown in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pilotage.cli import bento_context
from pilotage.cli.main import cli, run
from pilotage.errors import ConfigError
from pilotage.settings import Settings
from tests.unit.cli import ledgers


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    return Settings.load()


def bento(*options: str) -> int:
    return run(lambda: cli.main(["bento", *options], standalone_mode=False))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Which models?"),
        (["--all", "flight_delay"], "Which models?"),
        (["nothing"], "There is no model 'nothing'"),
    ],
)
def test_what_to_put_in_must_be_said(
    settings: Settings, capsys: pytest.CaptureFixture[str], options: list[str], words: str
):
    assert bento(*options) == 2
    assert words in capsys.readouterr().err


def test_a_model_that_has_no_champion_is_named_with_what_to_do_and_nothing_is_left(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    ledgers.registered(settings, "flight_delay")
    assert bento("flight_delay") == 1
    said = capsys.readouterr().err
    assert "flight_delay has no champion" in said
    assert "pilotage promote flight_delay" in said
    assert list((settings.home / "bentoml").iterdir()) == []


def test_what_goes_in_is_the_code_of_serving_the_chosen_models_and_pins(tmp_path: Path):
    bento_context.write_context(tmp_path, ["flight_delay"], name="flight_delay", labels={"flight_delay": "3"})
    assert sorted(path.name for path in (tmp_path / "assets" / "models").iterdir()) == [
        "__init__.py",
        "flight_delay.py",
    ]
    assert not [path for path in tmp_path.rglob("*") if path.name in ("__pycache__", "training", "testing")]
    build = yaml.safe_load((tmp_path / "bentofile.yaml").read_text())
    assert (build["service"], build["labels"]) == ("serving.bento:PredictionService", {"flight_delay": "3"})
    assert build["python"]["lock_packages"] is False
    pins = (tmp_path / "requirements.txt").read_text().splitlines()
    assert all(line.count("==") == 1 for line in pins)
    assert not [line for line in pins if line.startswith(("dagster", "mlflow", "evidently", "pilotage"))]


def test_a_library_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="no-such-library is not installed"):
        bento_context.closure(("no-such-library",))
