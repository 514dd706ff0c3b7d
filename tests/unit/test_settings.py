"""Settings come from PILOTAGE_ variables, and a wrong one is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotage.errors import ConfigError
from pilotage.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("PILOTAGE_")]:
        monkeypatch.delenv(key)


def test_everything_listens_on_loopback_and_lives_in_one_folder_unless_told_otherwise(tmp_path: Path) -> None:
    settings = Settings.load()
    assert settings.host == "127.0.0.1"
    assert settings.home.name == ".pilotage"
    moved = settings.model_copy(update={"home": tmp_path})
    for place in (moved.lake, moved.mlflow, moved.ledger, str(moved.landing), str(moved.dagster_home)):
        assert str(tmp_path) in place


def test_a_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    monkeypatch.setenv("PILOTAGE_DAGSTER_PORT", "3100")
    monkeypatch.setenv("PILOTAGE_LAKE_URI", "s3://bucket/lake")
    settings = Settings.load()
    assert (settings.home, settings.dagster_port, settings.lake) == (tmp_path, 3100, "s3://bucket/lake")
    assert settings.dagster_ui == "http://127.0.0.1:3100"


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTAGE_DAGSTER_PORT", "")
    assert Settings.load().dagster_port == 3000


@pytest.mark.parametrize("value", ["0", "70000", "three", "-1", "80.5"])
def test_a_value_that_does_not_fit_names_the_variable_and_the_value(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PILOTAGE_MLFLOW_PORT", value)
    with pytest.raises(ConfigError, match=f"PILOTAGE_MLFLOW_PORT='{value}'"):
        Settings.load()


@pytest.mark.parametrize(
    "value", ["collector:4318", "collector", "http://", "grpc://collector:4317", "http:/collector"]
)
def test_an_address_that_no_trace_could_be_sent_to_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PILOTAGE_OTEL_ENDPOINT", value)
    with pytest.raises(ConfigError, match=f"PILOTAGE_OTEL_ENDPOINT='{value}'.*http://HOST"):
        Settings.load()
    monkeypatch.setenv("PILOTAGE_OTEL_ENDPOINT", "https://collector.example.com/otlp")
    assert Settings.load().otel_endpoint == "https://collector.example.com/otlp"


def test_a_misspelt_variable_is_an_error_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTAGE_DAGSTER_PROT", "3001")
    with pytest.raises(ConfigError, match="PILOTAGE_DAGSTER_PROT"):
        Settings.load()


@pytest.mark.parametrize(
    "value", ['{"crm": "postgresql://u:hunter2@h/db"', "postgresql://u:hunter2@h/db", '{"crm": ["x://u:hunter2@h/db"]}']
)
def test_databases_that_do_not_fit_are_named_without_their_passwords(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PILOTAGE_DATABASES", value)
    with pytest.raises(ConfigError, match="PILOTAGE_DATABASES") as refused:
        Settings.load()
    assert "hunter2" not in str(refused.value)
