"""Policies of what to learn from: which rows, how heavy, and one candidate chosen on rows that will not judge it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pilotage.errors import ConfigError, TrainingError
from pilotage.spec import Gate
from pilotage.training.candidates import train_candidates
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.evaluate import evaluate
from pilotage.training.gate import judge
from pilotage.training.label_check import label_jumps
from pilotage.training.learning_data import judged_from, narrowed, weights
from pilotage.training.records import Candidate, Comparison, TrainingSet
from pilotage.training.split import split
from pilotage.training.train import train
from tests.unit.training.conftest import as_training_set, parcel_spec, parcels, untimed_spec

SPEC = parcel_spec()
LAST = date(2024, 4, 9)


def changed_parcels() -> pl.DataFrame:
    """From 20 March on, it is the other depot that is late."""
    swapped = pl.col("depot").replace({"north": "south", "south": "north"})
    after = pl.col("sent_at") >= datetime(2024, 3, 20, tzinfo=UTC)
    return parcels().with_columns(depot=pl.when(after).then(swapped).otherwise("depot"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return as_training_set(SPEC, parcels(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return as_training_set(SPEC, changed_parcels(), tmp_path_factory.mktemp("changed"))


def config(**values: Any) -> TrainConfig:
    return TrainConfig.from_values({"split": {"folds": 0}, "evaluation": {"resamples": 50}, **values})


VARIANTS = config(
    variants=[
        {"name": "expanding"},
        {"name": "too young", "learn_from": "2024-04-01"},
        {"name": "since the change", "learn_from": "2024-03-20"},
    ]
)


@pytest.fixture(scope="module")
def chosen(changed: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    folder = tmp_path_factory.mktemp("chosen")
    return train_candidates(SPEC, changed, config=VARIANTS, directory=folder, threads=1)


def test_only_rows_that_train_are_narrowed(plain: TrainingSet) -> None:
    frame = read_set(plain)
    whole = split(SPEC, frame, SPEC.split)
    for data in ({"learn_from": "2024-03-15"}, {"window_days": 26}):
        parts = narrowed(SPEC, frame, whole, config(data=data).data)
        assert frame["event_time"].gather(parts.rows["train"]).min() >= datetime(2024, 3, 15, tzinfo=UTC)
        assert parts.begins["train"] == datetime(2024, 3, 15, tzinfo=UTC)
        for part in ("calibration", "holdout"):
            assert np.array_equal(parts.rows[part], whole.rows[part])
    assert narrowed(SPEC, frame, whole, config().data) is whole
    with pytest.raises(TrainingError, match="No row of parcel_late to train on is from 2024-04-05 or later"):
        narrowed(SPEC, frame, whole, config(data={"learn_from": "2024-04-05"}).data)


def test_a_row_counts_half_for_every_half_life(plain: TrainingSet) -> None:
    frame = read_set(plain)
    counted = weights(SPEC, frame, config(data={"half_life_days": 10}).data)
    assert counted is not None
    newest = frame["event_time"].max()
    age = frame.select((pl.lit(newest) - pl.col("event_time")).dt.total_seconds() / 86400).to_series().to_numpy()
    assert counted == pytest.approx(0.5 ** (age / 10))
    assert counted.max() == 1
    assert weights(SPEC, frame, config().data) is None


def test_young_rows_that_weigh_more_pull_the_model_towards_the_new_world(changed: TrainingSet, tmp_path: Path) -> None:
    def gap(name: str, **data: Any) -> float:
        made = train(SPEC, changed, config=config(data=data), directory=tmp_path / name, threads=1)
        from pilotage.runtime.bundle import read_bundle

        rows = read_set(changed).filter(pl.col("depot").is_in(["north", "south"]))
        scored = rows.with_columns(pl.Series("p", read_bundle(Path(made.bundle)).score(rows)))
        means = dict(scored.group_by("depot").agg(pl.col("p").mean()).iter_rows())
        return float(means["north"] - means["south"])

    assert gap("light", half_life_days=2) > gap("heavy") + 0.05


def test_the_best_on_the_older_part_of_the_holdout_is_taken_and_the_rest_are_told(chosen: Candidate) -> None:
    assert chosen.policy == "since the change"
    assert [(each.policy, each.chosen) for each in chosen.tried] == [
        ("expanding", False),
        ("too young", False),
        ("since the change", True),
    ]
    old, young, new = chosen.tried
    assert young.problem is not None
    assert (young.rows, young.value) == (0, None)
    assert old.value is not None
    assert new.value is not None
    assert new.value < old.value
    assert 0 < new.rows < old.rows


def test_what_chose_does_not_judge(chosen: Candidate, changed: TrainingSet, tmp_path: Path) -> None:
    # Eight days of holdout; three choose.
    assert chosen.judged_from == datetime(2024, 4, 5, tzinfo=UTC)
    result = evaluate(
        SPEC, changed, chosen, champion_bundle=None, champion_version=None, config=VARIANTS, directory=tmp_path
    )
    judged = read_set(changed).filter(pl.col("event_time") >= chosen.judged_from)
    assert (result.rows, result.positives) == (judged.height, judged["label"].sum())


def test_one_variant_that_can_be_trained_needs_no_choice_and_none_raises_the_first_reason(
    changed: TrainingSet, tmp_path: Path
) -> None:
    young = [{"name": f"young {day}", "learn_from": f"2024-04-0{day}"} for day in (1, 2)]
    alone = config(variants=[*young, {"name": "expanding"}])
    made = train_candidates(SPEC, changed, config=alone, directory=tmp_path / "a", threads=1)
    assert (made.policy, made.judged_from) == ("expanding", None)
    with pytest.raises(TrainingError, match="2024-04-01 or later"):
        train_candidates(SPEC, changed, config=config(variants=young), directory=tmp_path / "b", threads=1)


def test_variants_have_names_of_their_own_and_need_a_time() -> None:
    twice = config(variants=[{"name": "a"}, {"name": "a"}])
    with pytest.raises(ConfigError, match="Two variants have one name"):
        twice.check(SPEC)
    with pytest.raises(ConfigError, match="no event time, so variants means nothing"):
        VARIANTS.check(untimed_spec())
    with pytest.raises(ConfigError, match=r"data\.half_life_days means nothing"):
        config(data={"half_life_days": 3}).check(untimed_spec())


def test_a_holdout_of_one_day_can_not_both_choose_and_judge(plain: TrainingSet) -> None:
    rows = read_set(plain).filter(pl.col("event_time").dt.date() == LAST)
    with pytest.raises(TrainingError, match="can't both choose and judge"):
        judged_from(SPEC, rows, 0.4)


def test_a_retrained_candidate_must_be_better_and_one_by_hand_need_not(plain: TrainingSet, tmp_path: Path) -> None:
    first = train(SPEC, plain, config=config(), directory=tmp_path / "1", threads=1)
    spec = SPEC.model_copy(update={"gate": Gate(at_least={"auc": 0.5}, min_fresh_rows=100)})

    def judged(better_by: float) -> Any:
        asked = config(evaluation={"resamples": 50, "better_by": better_by})
        result = evaluate(
            spec, plain, first, champion_bundle=Path(first.bundle), champion_version=1, config=asked, directory=tmp_path
        )
        # Twins: in every resample a tie.
        assert result.versus_champion is not None
        assert result.versus_champion.better["log_loss"] == 0.5
        return judge(spec, result), result

    by_hand, _ = judged(0)
    assert "helps" not in {each.name for each in by_hand.criteria}
    verdict, result = judged(0.8)
    [helps] = [each for each in verdict.criteria if each.name == "helps"]
    assert not verdict.passed
    assert helps.message == "Log loss better than version 1: 50% sure by resampled days, 80% is asked."
    better = replace(result.versus_champion, better={"log_loss": 0.9})
    assert isinstance(better, Comparison)
    assert judge(spec, replace(result, versus_champion=better)).passed


def test_a_rate_that_jumps_is_found_and_a_storm_is_not() -> None:
    random = np.random.default_rng(3)
    usual = [0.2 + 0.1 * float(random.random()) for _ in range(40)]

    def jumps(rates: list[float], accepted: date | None = None) -> list[date]:
        noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
        frame = pl.DataFrame(
            {
                "event_time": [noon + timedelta(days=day) for day in range(len(rates)) for _ in range(200)],
                "label": [number < rate * 200 for rate in rates for number in range(200)],
            },
            schema_overrides={"event_time": pl.Datetime("us", "UTC")},
        )  # fmt: skip
        return [jump.day for jump in label_jumps(SPEC, frame, accepted=accepted)]

    assert jumps([*usual, 0.97, 0.97, 0.25]) == [date(2024, 2, 10), date(2024, 2, 11)]
    assert jumps([*usual, 0.0]) == [date(2024, 2, 10)]
    assert jumps([*usual, 0.75, 0.05]) == []
    assert jumps([0.97]) == []
    # What the champion learned from is no jump, and nor is what is like it.
    assert jumps([*usual, 0.97, 0.97, 0.97], accepted=date(2024, 2, 10)) == []
    assert label_jumps(untimed_spec(), pl.DataFrame({"label": [True]})) == []
