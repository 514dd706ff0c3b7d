"""Groups of people at the gate: what a model did not read may still be what it decides by, and then it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import UnpublishedData
from pilotage.spec import Fairness, ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.evaluate import evaluate
from pilotage.training.fairness import groups_of
from pilotage.training.gate import judge
from pilotage.training.records import Candidate, Criterion, Evaluation, Interval, TrainingSet
from pilotage.training.train import train
from tests.unit.training.conftest import as_training_set, parcel_spec, parcels, publish, untimed_spec

CONFIG = TrainConfig.from_values({"evaluation": {"resamples": 100}})
RULES: dict[str, Any] = {"protected": ("district",), "fairness": Fairness(max_difference=0.1, min_group=30)}
Trained = tuple[TrainingSet, Candidate]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("made")
    rows = as_training_set(parcel_spec(**RULES), parcels(40), folder)
    return rows, train(parcel_spec(**RULES), rows, config=CONFIG, directory=folder, threads=1)


def groups(**district: Any) -> pl.DataFrame:
    """Where the sender of each parcel lives."""
    return parcels(40).select("parcel_id", **district)


OF_THE_DEPOT = groups(district=pl.when(pl.col("depot") == "south").then(pl.lit("poor")).otherwise(pl.lit("rich")))
"""The model reads the depot, and may not read the district; it is the same thing."""
BY_CHANCE = groups(district=pl.when(pl.col("parcel_id").hash(1) % 2 == 0).then(pl.lit("a")).otherwise(pl.lit("b")))


def evaluated(made: Trained, known: pl.DataFrame | None, spec: ModelSpec | None = None) -> Evaluation:
    return evaluate(
        spec or parcel_spec(**RULES),
        *made,
        champion_bundle=None,
        champion_version=None,
        config=CONFIG,
        directory=Path(made[0].path).parent,
        groups=known,
    )


def asked(evaluation: Evaluation, spec: ModelSpec | None = None) -> Criterion:
    verdict = judge(spec or parcel_spec(**RULES), evaluation)
    [criterion] = [each for each in verdict.criteria if each.name == "alike_district"]
    assert verdict.passed == criterion.passed
    return criterion


def test_a_model_that_decides_by_a_group_through_another_column_is_refused(made: Trained) -> None:
    evaluation = evaluated(made, OF_THE_DEPOT)
    criterion = asked(evaluation)
    assert not criterion.passed
    assert criterion.message.startswith(
        "Groups differ by more than is allowed: false positive rate by district: poor has "
    )
    assert criterion.message.endswith("; 10 is the limit).")
    assert criterion.measured is not None
    assert criterion.measured > 0.1
    assert evaluation.fairness is not None
    assert (evaluation.fairness.answers, evaluation.fairness.without_group) == (evaluation.rows, 0)


def test_groups_that_differ_by_chance_pass(made: Trained) -> None:
    criterion = asked(evaluated(made, BY_CHANCE))
    assert criterion.passed
    assert criterion.message.startswith("Groups do not differ beyond doubt by more than is allowed: ")


def test_the_limit_is_the_models_own(made: Trained) -> None:
    wide = parcel_spec(protected=("district",), fairness=Fairness(max_difference=0.9, min_group=30))
    assert asked(evaluated(made, OF_THE_DEPOT, wide), wide).passed


def test_groups_that_are_too_small_are_not_judged_and_that_is_told(made: Trained) -> None:
    few = groups(district=pl.when(pl.col("parcel_id") % 300 == 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    criterion = asked(evaluated(made, few))
    assert (criterion.passed, criterion.measured) == (True, None)
    assert criterion.message == "No two groups by district have 30 rows, so they can't be compared."


def test_what_was_not_measured_does_not_pass(made: Trained) -> None:
    for known in (None, OF_THE_DEPOT.with_columns(pl.col("parcel_id") + 1_000_000)):
        criterion = asked(evaluated(made, known))
        assert (criterion.passed, criterion.measured) == (False, None)
        assert "validated/parcels names the group of nobody in the holdout" in criterion.message


def test_a_column_that_knows_nobody_does_not_hide_behind_another(made: Trained) -> None:
    spec = parcel_spec(protected=("district", "language"), fairness=RULES["fairness"])
    known = BY_CHANCE.with_columns(language=pl.lit(None, dtype=pl.String()))
    verdict = judge(spec, evaluated(made, known, spec))
    assert [each.name for each in verdict.criteria if not each.passed] == ["alike_language"]


def test_rates_that_could_not_be_compared_are_named(made: Trained) -> None:
    spec = parcel_spec(protected=("district",), fairness=Fairness(max_difference=0.9, min_group=150))
    evaluation = evaluated(made, BY_CHANCE, spec)
    assert evaluation.fairness is not None
    compared = {gap.rate for gap in evaluation.fairness.differences}
    assert "true_positive_rate" not in compared
    assert "selection_rate" in compared
    told = asked(evaluation, spec).message.partition("Not compared, as no two groups have 150 rows: ")[2]
    assert "true positive rate" in told
    assert "selection rate" not in told


def test_who_is_referred_to_a_person_is_counted(made: Trained) -> None:
    spec = parcel_spec(**RULES, serving={"refer_between": (0.0, 1.0)})
    report = evaluated(made, BY_CHANCE, spec).fairness
    assert report is not None
    referred = {each.group: each.value.value for each in report.rates if each.rate == "referral_rate" and each.value}
    assert referred == {"a": 1.0, "b": 1.0}


def test_a_model_without_protected_columns_is_not_asked(made: Trained) -> None:
    evaluation = evaluated(made, None, parcel_spec())
    assert evaluation.fairness is None
    assert not [each for each in judge(parcel_spec(), evaluation).criteria if "alike" in each.name]


def test_it_is_read_back_from_its_record_as_it_was(made: Trained) -> None:
    evaluation = evaluated(made, OF_THE_DEPOT)
    assert msgspec.json.decode(msgspec.json.encode(evaluation), type=Evaluation) == evaluation


def test_groups_are_read_by_entity_where_they_are(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    spec = parcel_spec(**RULES)
    rows = parcels(10).with_columns(district=pl.lit("a"))
    publish(lake, spec, rows)
    assert groups_of(parcel_spec(), lake) is None
    found = groups_of(spec, lake)
    assert found is not None
    assert found.sort("parcel_id").equals(rows.select("parcel_id", "district"))
    with pytest.raises(UnpublishedData, match="has no column race, by which parcel_late has to treat groups alike"):
        groups_of(parcel_spec(protected=("race",)), lake)


def test_data_without_a_time_is_compared_too(tmp_path: Path) -> None:
    spec = untimed_spec(**RULES)
    rows = as_training_set(spec, parcels(40), tmp_path)
    trained = rows, train(spec, rows, config=CONFIG, directory=tmp_path, threads=1)
    report = evaluated(trained, OF_THE_DEPOT, spec).fairness
    assert report is not None
    assert np.isfinite([gap.value.low for gap in report.differences]).all()
    assert report.unfair


def test_an_interval_without_ends_is_read_back_from_its_record() -> None:
    told = Interval(value=0.5, low=-np.inf, high=np.inf)
    assert msgspec.json.encode(told) == b'{"value":0.5,"low":null,"high":null}'
    assert msgspec.json.decode(msgspec.json.encode(told), type=Interval) == told
