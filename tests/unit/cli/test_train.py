"""`pilotage train` checks its file before it starts anything, and ends with what the ledger says of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.cli.train import REFUSED, conclude, train
from pilotage.errors import ConfigError, TrainingError
from pilotage.settings import Settings
from tests.unit.cli.ledgers import promoted, refused, registered


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_an_unknown_model_is_refused_with_those_that_there_are(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="There is no model 'flights'") as caught:
        train(settings, "flights", None)
    assert "flight_delay, loan_approval" in caught.value.fix
    assert not settings.home.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 5\nround: 5\n", "run.yaml:2"),
        ("rounds: many\n", "run.yaml:1"),
        ("data: {last: 2013-02-01}\n", "loan_approval has no event time"),
        ("evaluation: {at_least: {auc: 0.1}}\n", "at_least.auc"),
        ("params: {num_leafs: 7}\n", "Did you mean num_leaves?"),
        ("params: {objective: mse}\n", "is the platform's"),
        ("tuning: {trials: 2, space: {n_jobs: {low: 1, high: 2}}}\n", "n_jobs (tuning.space) is the platform's"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(
    settings: Settings, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        train(settings, "loan_approval", file)
    assert said in str(caught.value)
    assert not settings.home.exists()


def test_a_registered_version_ends_with_the_command_that_promotes_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "loan_approval", 4, run="mine")
    assert conclude(settings, "loan_approval", run_id="mine", before=0) == 0
    printed = capsys.readouterr().out
    assert "version 4 passed its gate" in printed
    assert "Somebody has to approve it first, anybody but" in printed
    asked, offered = (printed.index(f'pilotage {step} loan_approval 4 --why "…"') for step in ("approve", "promote"))
    assert asked < offered


def test_a_first_version_that_became_champion_at_once_is_not_offered_for_promotion(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "loan_approval", 1, run="mine")
    promoted(settings, "loan_approval", 1)
    assert conclude(settings, "loan_approval", run_id="mine", before=0) == 0
    printed = capsys.readouterr().out
    assert "It is the champion now." in printed
    assert "pilotage promote" not in printed


def test_a_refusal_ends_with_its_reasons_and_an_exit_code_of_its_own(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(settings, "loan_approval", 1)
    refused(settings, "loan_approval", "AUC 0.6 is below the floor of 0.7.", "Brier [worse].", run="mine")
    assert conclude(settings, "loan_approval", run_id="mine", before=1) == REFUSED
    printed = capsys.readouterr().out
    assert "- AUC 0.6 is below the floor of 0.7." in printed
    assert "- Brier [worse]." in printed


def test_what_another_run_registered_at_the_same_time_is_not_taken_for_this_one(settings: Settings) -> None:
    refused(settings, "loan_approval", "too bad", run="mine")
    registered(settings, "loan_approval", 1, run="other")
    assert conclude(settings, "loan_approval", run_id="mine", before=0) == REFUSED


def test_a_run_that_left_nothing_in_the_ledger_is_an_error_and_not_a_success(settings: Settings) -> None:
    registered(settings, "flight_delay", 1, run="mine")
    registered(settings, "loan_approval", 1, run="earlier")
    with pytest.raises(TrainingError, match="registered nothing and refused nothing"):
        conclude(settings, "loan_approval", run_id="mine", before=2)
