"""Requests to retrain: however wishes, attempts and failures interleave, each is carried out once or given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pilotage.errors import ConfigError, LedgerConflict, NotReleasable, ReleaseError
from pilotage.policy import Retraining
from pilotage.release.events import Draft
from pilotage.release.retraining import attempts
from pilotage.release.retraining.book import append_when, state_of
from pilotage.release.retraining.due import due
from pilotage.release.retraining.lease import Lease, held_by
from pilotage.release.retraining.records import RetrainingState
from pilotage.release.retraining.requests import call_a_person, request, withdraw
from pilotage.release.retraining.state import FENCE
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import START, draft, registered

POLICY = Retraining(at_most=2, attempts=3, retry_after=timedelta(minutes=1), lease=timedelta(minutes=10))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> Any:
        return self.now

    def passes(self, **length: float) -> None:
        self.now += timedelta(**length)


class Desk:
    """A ledger with a clock, and those who write to it."""

    def __init__(self, policy: Retraining = POLICY) -> None:
        self.clock, self.policy = Clock(), policy
        self.ledger = InMemoryLedger(clock=self.clock)
        self.settings = Settings()

    def asks(self, cause: Any = "drift", *, why: str = "it drifts", **evidence: Any) -> Any:
        once = evidence.pop("once", None)
        by = {"settings": self.settings, "ledger": self.ledger, "actor": "ada", "why": why, "once": once}
        return request("m", cause, evidence, **by)

    def begins(self, run: str, number: int | None = None) -> int:
        asked = self.state.open.number if number is None and self.state.open else number or 0
        _, attempt = attempts.begin("m", asked, run=run, policy=self.policy, book=self.ledger, now=self.clock.now)
        return attempt.fence

    def registers(self, version: int, fence: int) -> None:
        facts = registered("m", version)
        append_when(self.ledger, "m", lambda _: replace(facts, payload={**facts.payload, FENCE: fence, "tried": []}))

    def refuses(self, fence: int) -> None:
        payload = {"mlflow_run_id": "r", "bundle_sha256": "s", "reasons": ["worse"], FENCE: fence, "tried": []}
        append_when(self.ledger, "m", lambda _: draft("refused", **payload))

    def fails(self, fence: int) -> bool:
        return attempts.fail("m", fence, why="it crashed", book=self.ledger)

    @property
    def state(self) -> RetrainingState:
        return state_of("m", self.ledger).retraining


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_wishes_become_one_request_with_all_their_causes(desk: Desk) -> None:
    first = desk.asks("drift", why="prices moved", columns=["price"])
    desk.asks("nightly", why="a night")
    joined = desk.asks("manual", why="a hunch")
    assert joined.number == first.number == 1
    assert joined.causes == ("nightly", "drift", "manual")
    assert [ask.why for ask in joined.asks] == ["prices moved", "a night", "a hunch"]
    assert joined.asks[0].evidence == {"columns": ["price"]}


def test_an_occasion_is_recorded_once_however_often_it_is_told(desk: Desk) -> None:
    for _ in range(3):
        desk.asks("nightly", once="2024-01-01")
    assert len(desk.ledger.events()) == 1
    desk.registers(1, desk.begins("run-1"))
    desk.asks("nightly", once="2024-01-01")
    assert desk.state.open is None


def test_nobody_asks_without_a_name_or_for_a_cause_that_there_is_not(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="who decides is missing"):
        request("m", "drift", {}, settings=desk.settings, ledger=desk.ledger, actor=" ", why="x")
    with pytest.raises(NotReleasable, match=r"'boredom' is none of its causes: nightly, drift, performance, manual"):
        desk.asks("boredom")


def test_what_is_asked_while_an_attempt_runs_is_the_next_request(desk: Desk) -> None:
    desk.asks()
    fence = desk.begins("run-1")
    assert desk.asks("performance", why="it got worse") is None
    desk.registers(1, fence)
    state = desk.state
    assert [each.version for each in state.closed] == [1]
    assert state.open is not None
    assert (state.open.number, state.open.causes, state.open.attempts) == (3, ("performance",), ())


def test_what_is_asked_while_an_attempt_runs_joins_its_request_if_it_fails(desk: Desk) -> None:
    desk.asks()
    fence = desk.begins("run-1")
    desk.asks("performance")
    desk.fails(fence)
    assert desk.state.queued == ()
    assert desk.state.open is not None
    assert desk.state.open.causes == ("drift", "performance")


def test_registering_a_version_and_finishing_its_request_are_one_event(desk: Desk) -> None:
    desk.asks()
    desk.registers(7, desk.begins("run-1"))
    [done] = desk.state.closed
    assert (done.outcome, done.version, done.failures) == ("registered", 7, 0)
    assert [event.kind for event in desk.ledger.events()] == ["retrain_requested", "attempt_started", "registered"]


def test_an_attempt_that_was_taken_for_dead_can_record_nothing_any_more(desk: Desk) -> None:
    desk.asks()
    old = desk.begins("run-1")
    desk.fails(old)
    desk.clock.passes(minutes=2)
    new = desk.begins("run-2")
    assert new > old
    for commit in (lambda: desk.registers(1, old), lambda: desk.refuses(old)):
        with pytest.raises(LedgerConflict, match="no longer holds the lease"):
            commit()
    with pytest.raises(LedgerConflict, match=r"attempt 2 \(run run-2\) does"):
        attempts.renew("m", old, lease=timedelta(minutes=1), book=desk.ledger)
    desk.registers(1, new)
    with pytest.raises(LedgerConflict):
        desk.registers(2, new)
    assert fold(desk.ledger.events())["m"].versions.keys() == {1}


def test_the_fold_refuses_a_version_with_an_old_fence_that_somebody_wrote_all_the_same(desk: Desk) -> None:
    desk.asks()
    fence = desk.begins("run-1")
    desk.fails(fence)
    facts = registered("m", 1)
    desk.ledger.append(replace(facts, payload={**facts.payload, FENCE: fence}))
    with pytest.raises(ReleaseError, match=r"Event 4 of the ledger \(registered of m version 1\) makes no sense"):
        fold(desk.ledger.events())


def test_one_attempt_runs_at_a_time_and_the_same_run_goes_on_with_its_own(desk: Desk) -> None:
    number = desk.asks().number
    fence = desk.begins("run-1")
    assert desk.begins("run-1") == fence
    with pytest.raises(LedgerConflict, match=r"Attempt 1 of request 1 of m runs already \(run run-1\)"):
        desk.begins("run-2")
    desk.fails(fence)
    desk.clock.passes(minutes=5)
    with pytest.raises(LedgerConflict, match="The attempt of run run-1 at request 1 of m is over"):
        desk.begins("run-1")
    desk.registers(1, desk.begins("run-2"))
    with pytest.raises(NotReleasable, match="Request 1 of m is over: registered"):
        desk.begins("run-3", number)


def test_failures_are_tried_again_with_longer_pauses_and_then_a_person_is_needed(desk: Desk) -> None:
    desk.asks()
    waited = []
    for number in range(1, 4):
        while due(desk.policy, desk.state, desk.clock.now).do == "wait":
            desk.clock.passes(seconds=30)
        waited.append((desk.clock.now - START).total_seconds())
        desk.fails(desk.begins(f"run-{number}"))
    assert waited == [0, 60, 180]
    assert due(desk.policy, desk.state, desk.clock.now).do == "give_up"
    closed = attempts.give_up("m", policy=desk.policy, book=desk.ledger, now=desk.clock.now)
    assert closed is not None
    assert (closed.outcome, [each["failure"] for each in closed.tried]) == ("gave_up", ["it crashed"] * 3)
    assert attempts.give_up("m", policy=desk.policy, book=desk.ledger) is None


def test_as_many_requests_begin_within_a_time_as_the_spec_lets(desk: Desk) -> None:
    for version in (1, 2):
        desk.asks()
        desk.registers(version, desk.begins(f"run-{version}"))
        desk.clock.passes(hours=1)
    desk.asks("manual")
    wanted = due(desk.policy, desk.state, desk.clock.now)
    assert wanted.do == "wait"
    assert wanted.at == START + timedelta(days=1)
    with pytest.raises(NotReleasable, match="2 requests began within 24 h"):
        desk.begins("run-3")
    desk.clock.passes(hours=22, seconds=1)
    desk.begins("run-3")


def test_an_attempt_without_a_candidate_finishes_with_what_it_found(desk: Desk) -> None:
    desk.asks()
    fence = desk.begins("run-1")
    for _ in range(2):
        attempts.finish("m", fence, "blocked", why="97 % are late", book=desk.ledger, evidence={"rate": 0.97})
    [done] = desk.state.closed
    assert (done.outcome, done.why) == ("blocked", "97 % are late")


def test_a_withdrawn_request_leaves_its_attempt_without_a_lease(desk: Desk) -> None:
    by = {"settings": desk.settings, "ledger": desk.ledger, "actor": "ada", "why": "wrong day"}
    with pytest.raises(NotReleasable, match="No request to retrain m is open"):
        withdraw("m", **by)
    desk.asks()
    fence = desk.begins("run-1")
    assert withdraw("m", **by).outcome == "withdrawn"
    with pytest.raises(LedgerConflict, match=r"no attempt runs.* not recorded, since request 1 was withdrawn\.$"):
        desk.registers(1, fence)


def test_a_person_is_called_once_until_a_version_helps(desk: Desk) -> None:
    by = {"settings": desk.settings, "ledger": desk.ledger, "actor": "retraining", "why": "look", "evidence": {}}
    assert call_a_person("m", "drift", **by)
    assert not call_a_person("m", "drift", **by)
    desk.asks()
    desk.refuses(desk.begins("run-1"))
    assert [call.about for call in desk.state.calls] == ["drift"]
    desk.asks()
    desk.registers(1, desk.begins("run-2"))
    assert desk.state.calls == ()


def test_whoever_decides_about_a_version_need_not_decide_again_for_a_retraining_beside_it(desk: Desk) -> None:
    desk.ledger.append(registered("m", 1))
    before = fold(desk.ledger.events())["m"].sequence
    desk.asks()
    attempts.renew("m", desk.begins("run-1"), lease=timedelta(minutes=1), book=desk.ledger)
    assert fold(desk.ledger.events())["m"].sequence == before


def test_a_lease_is_renewed_beside_the_work_and_lost_work_is_not_handed_on(desk: Desk) -> None:
    desk.asks()
    fence = desk.begins("run-1")
    held = held_by("m", "run-1", lasts=timedelta(seconds=0.02), settings=desk.settings, ledger=desk.ledger)
    assert isinstance(held, Lease)
    assert held.fence == fence
    with pytest.raises(LedgerConflict), held.kept():
        while not any(event.kind == "attempt_renewed" for event in desk.ledger.events()):
            assert not held.lost.wait(0.001)
        desk.fails(fence)
        assert held.lost.wait(30)
    assert held_by("m", "another", lasts=desk.policy.lease, settings=desk.settings, ledger=desk.ledger) is None


def wants(desk: Desk, fences: list[int], draw: Callable[[Any], Any]) -> None:
    """Somebody does something to the retraining, sensible or not; what is refused is forgotten."""
    state = desk.state
    fence = draw(st.sampled_from(fences)) if fences else 0
    version = max(fold(desk.ledger.events()).get("m", state_of("m", desk.ledger)).versions, default=0) + 1
    run = f"run-{draw(st.integers(1, 5))}"
    number = state.open.number if state.open else draw(st.integers(0, 3))
    acts: dict[str, Callable[[], Any]] = {
        "ask": lambda: desk.asks(draw(st.sampled_from(["nightly", "drift", "performance", "manual"]))),
        "again": lambda: desk.asks("nightly", once="a night"),
        "begin": lambda: fences.append(desk.begins(run, number)),
        "register": lambda: desk.registers(version, fence),
        "refuse": lambda: desk.refuses(fence),
        "finish": lambda: attempts.finish("m", fence, "unchanged", why="same", book=desk.ledger),
        "fail": lambda: desk.fails(fence),
        # Of a run that was launched: none is that is not due.
        "unbegun": lambda: (
            due(desk.policy, desk.state, desk.clock.now).do == "begin"
            and attempts.fail_unbegun(
                "m", number, draw(st.integers(1, desk.policy.attempts)), run="run-9", why="gone", book=desk.ledger
            )
        ),
        "renew": lambda: attempts.renew("m", fence, lease=timedelta(minutes=1), book=desk.ledger),
        "give_up": lambda: attempts.give_up("m", policy=desk.policy, book=desk.ledger, now=desk.clock.now),
        "wait": lambda: desk.clock.passes(minutes=draw(st.sampled_from([1, 5, 600]))),
        "withdraw": lambda: withdraw("m", settings=desk.settings, ledger=desk.ledger, actor="ada", why="no"),
    }
    act = draw(st.sampled_from([*acts, "begin", "begin", "register", "fail"]))
    try:
        acts[act]()
    except (ReleaseError, IndexError):
        assert act not in ("ask", "again", "wait", "fail")


@examples(deadline=None, max_examples=150)
@given(st.data())
def test_every_request_ends_in_one_finished_attempt_and_one_version_at_most(choose: st.DataObject) -> None:
    desk, fences = Desk(), list[int]()
    for _ in range(choose.draw(st.integers(1, 40))):
        wants(desk, fences, choose.draw)
    events = desk.ledger.events()
    state, whole = desk.state, fold(events)["m"] if events else state_of("m", desk.ledger)
    asked = [ask.sequence for each in state.requests() for ask in each.asks] + [ask.sequence for ask in state.queued]
    assert sorted(asked) == [event.sequence for event in events if event.kind == "retrain_requested"]
    versions = [each.version for each in state.closed if each.version is not None]
    assert sorted(versions) == sorted(whole.versions)
    assert len(set(versions)) == len(versions)
    for each in state.requests():
        finished = [attempt for attempt in each.attempts if not attempt.running and attempt.failure is None]
        has_finished = each.outcome in ("registered", "refused", "blocked", "unchanged")
        assert len(finished) == int(has_finished)
        assert (each.version is not None) == (each.outcome == "registered")
        assert sum(attempt.running for attempt in each.attempts) <= int(each.outcome is None)
        assert [attempt.number for attempt in each.attempts] == list(range(1, len(each.attempts) + 1))
        assert len(each.attempts) <= desk.policy.attempts
        fenced = [attempt.fence for attempt in each.attempts]
        assert fenced == sorted(set(fenced))
    began = [each.began for each in state.requests() if each.began]
    for moment in began:
        assert sum(moment - desk.policy.per < other <= moment for other in began) <= desk.policy.at_most
    cut = choose.draw(st.integers(0, len(events)))
    assert fold(events[cut:], fold(events[:cut])) == fold(events)
    if state.open is not None and state.open.running is None:
        assert state.queued == ()


@examples(deadline=None, max_examples=40)
@given(st.data())
def test_what_happens_twice_is_recorded_once(choose: st.DataObject) -> None:
    """Every event is offered again by a writer that does not know it got through."""
    desk, fences = Desk(), list[int]()
    for _ in range(choose.draw(st.integers(1, 25))):
        wants(desk, fences, choose.draw)
    for event in desk.ledger.events():
        if event.kind in ("retrain_requested", "attempt_renewed"):
            continue
        again = Draft(
            model="m",
            kind=event.kind,
            actor=event.actor,
            cause=event.cause,
            version=event.version,
            payload=event.payload,
        )
        before = desk.ledger.events()
        if event.kind == "attempt_started" and desk.state.open and desk.state.open.number == event.payload["request"]:
            continue
        if event.kind == "attempt_failed" and FENCE not in event.payload:
            continue
        with pytest.raises(ReleaseError):
            append_when(desk.ledger, "m", lambda _, again=again: again)  # type: ignore[misc]
        assert desk.ledger.events() == before
