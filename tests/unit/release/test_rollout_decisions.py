"""What a rollout does next, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from pilotage.policy import CanaryStep, Guardrail, Rollout, ShadowStage
from pilotage.release.events import Draft, Event
from pilotage.release.evidence import Evidence, Stage, stages_of
from pilotage.release.rollout import Decision, assess
from pilotage.release.state import ModelState, fold
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.evidences import START, STEP, canary, evidence, failed, row, shadow_row, traffic

WEEK = timedelta(days=7)
SOON = START + timedelta(hours=1)


def spec(**changes: Any) -> ModelSpec:
    declared: dict[str, Any] = {
        "shadow": ShadowStage(predictions=50, at_most=WEEK),
        "canary": (
            CanaryStep(share=0.25, predictions=100, outcomes=20, at_most=WEEK),
            CanaryStep(share=0.5, predictions=200, at_most=WEEK),
        ),
    }
    return tiny_spec(rollout=Rollout(**declared | changes))


def book(*kinds: tuple[str, int | None, dict[str, Any]]) -> list[Event]:
    """A ledger in which version 1 is champion and version 2 registered, and then some more."""
    times = iter(START - timedelta(minutes=10) + timedelta(minutes=n) for n in range(100))
    ledger = InMemoryLedger(lambda: next(times))
    first: list[tuple[str, int | None, dict[str, Any]]] = [
        ("registered", 1, _registered(1)),
        ("promoted", 1, {}),
        ("registered", 2, _registered(2)),
    ]
    for kind, version, payload in [*first, *kinds]:
        ledger.append(
            Draft(model="tiny", kind=kind, version=version, actor="ada", cause="why", payload=payload)  # type: ignore[arg-type]
        )
    return ledger.events()


def _registered(version: int) -> dict[str, Any]:
    return {
        "bundle": f"/bundles/tiny/{version}",
        "bundle_sha256": f"tiny-{version}",
        "mlflow_run_id": f"run-{version}",
        "run_url": "",
        "trained_at": START.isoformat(),
        "facts": {},
    }


def share(step: int, of: float, salt: str = "s") -> tuple[str, int, dict[str, Any]]:
    return "canaried", 2, {"share": of, "salt": salt, "segment": None, "step": step}


SHADOWED = ("shadowed", 2, {})


def state(*kinds: tuple[str, int | None, dict[str, Any]]) -> ModelState:
    return fold(book(*kinds))["tiny"]


def decided(about: Evidence, *, at: datetime = SOON, of: ModelState | None = None, **changes: Any) -> Decision:
    return assess(spec(**changes), of or state(share(0, 0.25)), about, at)


SHADOW = Stage(kind="shadow", sequence=4, since=START)
SECOND = Stage(kind="canary", sequence=11, since=START, share=0.5, salt="s")


def watched(n: int, **changes: Any) -> Evidence:
    rows = [row(i, drawn_by=None) for i in range(n)]
    return evidence(rows, [shadow_row(i, **changes) for i in range(n)], stages=(SHADOW,))


# The way to the front


def test_a_shadow_waits_until_it_has_seen_enough() -> None:
    decision = decided(watched(30), of=state(SHADOWED))
    assert decision.kind == "hold"
    assert decision.why == (
        "Waits for 20 more of 50 answers. 30 answers, 0 with their outcome; no guardrail is breached."
    )


def test_a_shadow_that_has_seen_enough_becomes_a_canary() -> None:
    decision = decided(watched(50), of=state(SHADOWED))
    assert (decision.kind, decision.step) == ("advance", 0)


def test_without_canary_steps_it_becomes_champion() -> None:
    assert decided(watched(50), of=state(SHADOWED), canary=()).kind == "promote"


def test_a_canary_waits_for_answers_and_for_outcomes() -> None:
    few = [{**each, "label": None} for each in traffic(600)]
    decision = decided(evidence(few))
    assert decision.kind == "hold"
    assert decision.why.startswith("Waits for 20 more of 20 outcomes.")


def test_a_canary_goes_from_step_to_step_and_to_the_front() -> None:
    first = decided(evidence(traffic(600)))
    assert (first.kind, first.step) == ("advance", 1)
    second = evidence(traffic(600, stage=SECOND), stages=(STEP, SECOND))
    assert decided(second, of=state(share(0, 0.25), share(1, 0.5))).kind == "promote"


def test_only_answers_of_its_own_count_for_what_a_stage_waits_for() -> None:
    rows = [failed(n) if n % 4 == 0 else row(n) for n in range(600)]
    loose = (Guardrail(metric="errors", tolerance=0.99),)
    assert "100 more of 100 answers" in decided(evidence(rows), guardrails=loose).why


def test_only_answers_of_the_stage_under_way_count_for_what_it_waits_for() -> None:
    about = evidence(traffic(2000), stages=(STEP, SECOND))
    assert "200 more of 200 answers" in decided(about, of=state(share(0, 0.25), share(1, 0.5))).why


def test_nobody_gets_traffic_before_those_who_must_have_approved() -> None:
    decision = decided(watched(50), of=state(SHADOWED), approvals=2, approvers=("Ada", "Bob", "Eve"))
    assert decision.kind == "request_approval"
    assert decision.why.startswith("2 more must approve it (Ada or Bob or Eve).")
    rule = {"approval": {"needed": 1, "approvers": ["Ada"]}}
    approved = state(SHADOWED, ("approved", 2, rule))
    assert decided(watched(50), of=approved, approvals=1, approvers=("Ada",)).kind == "advance"


def test_one_version_after_the_other() -> None:
    other = state(SHADOWED, ("registered", 3, _registered(3)), ("canaried", 3, share(0, 0.25)[2]))
    decision = decided(watched(50), of=other)
    assert decision.kind == "hold"
    assert "Version 3 has a share" in decision.why


# The way back


def test_a_breach_takes_a_canary_back_at_once_even_if_nothing_else_is_there_yet() -> None:
    decision = decided(evidence([failed(n) if n % 4 == 0 else row(n) for n in range(100)]))
    assert decision.kind == "roll_back"
    assert decision.why.startswith("Errors: 1.0000 against the champion's 0.0000 (25 and 75 observations)")


def test_a_breach_rejects_a_shadow() -> None:
    decision = decided(watched(60, probability=None, decision=None, error="it broke"), of=state(SHADOWED))
    assert decision.kind == "reject"


def test_a_breach_counts_more_than_enough_predictions_or_time() -> None:
    rows = [failed(n) if n % 4 == 0 else canary(n) if n % 4 == 1 else row(n) for n in range(4000)]
    assert decided(evidence(rows), at=START + 2 * WEEK, when_time_is_up="advance").kind == "roll_back"


def test_nothing_is_decided_while_the_model_is_killed() -> None:
    killed = state(share(0, 0.25), ("killed", None, {}))
    decision = decided(evidence([failed(n) if n % 4 == 0 else row(n) for n in range(100)]), of=killed)
    assert (decision.kind, decision.why) == ("hold", "tiny is killed: why")


def test_nothing_advances_on_a_lot_that_is_not_fair() -> None:
    rows = [canary(n, label=True) if n % 2 else row(n, label=True) for n in range(600)]
    loose = (Guardrail(metric="errors", tolerance=0.5),)
    decision = decided(evidence(rows), guardrails=loose)
    assert (decision.kind, decision.stuck) == ("hold", True)
    assert decision.why.startswith("The lot is not fair: 300 of 600 entities")


@pytest.mark.parametrize(("policy", "kind"), [("hold", "hold"), ("advance", "advance"), ("reject", "roll_back")])
def test_when_time_is_up_happens_what_the_spec_says(policy: str, kind: str) -> None:
    decision = decided(evidence(traffic(100)), at=START + WEEK, when_time_is_up=policy)
    assert (decision.kind, decision.stuck) == (kind, policy == "hold")
    assert decision.why.startswith("The stage has lasted its longest (7 days), and waits for ")
    waits = decided(evidence(traffic(100)), at=START + WEEK - timedelta(seconds=1))
    assert waits.why.startswith("Waits for")
    assert not waits.stuck


@pytest.mark.parametrize("policy", ["advance", "reject"])
def test_time_in_which_the_model_was_killed_is_none_of_the_stage(policy: str) -> None:
    killed = replace(state(share(0, 0.25)), pauses=((START + timedelta(days=1), START + timedelta(days=9)),))
    waits = decided(evidence(traffic(1)), at=START + timedelta(days=9), of=killed, when_time_is_up=policy)
    assert waits.kind == "hold"
    assert waits.why.startswith("Waits for")
    assert waits.payload["stage"]["until"] == (START + timedelta(days=15)).isoformat()
    up = decided(evidence(traffic(1)), at=START + timedelta(days=15), of=killed, when_time_is_up=policy)
    assert up.why.startswith("The stage has lasted its longest")


def test_the_ledger_says_how_long_a_model_was_killed() -> None:
    kill, resume = ("killed", None, {}), ("resumed", None, {})
    stood = state(kill, resume, kill, resume, kill)
    minute, begin = timedelta(minutes=1), START - timedelta(minutes=10)
    assert stood.pauses == ((begin + 3 * minute, begin + 4 * minute), (begin + 5 * minute, begin + 6 * minute))
    assert stood.paused(begin, START) == 2 * minute
    assert stood.paused(begin + 5.5 * minute, START) == minute / 2
    assert (state().resumed_at, stood.resumed_at) == (None, begin + 6 * minute)


def test_a_shadow_whose_time_is_up_is_rejected_if_the_spec_says_so() -> None:
    about, at = watched(10), START + WEEK
    assert decided(about, at=at, of=state(SHADOWED), when_time_is_up="reject").kind == "reject"


def test_a_stage_that_the_spec_does_not_have_waits_for_a_person() -> None:
    assert decided(watched(500), of=state(SHADOWED), shadow=None).kind == "hold"


# What is recorded


def test_a_decision_records_every_guardrail_with_its_numbers() -> None:
    decision = decided(evidence(traffic(600)))
    recorded = json.loads(json.dumps(decision.payload, allow_nan=False))
    assert [each["metric"] for each in recorded["guardrails"]] == [each.metric for each in spec().rollout.guardrails]
    assert set(recorded["guardrails"][0]) == {
        "metric", "tolerance", "alpha", "challenger", "champion", "challenger_mean", "champion_mean",
        "difference", "low", "high", "e_value", "breached", "message",
    }  # fmt: skip
    assert recorded["stage"] == {
        "kind": "canary",
        "sequence": STEP.sequence,
        "since": START.isoformat(),
        "share": 0.25,
        "predictions": len(evidence(traffic(600)).answers),
        "outcomes": len(evidence(traffic(600)).answers),
        "waits_for": {"predictions": 100, "outcomes": 20},
        "until": (START + WEEK).isoformat(),
    }
    assert recorded["draw"]["sound"]
    assert (recorded["version"], recorded["champion"], recorded["alpha"]) == (2, 1, 0.05)


# Stages, by the ledger


def begun(*kinds: tuple[str, int | None, dict[str, Any]], version: int = 2) -> list[tuple[str, int]]:
    events = book(*kinds)
    return [(stage.kind, stage.sequence) for stage in stages_of(events, fold(events)["tiny"], version)]


def test_a_rollouts_stages_are_its_shadow_and_the_steps_of_its_canary() -> None:
    approved = ("approved", 2, {"approval": {"needed": 1, "approvers": []}})
    assert begun() == []
    assert begun(SHADOWED) == [("shadow", 4)]
    assert begun(SHADOWED, share(0, 0.1), share(1, 0.5)) == [("shadow", 4), ("canary", 5), ("canary", 6)]
    assert begun(share(0, 0.1)) == [("canary", 4)]
    assert begun(SHADOWED, ("verdict", 2, {"decision": "hold", "evidence": {}}), share(0, 0.1)) == [
        ("shadow", 4),
        ("canary", 6),
    ]
    assert approved[0] == "approved"


def test_what_was_seen_before_a_version_was_taken_back_is_another_rollouts() -> None:
    back = ("rolled_back", 2, {"to": None})
    assert begun(SHADOWED, share(0, 0.1), back, SHADOWED) == [("shadow", 7)]
    assert begun(SHADOWED, share(0, 0.1), back) == []


def test_a_shadow_is_compared_with_the_champion_of_now() -> None:
    third = ("registered", 3, _registered(3))
    events = book(third, ("shadowed", 3, {}), ("promoted", 2, {}))
    now = fold(events)["tiny"]
    (stage,) = stages_of(events, now, 3)
    assert now.champion is not None
    assert stage.since == now.champion.promoted_at


def test_a_clock_that_was_set_back_between_two_steps_hides_neither() -> None:
    events = book(SHADOWED, share(0, 0.1), share(1, 0.5))
    events[-1] = replace(events[-1], at=events[-2].at - timedelta(minutes=1))
    assert [stage.sequence for stage in stages_of(events, fold(events)["tiny"], 2)] == [4, 5, 6]


@pytest.mark.parametrize("again", [("shadowed", 1, {}), ("canaried", 1, {"share": 0.1, "salt": "s", "step": 0})])
def test_the_champion_before_that_begins_again_is_judged_on_when_its_watch_ends(
    again: tuple[str, int, dict[str, Any]],
) -> None:
    watched = ("promoted", 2, {"watch_s": 60.0})
    kind = "shadow" if again[0] == "shadowed" else "canary"
    assert begun(watched, again, version=1) == [(kind, 5)]
    assert begun(watched, again, ("watch_ended", 1, {}), version=1) == [(kind, 5)]


def test_a_version_that_left_its_stage_because_another_became_champion_is_in_none() -> None:
    third = ("registered", 3, _registered(3))
    assert begun(third, SHADOWED) == [("shadow", 5)]
    assert begun(third, SHADOWED, ("promoted", 3, {})) == []
    assert begun(third, SHADOWED, share(0, 0.1), ("promoted", 3, {})) == []
