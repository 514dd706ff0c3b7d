"""What a logged answer counts for, and against whom."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.policy import Guardrail, GuardrailMetric, Rollout
from pilotage.release.evidence import Stage, drawn, observations
from pilotage.release.guardrails import games_of, judge, payload, split
from pilotage.release.losses import METRICS, loss, span
from pilotage.release.sequential import Randomised
from pilotage.settings import PROJECT
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import tiny_spec
from tests.unit.release.evidences import (
    SHADOW,
    START,
    STEP,
    canary,
    evidence,
    failed,
    frame,
    row,
    shadow_row,
    traffic,
)

SPEC = tiny_spec()
COST = SPEC.kpi.cost


def one(metric: GuardrailMetric, tolerance: float = 0.01, **rollout: Any) -> ModelSpec:
    """A spec with one guardrail."""
    guardrail = Guardrail(metric=metric, tolerance=tolerance, limit_ms=10)
    return tiny_spec(rollout=Rollout(guardrails=(guardrail,), **rollout))


def lost(metric: GuardrailMetric, given_row: dict[str, Any]) -> float | None:
    value: float | None = frame([given_row]).select(loss(metric, cost=COST, limit_ms=10)).item()
    return value


# Losses


@pytest.mark.parametrize(
    ("metric", "given_row", "expected"),
    [
        ("errors", row(), 0),
        ("errors", canary(), 0),
        ("errors", failed(), 1),
        ("errors", canary(version=None, answered_by="rule"), 1),
        ("slow_answers", row(latency_us=10_000), 0),
        ("slow_answers", row(latency_us=10_001), 1),
        ("abstentions", row(referred=True), 1),
        ("fallbacks", row(), 0),
        ("fallbacks", row(version=None, answered_by="cached_answer"), 1),
        ("fallbacks", failed(), 1),
        ("probability", row(probability=0.7), 0.7),
        ("probability", row(probability=None, answered_by="nothing"), None),
        ("certainty", row(probability=0.7), 0.16),
        ("certainty", row(probability=0.5), 0),
        ("brier", row(probability=0.7, label=True), 0.09),
        ("brier", row(probability=0.7), None),
        ("log_loss", row(probability=0.5, label=False), math.log(2) / 5),
        ("log_loss", row(probability=0.0, label=True), 1),
        ("log_loss", row(probability=1.0, label=True), 0),
        ("cost", row(decision=True, label=True), 1 / 5),
        ("cost", row(decision=True, label=False), 2 / 5),
        ("cost", row(decision=False, label=False), 0),
        ("cost", row(decision=False, label=True), 1),
        ("cost", row(decision=None, referred=True, probability=0.9, label=True), 1 / 5),
        ("cost", row(decision=None, referred=True, probability=0.01, label=True), 1),
        ("cost", row(decision=True), None),
    ],
)
def test_every_answer_has_the_loss_that_its_metric_says(
    metric: GuardrailMetric, given_row: dict[str, Any], expected: float | None
) -> None:
    assert lost(metric, given_row) == (None if expected is None else pytest.approx(expected))


def test_every_metric_is_described_and_in_the_how_to_with_whether_a_shadow_is_held_to_it() -> None:
    assert set(METRICS) == set(get_args(GuardrailMetric)), "describe it in release/losses.py"
    page = (PROJECT / "docs" / "how-to" / "roll-out-a-version.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| metric \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [line.split(" | ") for line in table.splitlines()[1:]]
    told = {name: cells[-1].startswith("yes") for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}
    assert told == {name: metric.of_shadows for name, metric in METRICS.items()}, "of docs/how-to/roll-out-a-version.md"


def test_a_cost_is_told_on_the_span_of_its_matrix() -> None:
    assert span(COST) == 5


@given(st.floats(0, 1), st.booleans(), st.booleans(), st.sampled_from(sorted(METRICS)))
def test_a_loss_is_always_within_bounds(
    probability: float, decision: bool, label: bool, metric: GuardrailMetric
) -> None:
    value = lost(metric, row(probability=probability, decision=decision, label=label))
    assert value is not None and 0 <= value <= 1


# Whose answer it is


def test_where_the_canary_failed_and_the_champion_answered_the_error_is_the_canarys() -> None:
    rows = [canary(1), failed(2), row(3), row(4)]
    (verdict,) = judge(one("errors"), evidence(rows))
    assert (verdict.challenger, verdict.champion) == (2, 2)
    assert (verdict.challenger_mean, verdict.champion_mean) == (0.5, 0.0)


def test_only_requests_that_were_drawn_are_compared() -> None:
    outside = [row(n, drawn_by=None, referred=True) for n in range(10, 20)]
    another_step = [row(n, drawn_by=STEP.sequence + 1, referred=True) for n in range(20, 30)]
    killed = [row(n, routed_version=None, version=None, answered_by="rule") for n in range(30, 40)]
    (verdict,) = judge(one("abstentions"), evidence([canary(1), row(2), *outside, *another_step, *killed]))
    assert (verdict.challenger, verdict.champion, verdict.champion_mean) == (1, 1, 0.0)


def test_one_entity_is_one_observation_its_first() -> None:
    again = [canary(n, entity='{"id":1}', referred=True) for n in range(50, 90)]
    (verdict,) = judge(one("abstentions"), evidence([*again, canary(1, referred=False), row(2)]))
    assert (verdict.challenger, verdict.challenger_mean) == (1, 0.0)


def test_requests_without_an_entity_are_told_apart_by_their_predictions() -> None:
    rows = [canary(n, entity="{}") for n in range(5)]
    assert drawn(evidence(rows), STEP).height == 5


def test_who_was_passed_over_by_an_earlier_step_counts_again_by_the_chance_that_was_left() -> None:
    later = Stage(kind="canary", sequence=20, since=START + timedelta(hours=1), share=0.5, salt="s")
    ids = {"passed": '{"id":1}', "drawn": '{"id":2}', "fresh": '{"id":3}'}
    rows = [
        row(1, entity=ids["passed"]),
        canary(2, entity=ids["drawn"]),
        canary(11, entity=ids["passed"], drawn_by=20),
        canary(12, entity=ids["drawn"], drawn_by=20),
        row(13, entity=ids["fresh"], drawn_by=20),
    ]
    found = drawn(evidence(rows, stages=(STEP, later)), later)
    assert dict(zip(found["entity"], found["share"], strict=True)) == {
        ids["passed"]: pytest.approx((0.5 - 0.25) / (1 - 0.25)),
        ids["fresh"]: 0.5,
    }


def test_a_step_with_another_salt_draws_everybody_anew() -> None:
    later = Stage(kind="canary", sequence=20, since=START + timedelta(hours=1), share=0.5, salt="other")
    rows = [canary(2), canary(12, entity='{"id":2}', drawn_by=20)]
    assert drawn(evidence(rows, stages=(STEP, later)), later)["share"].to_list() == [0.5]


def test_a_smaller_share_than_before_decides_nothing_about_those_who_were_seen() -> None:
    later = Stage(kind="canary", sequence=20, since=START + timedelta(hours=1), share=0.1, salt="s")
    rows = [row(1), row(12, entity='{"id":1}', drawn_by=20)]
    assert drawn(evidence(rows, stages=(STEP, later)), later).is_empty()


# The shadow


def test_a_shadow_is_compared_with_the_champion_on_the_same_requests() -> None:
    rows = [row(n, probability=0.2, label=False, label_received_at=START) for n in range(6)]
    shadows = [shadow_row(n, probability=0.6) for n in range(4)]
    (verdict,) = judge(one("brier"), evidence(rows, shadows, stages=(SHADOW,)))
    assert (verdict.challenger, verdict.champion) == (4, 4)
    assert verdict.challenger_mean == pytest.approx(0.36)
    assert verdict.champion_mean == pytest.approx(0.04)
    assert verdict.difference == pytest.approx(0.32)


def test_an_error_of_a_shadow_counts_as_one_and_has_no_probability() -> None:
    rows = [row(n) for n in range(4)]
    shadows = [shadow_row(0), shadow_row(1, probability=None, decision=None, error="it broke")]
    (errors,) = judge(one("errors"), evidence(rows, shadows, stages=(SHADOW,)))
    (probability,) = judge(one("probability"), evidence(rows, shadows, stages=(SHADOW,)))
    assert (errors.challenger, errors.challenger_mean, errors.champion_mean) == (2, 0.5, 0.0)
    assert (probability.challenger, probability.challenger_mean) == (1, 0.2)


@pytest.mark.parametrize("metric", ["slow_answers", "fallbacks"])
def test_a_shadow_is_not_held_to_what_only_an_answer_has(metric: GuardrailMetric) -> None:
    rows = [row(n, latency_us=1_000_000, answered_by="rule") for n in range(4)]
    (verdict,) = judge(one(metric), evidence(rows, [shadow_row(n) for n in range(4)], stages=(SHADOW,)))
    assert verdict.challenger == 0
    assert not verdict.breached
    assert verdict.message.endswith("nothing to compare yet.")


def test_the_same_answers_are_never_worse() -> None:
    rows = [row(n, label=n % 2 == 0, label_received_at=START) for n in range(3000)]
    verdicts = judge(tiny_spec(), evidence(rows, [shadow_row(n) for n in range(3000)], stages=(SHADOW,)))
    assert not any(verdict.breached for verdict in verdicts)


# Levels and alpha


def test_the_level_comes_of_what_was_known_of_the_champion_before_the_step() -> None:
    def level(rows: list[dict[str, Any]], metric: GuardrailMetric) -> float:
        about = evidence([canary(1, label=True), row(2, label=True), *rows])
        spec = one(metric)
        (games,) = games_of(about, [observations(about, STEP)], spec.rollout.guardrails[0], COST)
        (game,) = games
        assert isinstance(game, Randomised)
        return game.level

    def before(n: int, **changes: Any) -> list[dict[str, Any]]:
        return [row(1000 + i, at=START - timedelta(hours=1), probability=0.6, **changes) for i in range(n)]

    assert level(before(200), "probability") == 0.6
    assert level(before(20), "probability") == METRICS["probability"].typical
    told = {"label": True, "label_received_at": START - timedelta(minutes=1)}
    assert level(before(200, **told), "brier") == 0.16
    assert level(before(200, **told | {"label_received_at": START}), "brier") == METRICS["brier"].typical


def test_alpha_is_divided_among_the_guardrails() -> None:
    verdicts = judge(tiny_spec(), evidence([canary(1), row(2)]))
    assert sum(verdict.alpha for verdict in verdicts) == pytest.approx(tiny_spec().rollout.alpha)


@pytest.mark.parametrize("probability", [0.05, 0.95])
def test_a_distribution_that_moves_in_either_direction_is_a_breach(probability: float) -> None:
    rows = [canary(n, probability=probability) if n % 4 == 0 else row(n, probability=0.5) for n in range(2000)]
    (verdict,) = judge(one("probability", 0.1), evidence(rows))
    assert verdict.breached
    assert verdict.low > 0.1 or verdict.high < -0.1


def test_a_version_that_answers_everybody_alike_with_the_mean_of_before_is_a_breach_of_certainty() -> None:
    rows = [canary(n, probability=0.4) if n % 4 == 0 else row(n, probability=(n % 5) / 5) for n in range(2000)]
    assert not judge(one("probability"), evidence(rows))[0].breached
    (verdict,) = judge(one("certainty"), evidence(rows))
    assert verdict.breached
    assert verdict.high < -0.01


def test_a_regression_is_a_breach_that_says_its_numbers() -> None:
    (verdict,) = judge(one("errors"), evidence(traffic(3000, fails=0.2)))
    assert verdict.breached
    assert verdict.e_value >= 1 / verdict.alpha
    assert verdict.low > 0.01
    assert verdict.message.startswith("errors: 0.1864 against the champion's 0.0000 (767 and 2,233 observations)")
    assert "worse" in verdict.message


def test_a_canary_that_only_ever_fails_is_a_breach_before_the_champion_answered_anybody() -> None:
    (verdict,) = judge(one("errors"), evidence([failed(n) for n in range(10)]))
    assert verdict.breached
    assert verdict.message.startswith("errors: 1.0000 against the champion's nothing yet (10 and 0 observations)")


def test_equal_versions_are_no_breach() -> None:
    assert not any(verdict.breached for verdict in judge(tiny_spec(), evidence(traffic(4000, seed=5))))


def test_evidence_of_an_earlier_stage_counts_in_the_later_one() -> None:
    later = Stage(kind="canary", sequence=20, since=START + timedelta(hours=1), share=0.5, salt="s")
    first = traffic(3000, fails=0.2)
    (verdict,) = judge(one("errors"), evidence([*first, canary(9001, drawn_by=20)], stages=(STEP, later)))
    assert verdict.breached


def test_stages_beyond_those_planned_get_no_capital_of_their_own() -> None:
    stages = tuple(Stage(kind="canary", sequence=10 + n, since=START, share=0.1 + n / 10, salt="s") for n in range(4))
    about = evidence(traffic(50), stages=stages, planned=2)
    found = games_of(
        about, [observations(about, stage) for stage in stages], Guardrail(metric="errors", tolerance=0.1), COST
    )
    assert len(found) == 2


# Order, and what is told


@settings(max_examples=15)
@given(st.randoms(), st.integers(0, 1000))
def test_the_verdict_never_depends_on_the_order_of_the_rows_nor_of_equal_times(random, seed: int) -> None:
    rows = traffic(120, fails=0.1, worse=0.1, seed=seed)
    twice = [{**each, "prediction_id": f"q{each['prediction_id']}", "referred": True} for each in rows[::3]]
    rows = [{**each, "at": START} for each in rows + twice]
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert judge(SPEC, evidence(rows)) == judge(SPEC, evidence(shuffled))


def test_a_lot_that_is_off_is_no_fair_comparison() -> None:
    off = split(evidence([canary(n) if n % 2 else row(n) for n in range(1000)]))
    fair = split(evidence([canary(n) if n % 4 == 0 else row(n) for n in range(1000)]))
    assert off is not None and not off.sound
    assert off.message == (
        "The lot is not fair: 500 of 1,000 entities (50.00%) were the challenger's, 25.00% should be."
    )
    assert fair is not None and fair.sound
    assert split(evidence(stages=(SHADOW,))) is None


def test_a_verdict_is_json_also_where_the_evidence_is_overwhelming() -> None:
    import json

    rows = [failed(n) if n % 4 == 0 else row(n) for n in range(4000)]
    told = payload(judge(one("errors"), evidence(rows)))
    assert json.loads(json.dumps(told, allow_nan=False))[0]["e_value"] == 1e12


def test_without_any_answer_nothing_is_known() -> None:
    verdicts = judge(SPEC, evidence())
    assert [(each.low, each.high, each.breached) for each in verdicts] == [(-1, 1, False)] * 7
    assert all(each.e_value <= 1 for each in verdicts)


def test_all_metrics_that_need_labels_wait_for_them() -> None:
    unlabelled = [{**each, "label": None} for each in traffic(200)]
    for verdict in judge(SPEC, evidence(unlabelled)):
        assert (verdict.challenger == 0) == METRICS[verdict.metric].labelled
