"""Performance expected of calibrated probabilities: what the labels that they stand for give, on average."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.monitoring.drift.expected import expected_cost
from pilotage.monitoring.estimated import ESTIMATED, estimate, estimate_records
from pilotage.spec import CostMatrix
from pilotage.training.metrics import all_metrics

COST = CostMatrix(true_positive=1, false_positive=2, true_negative=0, false_negative=5)
probabilities = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=12)


@settings(max_examples=25, deadline=None)
@given(probabilities)
def test_every_mean_is_exactly_that_over_all_labels_weighted_by_their_chance(told: list[float]) -> None:
    p = np.array(told[:6])
    found = estimate(p, COST, draws=20).metrics
    expected = dict.fromkeys(("log_loss", "brier", "expected_cost"), 0.0)
    for number in range(2 ** len(p)):
        labels = np.array([(number >> place) & 1 for place in range(len(p))], dtype=bool)
        chance = float(np.where(labels, p, 1 - p).prod())
        measured = all_metrics(labels, p, COST)
        for name in expected:
            expected[name] += chance * measured[name]
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-9)


@given(probabilities)
def test_the_expected_auc_is_expected_wins_over_expected_pairs(told: list[float]) -> None:
    p = np.array(told)
    wins = pairs = 0.0
    for one in range(len(p)):
        for other in range(len(p)):
            if one != other:
                chance = p[one] * (1 - p[other])
                pairs += chance
                wins += chance * (0.5 if p[one] == p[other] else float(p[one] > p[other]))
    assert estimate(p, COST, draws=5).metrics["auc"].value == pytest.approx(wins / pairs, rel=1e-9)


def test_where_probabilities_are_calibrated_the_range_holds_what_comes_true_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    inside = dict.fromkeys(ESTIMATED, 0)
    for trial in range(200):
        p = random.beta(1.2, 3, 300)
        expected = estimate(p, COST, draws=300, seed=trial).metrics
        realised = all_metrics(random.random(300) < p, p, COST)
        for name in ESTIMATED:
            inside[name] += expected[name].low <= realised[name] <= expected[name].high
    assert {name: hits >= 180 for name, hits in inside.items()} == dict.fromkeys(ESTIMATED, True)


def test_the_same_seed_gives_the_same_range() -> None:
    p = np.linspace(0.1, 0.9, 50)
    assert estimate(p, COST, seed=3) == estimate(p, COST, seed=3)
    assert estimate(p, COST, seed=3).metrics["brier"].low != estimate(p, COST, seed=4).metrics["brier"].low


def test_no_answer_gives_no_estimate_and_certain_ones_no_auc() -> None:
    assert estimate(np.array([]), COST).metrics == {}
    assert "auc" not in estimate(np.array([0.0, 0.0]), COST).metrics


def test_afterwards_it_is_told_how_far_off_each_estimate_was_and_what_a_naive_guess_would_have_been() -> None:
    days = pl.DataFrame(
        {
            "day": [date(2024, 1, 1) + timedelta(days=n) for n in range(4)],
            "metric": ["log_loss"] * 4,
            "value": [0.5, 0.6, None, 0.4],
            "estimated": [0.5, 0.5, 0.5, 0.45],
            "estimated_low": [0.4, 0.45, 0.4, 0.42],
            "estimated_high": [0.6, 0.55, 0.6, 0.48],
        }
    )
    [record] = estimate_records(days)
    assert (record.metric, record.days) == ("log_loss", 3)
    assert record.mean_error == pytest.approx((0 + 0.1 - 0.05) / 3)
    assert record.mean_absolute_error == pytest.approx(0.05)
    assert record.naive_absolute_error == pytest.approx((abs(0.6 - 0.5) + abs(0.4 - 0.55)) / 2)
    assert record.inside == pytest.approx(1 / 3)


def test_what_drift_expects_of_a_window_is_the_same_estimate_and_a_missing_probability_has_none() -> None:
    p = np.random.default_rng(3).beta(2, 5, 500)
    told = pl.DataFrame({"said": [*p, 0.0, 1.0, None]}).select(expected_cost("said", COST))
    assert told.row(-1) == (None,)
    expected = estimate([*p, 0.0, 1.0], COST).metrics
    assert told["expected_cost"].mean() == pytest.approx(expected["expected_cost"].value, rel=1e-12)
