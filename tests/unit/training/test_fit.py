"""One LightGBM fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from pilotage.errors import TrainingError
from pilotage.runtime.scorer import Calibrator, Scorer
from pilotage.training.cross_validation import raw_scores
from pilotage.training.fit import Fitted, fit, levels
from tests.unit.training.conftest import parcel_spec, parcels

SPEC = parcel_spec()
PARAMS = {"num_leaves": 7, "min_data_in_leaf": 5, "feature_fraction": 0.6, "learning_rate": 0.3}


def features(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select([feature.expr.alias(feature.name) for feature in SPEC.features])


def fitted(rows: pl.DataFrame | None = None, **changes: object) -> Fitted:
    rows = parcels(10) if rows is None else rows
    settings = {"params": PARAMS, "rounds": 8, "seed": 1, "threads": 1} | changes
    return fit(SPEC, features(rows), rows["late"].to_numpy(), **settings)


def test_the_same_rows_and_seed_give_the_same_bytes() -> None:
    assert fitted().text == fitted().text
    assert fitted().text != fitted(seed=2).text


def test_the_model_says_that_it_was_fitted_deterministically() -> None:
    # On one machine alone no other test can tell.
    parameters = fitted().text.partition("\nparameters:\n")[2].splitlines()
    assert {"[deterministic: 1]", "[force_row_wise: 1]"} <= set(parameters)


def test_the_number_of_threads_does_not_change_the_bytes() -> None:
    many = parcels(100, per_day=600)  # Enough rows that the second thread is used.
    assert fitted(many, threads=1, rounds=4).text == fitted(many, threads=2, rounds=4).text


def test_levels_are_sorted_and_those_of_the_training_rows() -> None:
    rows = parcels(10)
    assert levels(SPEC, features(rows)) == {"depot": ["east", "north", "south"]}
    assert levels(SPEC, features(rows.filter(pl.col("depot") != "east"))) == {"depot": ["north", "south"]}


def test_a_level_that_was_never_seen_is_answered_as_a_missing_one() -> None:
    model = fitted()
    rows = features(parcels(2)).with_columns(pl.lit("nowhere").alias("depot"))
    missing = rows.with_columns(pl.lit(None, pl.String).alias("depot"))
    unseen = raw_scores(SPEC, model, rows, threads=1)
    assert unseen.tolist() == raw_scores(SPEC, model, missing, threads=1).tolist()
    assert ((unseen > 0) & (unseen < 1)).all()


def test_it_learns_what_there_is_to_learn() -> None:
    gain = fitted(parcels(40), rounds=30).gain
    assert set(gain) == {"depot", "weight", "hour"}
    south, north = (
        raw_scores(SPEC, fitted(parcels(40), rounds=30), frame, threads=1)
        for frame in (pl.DataFrame({"depot": [depot], "weight": [3.0], "hour": [10]}) for depot in ("south", "north"))
    )
    assert south[0] > north[0] + 0.1


def test_nothing_to_learn_is_an_error_and_no_model() -> None:
    rows = parcels(3).with_columns(depot=pl.lit("north"), weight=pl.lit(1.0), sent_at=pl.col("sent_at").first())
    with pytest.raises(TrainingError, match="LightGBM learned nothing about parcel_late from 180 rows"):
        fitted(rows)


def test_what_lightgbm_refuses_is_said_in_its_own_words() -> None:
    with pytest.raises(TrainingError, match=r"LightGBM can't train parcel_late on 600 rows .*num_leaves"):
        fitted(params={"num_leaves": 1})


def test_early_stopping_keeps_the_best_rounds_and_no_more() -> None:
    rows, valid = parcels(10), parcels(6, seed=9)
    watched = (features(valid), valid["late"].to_numpy())
    stopped = fitted(rows, rounds=300, valid=watched, patience=3)
    assert 1 <= stopped.rounds < 100
    scorer = Scorer(stopped.text, Calibrator("none"), stopped.categories, [item.name for item in SPEC.features])
    again = fitted(rows, rounds=stopped.rounds)
    assert np.array_equal(scorer.raw(features(valid)), raw_scores(SPEC, again, features(valid), threads=1))


def test_a_long_fit_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, told: tuple[list[str], Callable[[str], None]]
) -> None:
    monkeypatch.setattr("pilotage.training.fit._QUIET_SECONDS", 0.0)
    heard, progress = told
    fitted(progress=progress)
    assert heard == [f"Round {number} of 8" for number in range(1, 9)]
