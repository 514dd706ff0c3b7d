"""The metrics, held against their definitions and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from pilotage.errors import TrainingError
from pilotage.spec import CostMatrix
from pilotage.training import metrics
from pilotage.training.metrics import Resamples, all_metrics, differences, reliability, with_intervals, worse_by

COST = CostMatrix(true_positive=1, false_positive=1, true_negative=0, false_negative=3)  # Acts from 1/3 on.


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Truth of both classes, and predictions with many ties."""
    rows = draw(st.integers(2, 60))
    labels = np.array([True, False, *draw(st.lists(st.booleans(), min_size=rows - 2, max_size=rows - 2))])
    grid = st.integers(1, 19).map(lambda number: number / 20)
    return labels, np.array(draw(st.lists(grid, min_size=rows, max_size=rows)))


@settings(max_examples=150, deadline=None)
@given(answers())
def test_they_agree_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = case
    measured = all_metrics(labels, predicted, COST)
    assert measured["auc"] == pytest.approx(roc_auc_score(labels, predicted), abs=1e-12)
    assert measured["log_loss"] == pytest.approx(log_loss(labels, predicted), abs=1e-12)
    assert measured["brier"] == pytest.approx(brier_score_loss(labels, predicted), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(answers(), st.integers(0, 10**6))
def test_a_resample_measures_what_the_rows_repeated_would(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    labels, predicted = case
    resamples = Resamples.draw(None, len(labels), count=50, seed=seed)
    # All of it: anything less interpolates between the two lowest, which may be far apart.
    drawn = with_intervals(labels, predicted, COST, resamples, confidence=1.0)
    each = []
    for weights in resamples.weights.astype(int):
        rows = np.repeat(np.arange(len(labels)), weights)
        each.append(all_metrics(labels[rows], predicted[rows], COST))
    for name in ("log_loss", "brier", "expected_cost"):
        # The interval holds its own value, also where that lies beside all that was drawn.
        values = [*(found[name] for found in each), drawn[name].value]
        assert drawn[name].low == pytest.approx(min(values), abs=1e-3)
        assert drawn[name].high == pytest.approx(max(values), abs=1e-2)
    aucs = [found["auc"] for found in each if "auc" in found]
    if len(aucs) == 50:
        assert drawn["auc"].low == pytest.approx(min(*aucs, drawn["auc"].value), abs=1e-9)
        assert drawn["auc"].high == pytest.approx(max(*aucs, drawn["auc"].value), abs=1e-9)


def test_calibration_error_is_the_gap_by_bins_of_equal_mass() -> None:
    predicted = np.repeat(np.arange(10) / 10 + 0.05, 100)
    labels = np.concatenate([np.arange(100) < 10 * number + 5 for number in range(10)])
    assert all_metrics(labels, predicted, COST)["calibration_error"] == pytest.approx(0.0, abs=1e-12)
    worse = np.clip(predicted + 0.1, 0, 1)
    assert all_metrics(labels, worse, COST)["calibration_error"] == pytest.approx(0.0995, abs=0.01)


def test_equal_predictions_share_a_bin_whatever_their_order() -> None:
    labels = np.arange(1000) < 200  # All positives first: bins by position would see rates of 1 and 0.
    measured = all_metrics(labels, np.full(1000, 0.3), COST)
    assert measured["calibration_error"] == pytest.approx(0.1, abs=1e-12)
    assert measured["auc"] == 0.5


def test_expected_cost_acts_from_the_threshold_on() -> None:
    labels = np.array([True, True, False, False])
    predicted = np.array([COST.threshold, 0.2, 0.9, 0.1])
    assert all_metrics(labels, predicted, COST)["expected_cost"] == (1 + 3 + 1 + 0) / 4


def test_rows_of_one_class_have_no_auc_and_every_other_metric() -> None:
    measured = all_metrics(np.zeros(50, dtype=bool), np.linspace(0, 1, 50), COST)
    assert set(measured) == {"log_loss", "brier", "calibration_error", "expected_cost"}


def test_a_certain_miss_costs_much_but_not_infinitely() -> None:
    assert 30 < all_metrics(np.array([True, False]), np.array([0.0, 0.0]), COST)["log_loss"] * 2 < 40


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(TrainingError, match="1 predictions are no probabilities"):
        all_metrics(np.array([True, False]), np.array([0.5, bad]), COST)


def test_no_rows_are_no_metrics() -> None:
    with pytest.raises(TrainingError, match="no row to measure"):
        all_metrics(np.array([], dtype=bool), np.array([]), COST)


def test_days_that_share_their_weather_give_wider_intervals_than_their_rows() -> None:
    random = np.random.default_rng(3)
    days = np.repeat(np.arange(20), 200)
    labels = random.random(4000) < np.repeat(random.uniform(0.05, 0.6, 20), 200)
    predicted = np.full(4000, labels.mean())
    by_day = with_intervals(labels, predicted, COST, Resamples.draw(days, 4000, count=300, seed=1), confidence=0.95)[
        "log_loss"
    ]
    by_row = with_intervals(labels, predicted, COST, Resamples.draw(None, 4000, count=300, seed=1), confidence=0.95)[
        "log_loss"
    ]
    assert by_day.high - by_day.low > 4 * (by_row.high - by_row.low)
    assert by_day.low < by_day.value < by_day.high


def test_many_rows_drawn_in_groups_give_the_interval_of_single_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    predicted = random.random(4000)
    labels = random.random(4000) < predicted

    def widths() -> dict[str, float]:
        resamples = Resamples.draw(None, 4000, count=1000, seed=1)
        drawn = with_intervals(labels, predicted, COST, resamples, confidence=0.9)
        return {name: value.high - value.low for name, value in drawn.items()}

    monkeypatch.setattr("pilotage.training.metrics._GROUPS", 10_000)
    single = widths()
    monkeypatch.setattr("pilotage.training.metrics._GROUPS", 500)
    assert widths() == pytest.approx(single, rel=0.15)


def test_an_interval_holds_its_value_also_where_resampling_is_biased() -> None:
    predicted = np.repeat(np.arange(10) / 10 + 0.05, 100)
    labels = np.concatenate([np.arange(100) < 10 * number + 5 for number in range(10)])  # Calibrated to the row.
    drawn = with_intervals(labels, predicted, COST, Resamples.draw(None, 1000, count=100, seed=0), confidence=0.9)
    error = drawn["calibration_error"]
    assert error.low == error.value < 0.001 < error.high


def test_the_same_seed_gives_the_same_interval() -> None:
    labels, predicted = np.arange(100) % 3 == 0, np.linspace(0.01, 0.99, 100)

    def once(seed: int) -> dict[str, object]:
        return with_intervals(labels, predicted, COST, Resamples.draw(None, 100, count=100, seed=seed), confidence=0.95)

    assert once(4) == once(4)
    assert once(4) != once(5)


def test_a_model_does_not_differ_from_itself() -> None:
    labels, predicted = np.arange(200) % 4 == 0, np.linspace(0.01, 0.99, 200)
    gaps = differences(labels, predicted, predicted, COST, Resamples.draw(None, 200, count=60, seed=0), confidence=0.9)
    assert {(gap.value, gap.low, gap.high) for gap in gaps.values()} == {(0.0, 0.0, 0.0)}


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    random = np.random.default_rng(5)
    days = np.repeat(np.arange(15), 100)
    labels = random.random(1500) < np.repeat(random.uniform(0.1, 0.7, 15), 100)
    good = np.clip(np.where(labels, 0.45, 0.3) + random.normal(0, 0.1, 1500), 0.01, 0.99)
    worse = np.clip(good + 0.08, 0.01, 0.99)
    resamples = Resamples.draw(days, 1500, count=200, seed=0)
    gap = differences(labels, good, worse, COST, resamples, confidence=0.95)["brier"]
    alone = with_intervals(labels, good, COST, resamples, confidence=0.95)["brier"]
    assert gap.high - gap.low < alone.high - alone.low


def test_few_rows_are_told_without_an_interval_rather_than_with_a_wrong_one() -> None:
    labels = np.array([True, *[False] * 30])
    resamples = Resamples(np.eye(31)[1:], np.arange(31))  # No resample draws the one positive.
    auc = with_intervals(labels, np.linspace(0, 1, 31), COST, resamples, confidence=0.95)["auc"]
    assert (auc.value, auc.low, auc.high) == (0.0, -np.inf, np.inf)


def test_one_group_of_rows_can_not_be_resampled() -> None:
    with pytest.raises(TrainingError, match="100 rows in 1 independent group"):
        Resamples.draw(np.zeros(100), 100, count=50, seed=0)


def test_the_reliability_curve_has_every_row_once() -> None:
    labels, predicted = np.arange(997) % 3 == 0, np.linspace(0.01, 0.99, 997)
    bins = reliability(labels, predicted, Resamples.draw(None, 997, count=100, seed=0), confidence=0.95)
    assert len(bins) == 10
    assert sum(part["rows"] for part in bins) == 997
    for part in bins:
        assert part["low"] <= part["observed"] <= part["high"]


def test_worse_means_lower_for_auc_and_higher_for_the_rest() -> None:
    assert worse_by("auc", 0.7, 0.8) == pytest.approx(0.1)
    assert worse_by("brier", 0.7, 0.8) == pytest.approx(-0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(20, 200), st.integers(1, 30), st.integers(0, 10**6))
def test_auc_resampled_by_few_clusters_is_bit_by_bit_that_of_the_rows(
    clusters: int, rows: int, distinct: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    labels = random.random(rows) < 0.4
    predicted = random.integers(0, distinct + 1, rows) / (distinct + 1)
    member = random.integers(0, clusters, rows)
    member[:2] = (0, 1)
    resamples = Resamples.draw(member, rows, count=30, seed=seed)
    order = np.argsort(predicted, kind="stable")
    truth, scores = labels[order].astype(float), predicted[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    by_rows = metrics._ranked(truth, resamples.weights[:, resamples.member[order]], starts)
    by_clusters = metrics._ranked_blocks(truth, resamples.member[order], starts, resamples.weights)
    assert np.array_equal(by_rows, by_clusters, equal_nan=True)
