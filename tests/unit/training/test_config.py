"""The run.yaml: what it may say, and what a reader hears when it says something else."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from pilotage.errors import ConfigError
from pilotage.settings import PROJECT
from pilotage.spec import Gate, Scalar
from pilotage.training.config import TrainConfig
from pilotage.training.fit import check_params, main_names, merged_params
from tests.unit.training.conftest import parcel_spec, untimed_spec


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_file(written(folder, text))
    return str(caught.value)


def test_an_empty_file_trains_what_the_spec_says(tmp_path: Path) -> None:
    assert TrainConfig.from_file(written(tmp_path, "# nothing yet\n")) == TrainConfig()


def test_every_field_can_be_given(tmp_path: Path) -> None:
    config = TrainConfig.from_file(
        written(
            tmp_path,
            """
            data: {first: 2013-01-01, last: 2013-02-28, version: 3}
            split: {calibration_days: 5, holdout_days: 7, embargo_days: 2, folds: 0}
            rounds: 50
            early_stopping_rounds: 5
            params: {num_leaves: 15, boosting: gbdt, extra_trees: true}
            threads: 1
            seed: 7
            calibration: isotonic
            tuning:
              trials: 3
              timeout_seconds: 60
              space:
                num_leaves: {low: 7, high: 31, log: true, integer: true}
                boosting: {choices: [gbdt, dart]}
            evaluation:
              resamples: 500
              at_least: {auc: 0.7}
              at_most: {brier: 0.2}
            """,
        )
    )
    assert config.data.first == date(2013, 1, 1)
    assert config.tuning is not None
    assert config.tuning.space["boosting"].model_dump() == {"choices": ["gbdt", "dart"]}
    assert config.params == {"num_leaves": 15, "boosting": "gbdt", "extra_trees": True}
    assert TrainConfig.from_values(config.model_dump(mode="json")) == config


def test_an_unknown_field_is_named_with_its_line_and_the_known_ones(tmp_path: Path) -> None:
    told = refused(tmp_path, "seed: 1\ndata:\n  frist: 2013-01-01\n")
    assert told.startswith("run.yaml:3: there is no field data.frist.")
    assert "Use one of: first, last, version, learn_from, window_days, half_life_days." in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rounds: many", "run.yaml:1: rounds='many' does not fit. Fix: Input should be a valid integer"),
        ("seed: 1\nthreads: 0", "run.yaml:2: threads=0 does not fit. Fix: Input should be greater than or equal to 1."),
        ("data:\n  first: 2013-03-01\n  last: 2013-01-01", "first (2013-03-01) is after last (2013-01-01)"),
        ("seed: 1\nevaluation:\n  at_most: {brier: .nan}", "run.yaml:3: evaluation.at_most.brier=nan does not fit."),
        ("params: {lambda_l2: .inf}", "run.yaml:1: params.lambda_l2=inf does not fit."),
        ("data: 7", "run.yaml:1: data=7 does not fit."),
        ("tuning: {}", "run.yaml:1: tuning.trials is missing. Fix: Give tuning.trials."),
        (
            "tuning:\n  trials: 2\n  space:\n    num_leaves: {low: 9, high: 3}",
            "run.yaml:4: tuning.space.num_leaves={'low': 9, 'high': 3} does not fit. Fix: Value error, low (9.0) is",
        ),
        (
            "tuning:\n  trials: 2\n  space:\n    num_leaves: {low: 0, high: 3, log: true}",
            "log needs low above 0, not 0.0",
        ),
        (
            "tuning:\n  trials: 2\n  space:\n    boosting: {choices: [gbdt]}",
            "run.yaml:4: tuning.space.boosting.choices=['gbdt'] does not fit.",
        ),
        (
            "tuning:\n  trials: 2\n  space:\n    num_leaves: {low: 3, hihg: 5}",
            "run.yaml:4: tuning.space.num_leaves.high is missing.",
        ),
        ("evaluation:\n  at_least:\n    acuracy: 0.9", "run.yaml:3: evaluation.at_least.acuracy"),
        ("data:\n  last: 2013-02-31", "run.yaml:2: data.last='2013-02-31' does not fit."),
        ("- 1", "run.yaml: holds a list, not fields."),
        ("seed: [1", "run.yaml:1: is no YAML:"),
        ("seed: 1\nrounds: 5\nseed: 2", "run.yaml:3: seed is given twice."),
        ("seed: !!int one", "run.yaml: invalid literal for int()"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_fix(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml can't be read"):
        TrainConfig.from_file(tmp_path / "nowhere.yaml")


def test_values_from_elsewhere_are_explained_without_a_file() -> None:
    with pytest.raises(ConfigError, match="run configuration: there is no field round"):
        TrainConfig.from_values({"round": 3})


def test_a_run_may_ask_for_more_than_the_gate_but_never_for_less() -> None:
    spec = parcel_spec(gate=Gate(at_least={"auc": 0.7}, at_most={"brier": 0.2}))
    TrainConfig.from_values({"evaluation": {"at_least": {"auc": 0.8}, "at_most": {"brier": 0.1}}}).check(spec)
    with pytest.raises(ConfigError, match=r"at_least\.auc=0\.6 is weaker than the gate of parcel_late \(0\.7\)"):
        TrainConfig.from_values({"evaluation": {"at_least": {"auc": 0.6}}}).check(spec)
    with pytest.raises(ConfigError, match=r"at_most\.brier=0\.3 is weaker"):
        TrainConfig.from_values({"evaluation": {"at_most": {"brier": 0.3}}}).check(spec)


def test_the_embargo_can_be_made_longer_but_never_shorter() -> None:
    TrainConfig.from_values({"split": {"embargo_days": 2}}).check(parcel_spec())
    for days in (0.5, 0):
        with pytest.raises(ConfigError, match=r"shorter than the 1 of parcel_late"):
            TrainConfig.from_values({"split": {"embargo_days": days}}).check(parcel_spec())


@pytest.mark.parametrize("values", [{"split": {"holdout_days": 3}}, {"data": {"first": "2024-03-01"}}])
def test_days_mean_nothing_to_a_model_without_a_time(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="parcel_lost has no event time"):
        TrainConfig.from_values(values).check(untimed_spec())


def test_a_parameter_that_lightgbm_does_not_have_is_refused_not_ignored() -> None:
    config = TrainConfig(params={"num_leafs": 9})
    with pytest.raises(ConfigError, match=r"no parameter num_leafs \(params\)\. Fix: Did you mean num_leaves\?"):
        merged_params(parcel_spec(), config)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"num_leaves": 1}, r"LightGBM refuses num_leaves=1 \(params\): Check failed: \(num_leaves\) > \(1\)\. Fix: "),
        ({"learning_rate": "fast"}, "LightGBM refuses learning_rate='fast' .params.: Unknown token fast"),
        ({"boosting": "dartt"}, "LightGBM refuses boosting='dartt' .params.: Unknown boosting type dartt"),
        ({"is_unbalance": True, "scale_pos_weight": 2.0}, "is_unbalance and scale_pos_weight at the same time"),
    ],
)
def test_a_value_that_lightgbm_refuses_starts_nothing(params: dict[str, Scalar], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_params(parcel_spec(), TrainConfig(params=params))


def test_what_lightgbm_takes_is_fine_before_there_are_rows() -> None:
    features = len(parcel_spec().features)
    taken: dict[str, Scalar] = {"boosting": "dart", "min_data_in_leaf": 5_000, "num_leaves": 63}
    taken["monotone_constraints"] = ",".join(["0"] * features)
    check_params(parcel_spec(), TrainConfig(params=taken))


@pytest.mark.parametrize("name", ["seed", "random_state", "n_jobs", "nthread", "objective", "num_boost_round"])
def test_a_parameter_of_the_platform_is_refused_under_any_of_its_names(name: str) -> None:
    with pytest.raises(ConfigError, match=f"The parameter {name} .params. is the platform's"):
        merged_params(parcel_spec(), TrainConfig(params={name: 1}))


def test_a_run_overrides_the_spec_also_under_another_name_of_the_parameter() -> None:
    merged = merged_params(parcel_spec(), TrainConfig(params={"min_child_samples": 3}))
    assert merged["min_data_in_leaf"] == 3
    assert "min_child_samples" not in merged
    with pytest.raises(ConfigError, match="is given under another name too"):
        main_names(["min_data_in_leaf", "min_child_samples"], where="params")


def test_the_example_in_the_how_to_is_a_valid_run() -> None:
    page = (PROJECT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```yaml")[1:]]
    assert blocks
    for block in blocks:
        TrainConfig.from_values(yaml.safe_load(block))
