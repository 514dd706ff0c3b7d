"""From a training set to a candidate's bundle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pilotage.errors import ConfigError, TrainingError
from pilotage.runtime.bundle import read_bundle
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.records import Candidate, TrainingSet
from pilotage.training.train import train
from tests.unit.training.conftest import as_training_set, parcel_spec, parcels, untimed_spec

SPEC = parcel_spec()


@pytest.fixture
def training_set(tmp_path: Path) -> TrainingSet:
    return as_training_set(SPEC, parcels(40), tmp_path / "set")


def trained(training_set: TrainingSet, folder: Path, spec: ModelSpec = SPEC, **values: object) -> Candidate:
    return train(spec, training_set, config=TrainConfig.from_values(values), directory=folder, threads=1)


def model_of(candidate: Candidate) -> bytes:
    return (Path(candidate.bundle) / "model.txt").read_bytes()


def test_the_same_set_and_seed_give_the_same_model_and_the_same_answers(
    training_set: TrainingSet, tmp_path: Path
) -> None:
    one, two = trained(training_set, tmp_path / "one"), trained(training_set, tmp_path / "two")
    for name in ("model.txt", "calibrator.json", "categories.json", "golden.parquet", "reference.parquet"):
        assert (Path(one.bundle) / name).read_bytes() == (Path(two.bundle) / name).read_bytes(), name
    assert model_of(trained(training_set, tmp_path / "three", seed=5)) != model_of(one)


def test_the_candidate_says_what_it_learned_from(
    training_set: TrainingSet, tmp_path: Path, told: tuple[list[str], Callable[[str], None]]
) -> None:
    heard, progress = told
    config = TrainConfig(params={"max_depth": 4})
    candidate = train(SPEC, training_set, config=config, directory=tmp_path / "run", threads=1, progress=progress)
    # 40 days: 8 of holdout, 6 of calibration, two embargoes of 1. Parcels of the last two hours before an embargo's
    # end are known in time, so nothing is purged.
    assert candidate.parts == {"train": 24 * 60, "calibration": 6 * 60, "holdout": 8 * 60}
    assert {name: at.date().isoformat() for name, at in candidate.boundaries.items()} == {
        "train": "2024-03-01",
        "calibration": "2024-03-26",
        "holdout": "2024-04-02",
    }
    assert candidate.params["max_depth"] == 4
    assert [fold["rows"] for fold in candidate.cross_validation] == [480.0, 480.0]
    assert sum(candidate.importance.values()) == pytest.approx(1.0)
    assert any(message.startswith("Fold 2 of 2") for message in heard)

    facts = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256).manifest["training"]
    learned = read_set(training_set)["event_time"].dt.date().is_between(*map(pl.lit, DAYS_LEARNED))
    assert facts["learned_until"] == read_set(training_set).filter(learned)["event_time"].max().isoformat()
    assert facts["training_set_sha256"] == training_set.sha256
    assert facts["lake_versions"] == training_set.lake_versions
    assert facts["feature_fingerprint"] == training_set.feature_fingerprint
    assert facts["parts"] == candidate.parts
    assert facts["split"] == {
        "kind": "time",
        "calibration_days": 6.0,
        "holdout_days": 8.0,
        "embargo_days": 1.0,
        "folds": 2,
    }
    assert facts["config"] == {"params": {"max_depth": 4}}
    assert facts["seed"] == 1
    assert set(facts["libraries"]) == {"lightgbm", "numpy", "polars", "scikit-learn"}


DAYS_LEARNED = tuple(
    pl.Series(["2024-03-26", "2024-03-31"]).str.to_date()
)  # The calibration part is the last that a candidate learns from.


def test_out_of_fold_predictions_are_of_training_rows_only(training_set: TrainingSet, tmp_path: Path) -> None:
    candidate = trained(training_set, tmp_path)
    told = pl.read_parquet(candidate.out_of_fold)
    days = read_set(training_set)["event_time"].gather(told["row"]).dt.date()
    assert str(days.min()) == "2024-03-09"  # The first of three blocks of eight days only trains.
    assert str(days.max()) == "2024-03-24"
    assert told["predicted"].is_between(0, 1).all()


def test_the_bundle_answers_its_golden_rows_and_keeps_a_reference(training_set: TrainingSet, tmp_path: Path) -> None:
    candidate = trained(training_set, tmp_path)
    bundle = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)
    assert bundle.golden.height == 20
    assert np.allclose(bundle.score(bundle.golden), bundle.golden["expected"].to_numpy(), atol=1e-12)
    assert bundle.reference.columns == ["depot", "weight", "hour"]
    assert bundle.reference.height == 24 * 60


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic", "none"])
def test_each_calibration_ends_in_a_bundle(training_set: TrainingSet, tmp_path: Path, kind: str) -> None:
    candidate = trained(training_set, tmp_path, calibration=kind, split={"folds": 0})
    assert read_bundle(Path(candidate.bundle)).scorer.calibrator.kind == kind
    assert (candidate.parts["calibration"] == 0) == (kind == "none")
    assert candidate.cross_validation == []
    assert pl.read_parquet(candidate.out_of_fold).is_empty()


def test_a_day_of_calibration_counts_as_one_piece_of_evidence_however_many_rows_it_has(tmp_path: Path) -> None:
    one_day = pl.col("day") == date(2024, 3, 31)
    unusual = parcels(40).with_columns(late=pl.when(one_day).then(pl.col("parcel_id") % 12 > 0).otherwise("late"))
    candidate = trained(
        as_training_set(SPEC, unusual, tmp_path / "set"), tmp_path / "run", split={"calibration_days": 1}
    )
    assert candidate.parts["calibration"] == 60
    calibrator = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256).scorer.calibrator
    # 55 of 60 late, where a third are. Counted one by one, these rows would make 0.42 of a third.
    assert float(calibrator.apply(np.array([1 / 3]))[0]) == pytest.approx(1 / 3, abs=0.01)


def test_a_second_attempt_replaces_the_bundle_of_the_first(training_set: TrainingSet, tmp_path: Path) -> None:
    first = trained(training_set, tmp_path, rounds=3)
    second = trained(training_set, tmp_path, rounds=4)
    assert first.bundle == second.bundle
    assert read_bundle(Path(second.bundle)).manifest["training"]["rounds"] == 4


def test_tuning_trains_with_the_best_of_its_trials(training_set: TrainingSet, tmp_path: Path) -> None:
    tuning = {"trials": 4, "space": {"eta": {"low": 0.05, "high": 0.5}, "num_leaves": {"choices": [3, 7]}}}
    candidate = trained(training_set, tmp_path, tuning=tuning, rounds=10)
    assert [trial.number for trial in candidate.trials] == [0, 1, 2, 3]
    assert candidate.trials[0].params == {"learning_rate": 0.2, "num_leaves": 7}
    best = min(candidate.trials, key=lambda trial: trial.log_loss)
    assert {name: candidate.params[name] for name in best.params} == best.params
    folds = candidate.cross_validation
    assert np.average([fold["log_loss"] for fold in folds]) == pytest.approx(best.log_loss, abs=1e-12)


def test_early_stopping_finds_the_rounds_on_the_newest_fold(training_set: TrainingSet, tmp_path: Path) -> None:
    candidate = trained(training_set, tmp_path, rounds=200, early_stopping_rounds=5)
    assert 1 <= candidate.rounds < 100
    assert read_bundle(Path(candidate.bundle)).manifest["training"]["rounds"] == candidate.rounds


def test_a_model_without_a_time_is_trained_by_hash(tmp_path: Path) -> None:
    spec = untimed_spec()
    made = as_training_set(spec, parcels(40), tmp_path / "set")
    candidate = trained(made, tmp_path / "run", spec)
    assert candidate.boundaries == {}
    assert sum(candidate.parts.values()) == 2400
    assert len(candidate.cross_validation) == 3
    assert pl.read_parquet(candidate.out_of_fold).height == candidate.parts["train"]
    facts = read_bundle(Path(candidate.bundle)).manifest["training"]
    assert facts["learned_until"] is None
    assert facts["split"] == {"kind": "hash", "calibration": 0.2, "holdout": 0.3, "salt": "pilotage", "folds": 3}


def test_too_little_data_and_a_wrong_parameter_leave_no_bundle(training_set: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="40 days of labelled data"):
        trained(training_set, tmp_path / "run", split={"holdout_days": 60})
    with pytest.raises(ConfigError, match="no parameter num_leavs"):
        trained(training_set, tmp_path / "run", params={"num_leavs": 3})
    assert not (tmp_path / "run").exists()
