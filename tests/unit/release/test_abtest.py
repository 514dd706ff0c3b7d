"""What an A/B test says: better, worse or undecided, with an interval that holds at every look."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from pilotage.errors import ConfigError
from pilotage.release.abtest import ABTest, Report, ab_tests, weigh
from pilotage.release.evidence import Stage
from pilotage.settings import Settings
from pilotage.testing.bundles import tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.evidences import CHALLENGER, CHAMPION, START, canary, evidence, row, traffic
from tests.unit.release.test_rollout_decisions import book

HALF = Stage(kind="canary", sequence=10, since=START, share=0.5, salt="s")
TEST = ABTest(model="tiny", version=CHALLENGER, champion=CHAMPION, since=START, until=None, stages=(HALF,))
SPEC = tiny_spec()


def weighed(rows: list[dict[str, Any]], **how: Any) -> Report:
    return weigh(SPEC, evidence(rows, stages=(HALF,), planned=1), TEST, **how)


def costly(n: int, *, wrong: float, seed_stage: Stage = HALF) -> list[dict[str, Any]]:
    """Every second entity is the challenger's, which misses late orders more often (or, below 0.5, less)."""
    rows = []
    for number in range(n):
        make = canary if number % 2 else row
        misses = (number // 2) % 10 < (10 * wrong if make is canary else 5)
        rows.append(make(number, drawn_by=seed_stage.sequence, decision=not misses, label=True))
    return rows


def test_a_version_that_costs_more_is_worse_in_the_kpis_own_unit() -> None:
    report = weighed(costly(4000, wrong=0.9))
    assert report.verdict == "worse"
    # A miss costs 5, a hit 1: 0.9 * 5 + 0.1 - (0.5 * 5 + 0.5).
    assert (report.mean, report.champion_mean, report.unit) == (pytest.approx(4.6), pytest.approx(3.0), "EUR")
    assert report.effect == pytest.approx(1.6)
    assert 0 < report.low < 1.6 < report.high
    assert report.message.startswith("Version 2 is worse than 1 in cost: +1.6 EUR, between +")


def test_a_version_that_costs_less_is_better() -> None:
    report = weighed(costly(4000, wrong=0.1))
    assert report.verdict == "better"
    assert report.low < report.high < 0


def test_equal_versions_are_undecided_so_far() -> None:
    report = weighed(costly(4000, wrong=0.5))
    assert report.verdict == "undecided so far"
    assert report.low < 0 < report.high
    assert report.message.startswith("Version 2 is undecided so far against 1 in cost: +0 EUR")


def test_before_the_first_outcome_there_is_nothing_to_tell() -> None:
    report = weighed([canary(1), row(2)])
    assert (report.mean, report.verdict, report.entities) == (None, "undecided so far", 0)
    assert report.message == "Version 2 against 1: nothing to compare yet."
    assert json.loads(json.dumps(report.payload(), allow_nan=False))["message"] == report.message


def test_a_lot_that_was_not_fair_gives_no_verdict() -> None:
    rows = [each for n, each in enumerate(costly(4000, wrong=0.9)) if n % 2 or n % 8 == 0]
    report = weighed(rows)
    assert report.verdict == "undecided so far"
    assert "lot is not fair" in report.message


def test_a_lot_that_was_not_fair_is_told_even_if_one_of_the_two_was_never_drawn() -> None:
    report = weighed([row(number) for number in range(2000)])
    assert (report.mean, "lot is not fair" in report.message) == (None, True)


def test_a_lot_that_was_not_fair_stays_so_when_the_share_is_changed() -> None:
    unfair = [each for n, each in enumerate(costly(4000, wrong=0.9)) if n % 2 or n % 8 == 0]
    later = Stage(kind="canary", sequence=11, since=START + timedelta(hours=2), share=0.4, salt="other")
    fair = [
        {**(canary if n % 5 < 2 else row)(9000 + n, drawn_by=11), "label": True, "decision": True} for n in range(50)
    ]
    report = weigh(SPEC, evidence([*unfair, *fair], stages=(HALF, later), planned=1), TEST)
    assert report.verdict == "undecided so far"
    assert "50.00% should be" in report.message


def test_more_looks_never_turn_equal_versions_into_a_winner_more_often_than_alpha() -> None:
    wrong = 0
    for seed in range(40):
        rows = traffic(600, seed=seed, stage=HALF)
        looks = (weighed(rows[:upto], metric="brier", alpha=0.05) for upto in range(100, 601, 100))
        wrong += any(report.verdict != "undecided so far" for report in looks)
    # 2 are expected at most; 9 come about once in 8,000 times where alpha is kept.
    assert wrong < 9


def test_a_mean_probability_is_neither_better_nor_worse() -> None:
    with pytest.raises(ConfigError, match="no metric of which less is better"):
        weighed([], metric="probability")


# Tests, by the ledger


def found(*kinds: tuple[str, int | None, dict[str, Any]]) -> tuple[ABTest, ...]:
    ledger = InMemoryLedger()
    ledger._events = book(*kinds)
    return ab_tests("tiny", settings=Settings(), ledger=ledger)


def begins(share: float, salt: str) -> tuple[str, int, dict[str, Any]]:
    return "ab_started", 2, {"share": share, "salt": salt}


def test_a_test_lasts_from_its_start_to_its_end_through_every_change_of_share() -> None:
    ended, running = found(begins(0.5, "a"), begins(0.2, "b"), ("ab_ended", 2, {}), begins(0.5, "c"))
    assert [(stage.sequence, stage.share, stage.salt) for stage in ended.stages] == [(4, 0.5, "a"), (5, 0.2, "b")]
    assert ended.until == START - timedelta(minutes=5)
    assert (running.until, running.version, running.champion) == (None, 2, 1)


def test_a_test_also_ends_when_its_version_is_promoted() -> None:
    (test,) = found(begins(0.5, "a"), ("promoted", 2, {}))
    assert test.until is not None


def test_no_test_no_trial() -> None:
    assert found(("shadowed", 2, {})) == ()
