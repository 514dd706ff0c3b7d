"""What `pilotage status` says that a rollout waits for: the same as the rollout itself, and never nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from typing import Any

from pilotage.cli.stages import waits_for
from pilotage.policy import Rollout, ShadowStage
from pilotage.release.events import Draft
from pilotage.release.rollout import assess
from pilotage.release.stages import ModelState
from pilotage.release.state import fold_model
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.evidences import SHADOW, START, evidence
from tests.unit.release.lives import draft, registered

WEEK = timedelta(days=7)


def spec(**changes: Any) -> ModelSpec:
    return tiny_spec(rollout=Rollout(shadow=ShadowStage(predictions=50, at_most=WEEK), **changes))


def state(*drafts: Draft) -> ModelState:
    """Version 1 is champion, version 2 is in shadow since ``START``; and then something each day."""
    first = (registered("tiny", 1), draft("promoted", 1, model="tiny"), registered("tiny", 2))
    days = (START + timedelta(days=number) for number in count(-len(first)))
    ledger = InMemoryLedger(lambda: next(days))
    for each in (*first, draft("shadowed", 2, model="tiny"), *drafts):
        ledger.append(each)
    return fold_model("tiny", ledger.events())


def told_until(state: ModelState) -> datetime:
    words = waits_for(spec(), state) or ""
    return datetime.strptime(words.rsplit("(until ", 1)[1].rstrip(")"), "%Y-%m-%d %H:%M").astimezone()


def test_the_time_that_a_stage_lasts_is_the_rollouts_own_also_after_a_kill() -> None:
    assert told_until(state()) == START + WEEK
    killed = state(draft("killed", model="tiny"), draft("resumed", model="tiny"))
    decision = assess(spec(), killed, evidence(stages=(SHADOW,)), START + timedelta(days=3))
    assert told_until(killed) == datetime.fromisoformat(decision.payload["stage"]["until"]) == START + timedelta(days=8)


def test_a_rollout_that_goes_on_no_more_says_that_a_person_decides_and_why() -> None:
    called = draft("verdict", 2, model="tiny", decision="needs_a_person", evidence={})
    assert waits_for(spec(), state(called)) == "version 2: a person's decision. verdict for a reason"
    moved = draft("canaried", 2, model="tiny", share=0.05, salt="s", step=0)
    assert (waits_for(spec(), state(called, moved)) or "").startswith("version 2: 200 predictions in canary")


def test_no_rollout_begins_by_itself_while_the_model_is_killed() -> None:
    waiting = registered("tiny", 3)
    taken = draft("rejected", 2, model="tiny")
    assert waits_for(spec(automatic=True), state(taken, waiting)) == "version 3: its rollout begins by itself"
    killed = state(taken, waiting, draft("killed", model="tiny"))
    assert waits_for(spec(automatic=True), killed) == "version 3: nothing goes on while tiny is killed"
    assert waits_for(spec(), killed) == "version 3: its rollout begins with pilotage shadow tiny 3"
