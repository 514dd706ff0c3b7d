"""The gate: every criterion, each with its evidence; a refusal gives every reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pilotage.spec import Gate
from pilotage.training.gate import judge
from pilotage.training.records import Comparison, Evaluation, Interval, Verdict
from tests.unit.training.conftest import parcel_spec

GATE = Gate(at_least={"auc": 0.65}, at_most={"calibration_error": 0.05}, max_latency_ms=20, max_bundle_mb=5)
SPEC = parcel_spec(gate=GATE)
GOOD = {"auc": 0.75, "log_loss": 0.40, "brier": 0.12, "calibration_error": 0.02, "expected_cost": 1.0}


def evaluation(**metrics: float) -> Evaluation:
    """A good candidate, but for the metrics given."""
    values = GOOD | metrics
    return Evaluation(
        model="parcel_late",
        rows=1000,
        positives=200,
        threshold=0.3,
        metrics={name: Interval(value=value, low=value - 0.1, high=value + 0.1) for name, value in values.items()},
        baselines={
            "constant": {"log_loss": 0.5, "auc": 0.5},
            "rule": {"log_loss": 0.48, "auc": 0.6},
            "last_value": {"log_loss": 0.45, "auc": 0.62},
        },
        slices=[],
        months=[],
        importance={},
        reliability=[],
        latency_ms=3.0,
        bundle_mb=1.0,
    )


def against(champion: dict[str, float], *, rows: int = 500, problem: str | None = None, **metrics: float) -> Evaluation:
    """The same, compared with a champion."""
    ours = GOOD | metrics
    comparison = Comparison(
        champion_version=4, rows=rows, candidate=ours, champion=GOOD | champion, difference={}, problem=problem
    )
    return replace(evaluation(**metrics), versus_champion=comparison)


def failed(verdict: Verdict) -> list[str]:
    return [item.name for item in verdict.criteria if not item.passed]


def test_a_good_candidate_passes_and_every_criterion_shows_its_evidence() -> None:
    verdict = judge(SPEC, evaluation())
    assert verdict.passed
    assert verdict.reasons == []
    assert [(item.name, item.measured, item.threshold) for item in verdict.criteria] == [
        ("auc_floor", 0.75, 0.65),
        ("calibration_error_ceiling", 0.02, 0.05),
        ("beats_constant", 0.40, 0.5),
        ("beats_rule", 0.40, 0.48),
        ("beats_last_value", 0.40, 0.45),
        ("latency", 3.0, 20.0),
        ("bundle_size", 1.0, 5.0),
    ]


@pytest.mark.parametrize(
    ("changed", "name", "message"),
    [
        (evaluation(auc=0.6), "auc_floor", "AUC 0.6000 is below the floor of 0.65."),
        (
            evaluation(calibration_error=0.08),
            "calibration_error_ceiling",
            "Calibration error 0.0800 is above the ceiling of 0.05.",
        ),
        (
            evaluation(log_loss=0.45),
            "beats_last_value",
            "Log loss 0.4500 does not beat the baseline last_value (0.4500).",
        ),
        (replace(evaluation(), latency_ms=30.0), "latency", "One prediction takes 30 ms, over the budget of 20 ms."),
        (replace(evaluation(), bundle_mb=6.0), "bundle_size", "The bundle has 6 MB, over the budget of 5 MB."),
    ],
)
def test_each_criterion_refuses_alone_and_says_why(changed: Evaluation, name: str, message: str) -> None:
    verdict = judge(SPEC, changed)
    assert not verdict.passed
    assert failed(verdict) == [name]
    assert verdict.reasons == [message]


def test_a_refusal_gives_every_reason() -> None:
    bad = replace(against({}, auc=0.5, log_loss=0.6, brier=0.3, calibration_error=0.2), latency_ms=99.0)
    assert failed(judge(SPEC, bad)) == [
        "auc_floor",
        "calibration_error_ceiling",
        "beats_constant",
        "beats_rule",
        "beats_last_value",
        "not_worse_log_loss",
        "not_worse_brier",
        "not_worse_auc",
        "latency",
    ]


def test_better_ranking_does_not_make_up_for_a_worse_brier_score() -> None:
    verdict = judge(SPEC, against({"auc": 0.70, "brier": 0.115}))
    assert failed(verdict) == ["not_worse_brier"]
    assert verdict.reasons == ["Brier score 0.1200 is worse than version 4 (0.1150) on 500 fresh rows."]


def test_as_good_as_the_champion_is_good_enough() -> None:
    verdict = judge(SPEC, against({}))
    assert verdict.passed
    assert "500 rows are new to the candidate and to version 4." in [item.message for item in verdict.criteria]


def test_the_margin_is_a_share_of_the_champions_value_in_each_metrics_own_direction() -> None:
    spec = parcel_spec(gate=Gate(margin=0.05))
    champion = {"auc": 0.80, "log_loss": 0.40, "brier": 0.12}
    assert judge(spec, against(champion, auc=0.761, log_loss=0.419, brier=0.125)).passed
    assert failed(judge(spec, against(champion, auc=0.759))) == ["not_worse_auc"]
    assert failed(judge(spec, against(champion, auc=0.80, log_loss=0.421))) == ["not_worse_log_loss"]


@pytest.mark.parametrize("rows", [0, 199])
def test_without_enough_fresh_rows_nobody_is_called_better(rows: int) -> None:
    verdict = judge(SPEC, against({"auc": 0.5, "brier": 0.9, "log_loss": 0.9}, rows=rows))
    assert failed(verdict) == ["fresh_holdout"]
    assert verdict.reasons == [f"No fresh holdout to compare with the champion on: {rows} rows are new to version 4."]


def test_a_champion_that_can_not_be_compared_is_a_reason_in_its_own_words() -> None:
    verdict = judge(SPEC, against({}, problem="version 4 reads wind, which the features no longer have"))
    assert verdict.reasons == [
        "No fresh holdout to compare with the champion on: version 4 reads wind, which the features no longer have."
    ]


def test_a_metric_that_was_not_measured_fails_its_criterion() -> None:
    shown = evaluation()
    without = replace(shown, metrics={name: value for name, value in shown.metrics.items() if name != "auc"})
    assert failed(judge(SPEC, without)) == ["auc_floor"]
    assert judge(SPEC, without).reasons == ["AUC (not measured) is below the floor of 0.65."]


@pytest.mark.parametrize("metric", ["auc", "calibration_error", "log_loss"])
def test_what_is_not_a_number_never_passes(metric: str) -> None:
    assert not judge(SPEC, evaluation(**{metric: float("nan")})).passed
    assert not judge(SPEC, against({}, **{metric: float("nan")})).passed
    if metric != "calibration_error":
        assert not judge(SPEC, against({metric: float("nan")})).passed


def test_what_a_run_asked_for_beyond_the_spec_counts_too() -> None:
    asked = replace(evaluation(), at_least={"auc": 0.8}, at_most={"brier": 0.1})
    verdict = judge(SPEC, asked)
    assert failed(verdict) == ["auc_floor", "brier_ceiling"]
    assert {item.name: item.threshold for item in verdict.criteria}["auc_floor"] == 0.8


def test_what_a_run_asked_for_never_lowers_the_specs_floor() -> None:
    asked = replace(evaluation(auc=0.6, calibration_error=0.2), at_least={"auc": 0.1}, at_most={"calibration_error": 1})
    assert failed(judge(SPEC, asked)) == ["auc_floor", "calibration_error_ceiling"]
