"""Whether to ask for a retraining, and what its run learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from pilotage.policy import Retraining, TrainOn
from pilotage.release.retraining.decision import Decision, Signal, should_retrain
from pilotage.release.retraining.plan import training_of
from pilotage.release.retraining.records import Ask, Outcome, Request, RetrainingState
from pilotage.release.stages import ModelState, Version
from pilotage.testing.bundles import tiny_spec
from tests.unit.release.lives import START

SPEC = tiny_spec("m", with_state=True)
NOW = START + timedelta(days=30)
SUFFERS = Signal(cause="performance", why="Log loss rose by a tenth.", harmful=True, evidence={"name": "slump"})
DRIFTS = Signal(cause="drift", why="Amounts moved.", harmful=True, since=date(2024, 1, 20))


def closed(
    number: int, outcome: Outcome, *, alarm: str = "slump", ended: datetime = NOW, version: int | None = None
) -> Request:
    ask = Ask(cause="performance", why="x", actor="a", at=ended, sequence=number, evidence={"alarm": alarm})
    return Request(
        number=number, asks=(ask,), opened=ended, outcome=outcome, ended=ended, version=version, why="no better"
    )


def state(*requests: Request, versions: Mapping[int, str] | None = None, **more: Any) -> ModelState:
    known = {
        number: Version(
            model="m", version=number, bundle="b", bundle_sha256=str(number), registered_at=START, trained_at=START,
            mlflow_run_id="", run_url="", cause="", stage=stage, since=START, sequence=number,  # type: ignore[arg-type]
        )
        for number, stage in (versions or {}).items()
    }  # fmt: skip
    return ModelState(model="m", versions=known, retraining=RetrainingState(closed=requests, **more))


def decided(known: ModelState, *signals: Signal, now: datetime = NOW, **more: Any) -> Decision:
    return should_retrain(SPEC, known, signals, now=now, **more)


def test_without_an_alarm_or_with_one_that_does_no_harm_nothing_is_asked() -> None:
    assert decided(state()).do == "nothing"
    harmless = decided(state(), replace(DRIFTS, harmful=False))
    assert harmless.do == "nothing"
    assert harmless.why == "Performance is not expected to suffer. Amounts moved."


def test_performance_speaks_before_drift_and_its_numbers_go_into_the_request() -> None:
    decision = decided(state(), DRIFTS, SUFFERS)
    assert (decision.do, decision.signal) == ("ask", SUFFERS)
    assert decision.evidence.items() >= {"name": "slump", "alarm": "slump", "harmful": True}.items()
    assert "since" not in decided(state(), SUFFERS).evidence
    assert decided(state(), DRIFTS).evidence["since"] == "2024-01-20"


@pytest.mark.parametrize("harmful", [True, False])
def test_the_change_that_drift_dates_is_learned_from_where_performance_asks(harmful: bool) -> None:
    """A change of what is true behind the inputs shows in performance alone; when it began, drift says."""
    evidence = decided(state(), SUFFERS, replace(DRIFTS, harmful=harmful)).evidence
    ask = Ask(cause="performance", why="x", actor="a", at=NOW, sequence=1, evidence=evidence)
    policies = Retraining(data=(TrainOn(policy="expanding"), TrainOn(policy="since_change")))
    request = Request(number=1, asks=(ask,), opened=NOW)
    planned = training_of(SPEC.model_copy(update={"retraining": policies}), request, now=NOW)
    assert [variant["name"] for variant in planned["variants"]] == ["expanding", "since 2024-01-20"]


def test_a_defect_of_the_labels_blocks_with_its_evidence() -> None:
    jump = {"why": "97 % of the labels are true.", "rate": 0.97}
    decision = decided(state(), SUFFERS, labels=[jump])
    assert decision.do == "blocked"
    assert decision.why.endswith("may not be learned from: 97 % of the labels are true.")
    assert decision.evidence["labels"] == [jump]


def test_an_alarm_that_is_asked_for_already_is_not_asked_for_again() -> None:
    waiting = replace(closed(5, "refused"), outcome=None, ended=None)
    assert decided(state(open=waiting), SUFFERS).why == "Request 5 is open for slump."
    assert decided(state(open=waiting), DRIFTS).do == "ask"


def test_while_the_version_that_came_of_it_is_on_its_way_nothing_else_is_trained() -> None:
    on_its_way = state(closed(5, "registered", version=2), versions={1: "retired", 2: "shadow"})
    assert decided(on_its_way, SUFFERS).do == "wait"
    taken_back = state(closed(5, "registered", version=2, ended=START), versions={2: "rolled_back"})
    assert decided(taken_back, SUFFERS).do == "ask"


def test_an_alarm_that_a_retraining_did_not_help_waits_and_another_one_does_not() -> None:
    once = state(closed(5, "refused"))
    assert "did not help; it is tried again from 2024-02-07" in decided(once, SUFFERS).why
    assert decided(once, SUFFERS, now=NOW + timedelta(days=6)).do == "wait"
    assert decided(once, SUFFERS, now=NOW + timedelta(days=8)).do == "ask"
    assert decided(once, DRIFTS).do == "ask"


def test_when_it_did_not_help_twice_a_person_is_called_with_what_was_tried() -> None:
    twice = state(closed(5, "refused"), closed(8, "registered", version=2), versions={2: "rejected"})
    decision = decided(twice, SUFFERS, now=NOW + timedelta(days=300))
    assert decision.do == "needs_a_person"
    assert [each["request"] for each in decision.evidence["tried"]] == [8, 5]
    assert "request 5 ended as refused (no better)" in decision.why


def test_a_retraining_that_labels_kept_from_being_carried_out_is_none_that_did_not_help() -> None:
    blocked = [closed(number, "blocked") for number in (5, 6)]
    assert decided(state(*blocked), SUFFERS).do == "ask", "the labels are mended: nothing blocks any more"
    assert decided(state(closed(4, "refused"), *blocked), SUFFERS).do == "wait"


def test_a_version_that_helped_ends_the_count() -> None:
    before = [closed(number, "refused", ended=START) for number in (5, 6)]
    helped = state(*before, closed(7, "registered", version=3, alarm="x"), versions={3: "champion"})
    assert decided(helped, SUFFERS).do == "ask"


def test_too_few_new_labels_are_nothing_to_learn_from() -> None:
    assert "12 labelled rows are new" in decided(state(), SUFFERS, new_labels=12).why
    assert decided(state(), SUFFERS, new_labels=200).do == "ask"


def asked(*since: str) -> Request:
    asks = tuple(
        Ask(cause="drift", why="x", actor="a", at=NOW, sequence=1, evidence={"since": day} if day else {})
        for day in since
    )
    return Request(number=1, asks=asks, opened=NOW)


def plan(*policies: TrainOn, since: str = "", better_by: float = 0.0) -> dict[str, Any]:
    spec = SPEC.model_copy(update={"retraining": Retraining(data=policies, better_by=better_by)})
    return training_of(spec, asked(since), now=NOW)


SLIDING = TrainOn(policy="sliding", length=timedelta(days=60))
SINCE = TrainOn(policy="since_change", length=timedelta(days=5))


def test_one_policy_is_the_runs_own_and_several_are_variants() -> None:
    assert plan() == {}
    assert plan(SLIDING, better_by=0.9) == {"evaluation": {"better_by": 0.9}, "data": {"window_days": 60}}
    several = plan(TrainOn(policy="expanding"), SLIDING, TrainOn(policy="weighted", length=timedelta(days=30)))
    assert several["choose_on"] == 0.4
    assert several["variants"] == [
        {"name": "expanding"},
        {"name": "sliding 60 d", "window_days": 60},
        {"name": "weighted 30 d", "half_life_days": 30},
    ]


def test_since_a_change_is_left_out_where_nobody_dates_it_or_it_is_too_young() -> None:
    assert plan(SLIDING, SINCE) == {"data": {"window_days": 60}}
    assert plan(SLIDING, SINCE, since="2024-01-30") == {"data": {"window_days": 60}}
    assert plan(SINCE, since="2024-01-10") == {"data": {"learn_from": "2024-01-10"}}


def test_a_model_without_a_time_learns_from_all_it_has() -> None:
    spec = tiny_spec("m", retraining=Retraining(data=(SLIDING,), better_by=0))
    assert training_of(spec, asked(""), now=NOW) == {}
