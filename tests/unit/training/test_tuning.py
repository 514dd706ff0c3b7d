"""The search for hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pilotage.errors import TrainingError
from pilotage.spec import Scalar
from pilotage.training.config import TuningConfig
from pilotage.training.tuning import tune

SPACE = {
    "learning_rate": {"low": 0.01, "high": 1.0, "log": True},
    "num_leaves": {"low": 2, "high": 64, "integer": True},
    "boosting": {"choices": ["gbdt", "dart"]},
}


def bowl(params: dict[str, Scalar]) -> float:
    """Best at 0.3, 20 leaves and dart."""
    rate, leaves = float(params.get("learning_rate", 0.1)), float(params.get("num_leaves", 31))
    return (rate - 0.3) ** 2 + ((leaves - 20) / 50) ** 2 + (params.get("boosting") != "dart") * 0.1


def config(trials: int, **more: object) -> TuningConfig:
    return TuningConfig(trials=trials, space=SPACE, **more)


def test_the_first_trial_is_what_was_declared_so_the_search_never_ends_worse() -> None:
    start: dict[str, Scalar] = {"learning_rate": 0.3, "num_leaves": 20, "boosting": "dart", "lambda_l2": 9.0}
    best, trials = tune(config(6), start=start, seed=1, objective=bowl)
    assert trials[0].params == {"learning_rate": 0.3, "num_leaves": 20, "boosting": "dart"}
    assert best == trials[0].params


def test_it_finds_something_better_than_a_bad_start(
    told: tuple[list[str], Callable[[str], None]],
) -> None:
    heard, progress = told
    best, trials = tune(
        config(30), start={"learning_rate": 0.01, "num_leaves": 64}, seed=1, objective=bowl, progress=progress
    )
    assert bowl(best) < trials[0].log_loss / 2
    assert [trial.number for trial in trials] == list(range(30))
    assert len(heard) == 30
    assert "Trial 30 of 30: log loss" in heard[-1]


def test_the_same_seed_makes_the_same_trials() -> None:
    def once(seed: int) -> list[dict[str, Scalar]]:
        return [trial.params for trial in tune(config(8), start={}, seed=seed, objective=bowl)[1]]

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_every_trial_lies_in_its_space() -> None:
    for trial in tune(config(20), start={}, seed=0, objective=bowl)[1][1:]:
        assert 0.01 <= trial.params["learning_rate"] <= 1
        assert 2 <= trial.params["num_leaves"] <= 64
        assert isinstance(trial.params["num_leaves"], int)
        assert trial.params["boosting"] in ("gbdt", "dart")


def test_a_start_outside_the_space_is_tried_all_the_same() -> None:
    start: dict[str, Scalar] = {"learning_rate": 5.0, "num_leaves": 500, "boosting": "goss"}
    assert tune(config(3), start=start, seed=0, objective=bowl)[1][0].params == start


def test_a_trial_that_can_not_be_trained_is_told_and_the_search_goes_on(
    told: tuple[list[str], Callable[[str], None]],
) -> None:
    heard, progress = told

    def picky(params: dict[str, Scalar]) -> float:
        if params.get("boosting") == "dart":
            raise TrainingError("nothing was learned.", fix="None.")
        return bowl(params)

    _, trials = tune(config(12), start={}, seed=0, objective=picky, progress=progress)
    assert {trial.params.get("boosting") for trial in trials} <= {"gbdt", None}
    assert any("failed: nothing was learned." in message for message in heard)
    assert len(trials) + sum("failed" in message for message in heard) == 12


def test_when_no_trial_can_be_trained_it_is_an_error() -> None:
    def never(params: dict[str, Scalar]) -> float:
        raise TrainingError("too few rows.", fix="None.")

    with pytest.raises(TrainingError, match=r"None of 3 tuning trials could be trained; the last said: too few rows\."):
        tune(config(3), start={}, seed=0, objective=never)


def test_the_time_ends_the_search_but_not_its_first_trial(told: tuple[list[str], Callable[[str], None]]) -> None:
    heard, progress = told
    _, trials = tune(config(50, timeout_seconds=1e-9), start={}, seed=0, objective=bowl, progress=progress)
    assert len(trials) == 1
    assert heard[-1] == "The time for tuning ran out after 1 trials of 50"
