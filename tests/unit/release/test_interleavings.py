"""However several writers' decisions interleave in the ledger, they fold to a state that can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import LedgerConflict, ReleaseError
from pilotage.release.events import Draft, Event
from pilotage.release.feed import PlanFeed, plan_of
from pilotage.release.legality import objection
from pilotage.release.state import ApprovalRule, ModelState, fold
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import START, canaried, draft, registered

RULES = {"free": ApprovalRule(), "strict": ApprovalRule(needed=2), "named": ApprovalRule(needed=1, approvers=("ada",))}
PEOPLE = ("ada", "Ada ", "bob", "cleo", "trainer")


def candidates(model: str, state: ModelState) -> Iterator[Draft]:
    """What somebody may want to do to a model, sensible or not."""
    rule = RULES[model].payload()
    newest = max(state.versions, default=0)
    yield registered(model, newest + 1, rule=RULES[model])
    yield replace(draft("killed"), model=model)
    yield replace(draft("resumed"), model=model)
    for version in {newest, newest - 1, newest - 2} & set(state.versions):
        salt = state.canary.salt if state.canary else f"salt-{version}"
        for share, by in ((0.1, salt), (0.5, salt), (0.5, "another"), (1.0, salt)):
            wanted = canaried(version, share, salt=by if state.canary else salt)
            yield replace(wanted, model=model, payload={**wanted.payload, **rule})
        yield draft("ab_started", version, model=model, share=0.5, salt="ab", **rule)
        yield draft("promoted", version, model=model, how="by hand", **rule)
        for kind in ("shadowed", "rejected", "ab_ended"):
            yield draft(kind, version, model=model)
        yield draft("verdict", version, model=model, decision="request_approval", evidence={})
        for actor in PEOPLE:
            yield draft("approved", version, model=model, actor=actor, **rule)
        for to in (None, *state.versions):
            yield draft("rolled_back", version, model=model, to=to, **rule)


@dataclass
class Writer:
    """Somebody who looks, decides on what was seen, and appends if nothing was decided since."""

    events: list[Event] = field(default_factory=list)

    def look(self, ledger: InMemoryLedger) -> None:
        self.events = ledger.events()

    def decide(self, ledger: InMemoryLedger, choose: st.DataObject) -> None:
        model = choose.draw(st.sampled_from(sorted(RULES)))
        state = fold(self.events).get(model, ModelState(model=model))
        legal = [each for each in candidates(model, state) if objection(state, each) is None]
        chosen = choose.draw(st.sampled_from(legal))
        if len(self.events) == len(ledger.events()):
            ledger.append(chosen, expected=len(self.events))
        else:
            with pytest.raises(LedgerConflict):
                ledger.append(chosen, expected=len(self.events))


def holds(state: ModelState, events: list[Event]) -> None:
    """What must be true of a model whatever happened."""
    own = [event for event in events if event.model == state.model]
    assert state.sequence == own[-1].sequence
    stages = {number: version.stage for number, version in state.versions.items()}
    assert [number for number, stage in stages.items() if stage == "champion"] == (
        [state.champion.version] if state.champion else []
    )
    assert [number for number, stage in stages.items() if stage == "canary"] == (
        [state.challenger.version] if state.challenger else []
    )
    assert state.champion == (state.history[-1] if state.history else None)
    if state.challenger is not None:
        assert state.champion is not None
        assert state.challenger.against == state.champion.version
        assert state.challenger.salt in ("ab", f"salt-{state.challenger.version}")
    plan = plan_of(state)
    if state.killed is not None:
        assert (plan.assignments(), plan.killed) == ((), state.killed.why)
    answering = [each for each in (plan.champion, plan.canary, plan.previous) if each is not None]
    assert len({each.version for each in plan.assignments()}) == len(plan.assignments())
    assert not {each.version for each in plan.assignments()} & set(plan.taken_back)
    for each in answering:
        assert stages[each.version] in ("champion", "canary", "retired")
        approved_once(each.version, own)
    for each in plan.shadows:
        assert stages[each.version] == "shadow"


def approved_once(version: int, own: list[Event]) -> None:
    """Nobody answers who was not approved by as many different people as the rule asks for, before it did."""
    rule = RULES[own[0].model]
    first = next(
        event
        for event in own
        if (event.version == version and event.kind in ("canaried", "ab_started", "promoted"))
        or (event.kind == "rolled_back" and event.payload["to"] == version)
    )
    by = {event.actor.strip().lower() for event in own[: own.index(first)] if event.kind == "approved"}
    assert len(by & set(rule.approvers or by) - (set() if rule.approvers else {"trainer"})) >= rule.needed


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_interleaving_of_legal_decisions_by_several_writers_folds_to_a_legal_state(choose: st.DataObject) -> None:
    ledger = InMemoryLedger(clock=lambda: START)
    feed = PlanFeed(ledger)
    writers = [Writer() for _ in range(3)]
    for _ in range(choose.draw(st.integers(1, 30))):
        writer = choose.draw(st.sampled_from(writers))
        if choose.draw(st.integers(0, 3)):
            writer.look(ledger)
        writer.decide(ledger, choose)
        events = ledger.events()
        states = fold(events)
        for state in states.values():
            holds(state, events)
        if choose.draw(st.booleans()):
            assert feed() == {name: plan_of(state) for name, state in states.items()}
    cut = choose.draw(st.integers(0, len(ledger.events())))
    assert fold(events[cut:], fold(events[:cut])) == fold(events)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_may_not_happen_is_refused_by_the_fold_too_and_names_the_event(choose: st.DataObject) -> None:
    ledger, writer = InMemoryLedger(clock=lambda: START), Writer()
    for _ in range(choose.draw(st.integers(0, 15))):
        writer.look(ledger)
        writer.decide(ledger, choose)
    model = choose.draw(st.sampled_from(sorted(RULES)))
    state = fold(ledger.events()).get(model, ModelState(model=model))
    illegal = [each for each in candidates(model, state) if objection(state, each) is not None]
    event = ledger.append(choose.draw(st.sampled_from(illegal)))
    with pytest.raises(ReleaseError, match=f"^Event {event.sequence} of the ledger \\({event.kind} of {model}"):
        fold(ledger.events())


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_happens_to_other_models_changes_nothing_for_one(choose: st.DataObject) -> None:
    ledger, writer = InMemoryLedger(clock=lambda: START), Writer()
    for _ in range(choose.draw(st.integers(1, 15))):
        writer.look(ledger)
        writer.decide(ledger, choose)
    for model, state in fold(ledger.events()).items():
        assert fold(event for event in ledger.events() if event.model == model) == {model: state}
