"""What a candidate shows: measured through its bundle, beside baselines and champion."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, TrainingError
from pilotage.runtime.bundle import read_bundle
from pilotage.spec import Fallback, Gate, ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.evaluate import evaluate
from pilotage.training.gate import judge
from pilotage.training.one_work import check_one_work
from pilotage.training.records import Candidate, Evaluation, TrainingSet
from pilotage.training.refit import refit
from pilotage.training.train import train
from tests.unit.training.conftest import as_training_set, parcel_spec, parcels, store_set, untimed_spec

SPEC = parcel_spec()
Trained = tuple[ModelSpec, TrainingSet, Candidate, TrainConfig]


def trained(folder: Path, spec: ModelSpec = SPEC, rows: pl.DataFrame | None = None, **values: Any) -> Trained:
    made = as_training_set(spec, parcels(40) if rows is None else rows, folder)
    config = TrainConfig.from_values({"evaluation": {"resamples": 60}, **values})
    return spec, made, train(spec, made, config=config, directory=folder, threads=1), config


def evaluated(run: Trained, champion: Candidate | None = None, folder: Path | None = None) -> Evaluation:
    spec, made, candidate, config = run
    return evaluate(
        spec,
        made,
        candidate,
        champion_bundle=Path(champion.bundle) if champion else None,
        champion_version=7 if champion else None,
        config=config,
        directory=folder or Path(made.path).parent,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def shown(run: Trained) -> Evaluation:
    return evaluated(run)


def test_it_measures_the_holdout_with_intervals(run: Trained, shown: Evaluation) -> None:
    assert shown.rows == run[2].parts["holdout"] == 480
    assert set(shown.metrics) == {"auc", "log_loss", "brier", "calibration_error", "expected_cost"}
    for value in shown.metrics.values():
        assert value.low < value.high
    assert 0.6 < shown.metrics["auc"].low < shown.metrics["auc"].value < shown.metrics["auc"].high < 0.85
    assert shown.threshold == SPEC.kpi.cost.threshold
    assert judge(SPEC, shown).passed


def test_it_is_the_same_when_measured_again(run: Trained, shown: Evaluation, tmp_path: Path) -> None:
    again = evaluated(run, folder=tmp_path)
    assert replace(again, plots={}, latency_ms=0.0) == replace(shown, plots={}, latency_ms=0.0)
    for name, path in shown.plots.items():
        assert Path(again.plots[name]).read_bytes() == Path(path).read_bytes(), name


def test_the_baselines_stand_on_the_same_rows(run: Trained, shown: Evaluation) -> None:
    assert set(shown.baselines) == {"constant", "rule"}
    assert shown.baselines["constant"]["auc"] == 0.5
    spec = parcel_spec(last_value=pl.when(pl.col("depot") == "south").then(0.6).otherwise(0.3))
    assert set(evaluated((spec, *run[1:])).baselines) == {"constant", "rule", "last_value"}


def test_a_rule_that_gives_no_probability_is_an_error_not_a_weak_baseline(run: Trained) -> None:
    spec = parcel_spec(fallback=Fallback(rule=pl.col("weight") / 20, reason="Heavy is late."))
    with pytest.raises(TrainingError, match=r"fallback.rule of parcel_late answers nan for 2\d of 480 rows"):
        evaluated((spec, *run[1:]))


def test_every_row_is_in_one_slice_of_each_column(shown: Evaluation) -> None:
    for column in ("depot", "hour"):
        parts = [part for part in shown.slices if part.column == column]
        assert sum(part.rows for part in parts) == 480
    depots = {part.value: part.rows for part in shown.slices if part.column == "depot"}
    assert set(depots) == {"north", "south", "east", "missing"}
    # Every hour has fewer rows than are measured alone.
    assert [part.value for part in shown.slices if part.column == "hour"] == ["other"]


def test_a_number_with_many_values_is_sliced_by_quarters(run: Trained) -> None:
    parts = evaluated((parcel_spec(slices=("weight",)), *run[1:])).slices
    assert [part.column for part in parts] == ["weight"] * 5
    assert sum(part.rows for part in parts) == 480
    assert {part.value.split()[0] for part in parts if part.value != "missing"} >= {"to", "over"}


def test_months_tell_folds_from_the_holdout(shown: Evaluation) -> None:
    assert [(part.column, part.value, part.rows) for part in shown.months] == [
        ("cross-validation", "2024-03", 960),
        ("holdout", "2024-04", 480),
    ]


def test_the_pictures_are_there(shown: Evaluation) -> None:
    assert set(shown.plots) == {"reliability", "scores", "importance", "months"}
    for path in shown.plots.values():
        data = Path(path).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 10_000


def test_budgets_are_measured_on_the_bundle(run: Trained, shown: Evaluation) -> None:
    assert shown.bundle_mb == sum(path.stat().st_size for path in Path(run[2].bundle).iterdir()) / 1e6
    assert shown.latency_ms > 0


def test_a_champion_is_compared_on_rows_that_are_new_to_both(run: Trained, tmp_path: Path) -> None:
    """The champion saw six days more than the candidate may; only the rest of the holdout is fresh."""
    _, _, champion, _ = trained(tmp_path / "champion", split={"holdout_days": 4})
    versus = evaluated(run, champion).versus_champion
    assert versus is not None
    until = read_bundle(Path(champion.bundle)).manifest["training"]["learned_until"]
    holdout = read_set(run[1])["event_time"].tail(480)
    assert versus.rows == holdout.filter(holdout > datetime.fromisoformat(until)).len() == 300
    assert versus.champion_version == 7
    assert versus.unit == "day"
    for name, gap in versus.difference.items():
        assert gap.value == pytest.approx(versus.candidate[name] - versus.champion[name], abs=1e-12)


def test_the_champion_itself_as_candidate_differs_in_nothing(run: Trained) -> None:
    versus = evaluated(run, run[2]).versus_champion
    assert versus is not None
    assert versus.rows == 480
    assert {(gap.value, gap.low, gap.high) for gap in versus.difference.values()} == {(0.0, 0.0, 0.0)}


def test_a_champion_that_learned_the_holdout_leaves_nothing_to_compare_on(run: Trained, tmp_path: Path) -> None:
    _, _, champion, _ = trained(tmp_path / "later", rows=parcels(60))
    shown = evaluated(run, champion)
    assert shown.versus_champion is not None
    assert shown.versus_champion.rows == 0
    reasons = judge(SPEC, shown).reasons
    assert reasons == [
        "No fresh holdout to compare with the champion on: 0 of 480 holdout rows are new to version 7, 200 are needed."
    ]


def test_one_fresh_day_is_compared_by_rows(run: Trained, tmp_path: Path) -> None:
    _, _, champion, _ = trained(tmp_path / "yesterday", split={"holdout_days": 1, "calibration_days": 6})
    spec = parcel_spec(gate=Gate(min_fresh_rows=50))
    versus = evaluated((spec, *run[1:]), champion).versus_champion
    assert versus is not None
    assert (versus.problem, versus.unit, versus.rows) == (None, "row", 120)


def test_without_a_time_rows_are_fresh_that_neither_hash_put_into_training(tmp_path: Path) -> None:
    spec = untimed_spec()
    run = trained(tmp_path / "run", spec)
    versus = evaluated(run, run[2]).versus_champion
    assert versus is not None
    assert versus.rows == run[2].parts["holdout"]
    other = untimed_spec(split=spec.split.model_copy(update={"salt": "another"}))
    champion = trained(tmp_path / "champion", other)[2]
    resalted = evaluated(run, champion).versus_champion
    assert resalted is not None
    assert resalted.rows == pytest.approx(0.3 * run[2].parts["holdout"], rel=0.2)


def test_without_a_time_no_row_is_new_to_a_champion_that_was_fitted_again(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", untimed_spec())
    spec, made, candidate, config = run
    champion = refit(spec, made, candidate, config=config, directory=tmp_path / "champion", threads=1)
    versus = evaluated(run, champion).versus_champion
    assert versus is not None
    assert (versus.rows, versus.candidate) == (0, {})
    assert versus.problem == "version 7 was fitted on its holdout too, and without a time no row is new to it"


def test_a_champion_that_reads_a_column_that_is_gone_is_a_refusal_not_a_crash(run: Trained, tmp_path: Path) -> None:
    less = read_set(run[1]).drop("weight")
    # A spec without that feature, whose holdout therefore lacks the column.
    spec = parcel_spec(
        request=[field for field in SPEC.request if field.name != "weight"],
        features=[feature for feature in SPEC.features if feature.name != "weight"],
        fallback=Fallback(rule=pl.lit(0.35), reason="Nothing is known."),
    )
    made = store_set(spec, less, tmp_path)
    candidate = train(spec, made, config=run[3], directory=tmp_path, threads=1)
    versus = evaluated((spec, made, candidate, run[3]), run[2]).versus_champion
    assert versus is not None
    assert versus.problem is not None
    assert "version 7 reads weight, which the features no longer have" in versus.problem


def test_another_configuration_than_the_trainings_is_refused(run: Trained) -> None:
    other = TrainConfig.from_values({"split": {"holdout_days": 5}})
    with pytest.raises(TrainingError, match="Evaluate with the configuration that it was trained with"):
        evaluated((run[0], run[1], run[2], other))


def test_a_table_whose_features_are_not_what_their_expressions_give_is_refused(run: Trained, tmp_path: Path) -> None:
    """Training read one thing, serving would compute another."""
    skewed = read_set(run[1]).with_columns(hour=(pl.col("hour") + 12) % 24)
    made = store_set(SPEC, skewed, tmp_path)
    with pytest.raises(TrainingError, match=r"holdout rows get another answer from the bundle's features"):
        evaluated((SPEC, made, run[2], run[3]))


def test_a_corrupt_champion_is_an_error_and_not_beaten(run: Trained, tmp_path: Path) -> None:
    champion = trained(tmp_path)[2]
    path = Path(champion.bundle) / "model.txt"
    path.write_bytes(path.read_bytes().replace(b"tree", b"free", 1))
    with pytest.raises(BundleCorrupt, match=r"model\.txt"):
        evaluated(run, champion)


def test_what_a_run_asked_for_goes_with_the_evaluation(tmp_path: Path) -> None:
    run = trained(tmp_path, evaluation={"resamples": 50, "at_least": {"auc": 0.99}})
    verdict = judge(SPEC, evaluated(run))
    assert [item.name for item in verdict.criteria if not item.passed] == ["auc_floor"]


def test_the_manifest_is_json_without_a_gap(run: Trained) -> None:
    text = (Path(run[2].bundle) / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text)["training"]["rows"] == 2400
    assert "NaN" not in text


def test_what_the_steps_hand_on_is_of_one_training(run: Trained, shown: Evaluation, tmp_path: Path) -> None:
    _, made, candidate, _ = run
    check_one_work(made, candidate)
    check_one_work(made, candidate, shown)
    _, others_set, other, _ = trained(tmp_path, rows=parcels(30))
    with pytest.raises(TrainingError, match=f"was not trained on the training set {others_set.sha256[:12]}"):
        check_one_work(others_set, candidate, shown)
    with pytest.raises(TrainingError, match="is not the one that the evaluation is about"):
        check_one_work(others_set, other, shown)
