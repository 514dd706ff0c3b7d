"""A model's state, reduced to what a serving process should do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pilotage.release.events import Draft
from pilotage.release.feed import PlanFeed, plan_of
from pilotage.release.state import ModelState, fold
from pilotage.runtime.plan import Plan
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import START, canaried, draft, registered


class Counting(InMemoryLedger):
    """Counts what is read of it."""

    read: list[int]

    def events(self, *, after: int = 0):  # type: ignore[no-untyped-def]
        found = super().events(after=after)
        self.read.append(len(found))
        return found


def state_of(*drafts: Draft) -> ModelState:
    minutes = iter(range(100))
    ledger = InMemoryLedger(clock=lambda: START + timedelta(minutes=next(minutes)))
    for each in drafts:
        ledger.append(each)
    return fold(ledger.events())["m"]


def plan(*drafts: Draft) -> Plan:
    return plan_of(state_of(*drafts))


VERSIONS = [registered("m", number) for number in (1, 2, 3, 4)]
"""Events 1 to 4."""
TWO_CHAMPIONS = [*VERSIONS, draft("promoted", 1), draft("promoted", 2)]


def test_a_model_without_a_champion_has_nothing_to_serve() -> None:
    assert plan(*VERSIONS) == Plan(model="m", sequence=4)


def test_the_champion_before_is_the_previous_one_and_not_one_that_was_rolled_back() -> None:
    made = plan(*TWO_CHAMPIONS, draft("promoted", 3))
    assert (made.champion.version, made.previous.version) == (3, 2)  # type: ignore[union-attr]
    back = plan(*TWO_CHAMPIONS, draft("promoted", 3), draft("rolled_back", 3, to=2))
    assert (back.champion.version, back.previous.version) == (2, 1)  # type: ignore[union-attr]
    assert plan(*VERSIONS, draft("promoted", 1), draft("promoted", 2), draft("rolled_back", 2, to=1)).previous is None


def test_a_plan_says_what_was_taken_back_until_it_is_on_its_way_again() -> None:
    promoted = [*TWO_CHAMPIONS, draft("promoted", 3)]
    back = [*promoted, draft("rolled_back", 3, to=1)]
    assert plan(*promoted).taken_back == ()
    assert plan(*back).taken_back == (3,)
    assert plan(*back, draft("shadowed", 3)).taken_back == ()


def test_a_role_says_since_when_and_by_which_event() -> None:
    made = plan(*TWO_CHAMPIONS)
    assert made.champion is not None
    assert made.previous is not None
    assert (made.champion.sequence, made.champion.since) == (6, datetime(2024, 1, 1, 0, 5, tzinfo=UTC))
    assert (made.previous.sequence, made.previous.since) == (6, made.champion.since)
    assert (made.champion.bundle, made.champion.bundle_sha256) == ("/bundles/m/2", "m-2")


def test_a_canary_has_its_share_its_salt_and_its_segment() -> None:
    made = plan(*TWO_CHAMPIONS, canaried(3, 0.05, salt="x", segment='{"a": 1}'), canaried(3, 0.25, salt="x", step=1))
    assert made.canary is not None
    assert (made.canary.version, made.canary.share, made.canary.salt, made.canary.segment) == (3, 0.25, "x", None)
    assert made.canary.sequence == 8
    assert [each.version for each in made.assignments()] == [2, 3, 1]


def test_an_ab_test_is_served_as_a_canary() -> None:
    made = plan(*TWO_CHAMPIONS, draft("ab_started", 3, share=0.5, salt="y"))
    assert made.canary is not None
    assert (made.canary.version, made.canary.share, made.canary.salt) == (3, 0.5, "y")
    assert plan(*TWO_CHAMPIONS, draft("ab_started", 3, share=0.5, salt="y"), draft("ab_ended", 3)).canary is None


def test_shadows_are_several() -> None:
    made = plan(*TWO_CHAMPIONS, draft("shadowed", 4), draft("shadowed", 3))
    assert [(each.version, each.role) for each in made.shadows] == [(3, "shadow"), (4, "shadow")]


def test_a_killed_model_has_no_version_in_any_role_and_says_why() -> None:
    busy = [*TWO_CHAMPIONS, canaried(3), draft("shadowed", 4)]
    killed = plan(*busy, draft("killed"))
    assert (killed.assignments(), killed.killed) == ((), "killed for a reason")
    resumed = plan(*busy, draft("killed"), draft("resumed"))
    assert resumed.assignments() == plan(*busy).assignments()


def test_a_new_champion_ends_the_canary_of_another_and_older_shadows() -> None:
    state = state_of(*TWO_CHAMPIONS, registered("m", 5), draft("shadowed", 3), canaried(4), draft("promoted", 5))
    assert {number: known.stage for number, known in state.versions.items()} == {
        1: "retired",
        2: "retired",
        3: "candidate",
        4: "candidate",
        5: "champion",
    }
    assert plan_of(state).canary is None


def test_evidence_about_a_shadow_begins_with_the_champion_that_it_is_compared_with() -> None:
    state = state_of(*VERSIONS, draft("promoted", 1), draft("shadowed", 4), draft("promoted", 2))
    assert state.evidence_since(4) == state.champion.promoted_at  # type: ignore[union-attr]
    assert state.under_way == state.versions[4]


def test_the_feed_reads_only_what_is_new() -> None:
    ledger = Counting(clock=lambda: START)
    ledger.read = []
    feed = PlanFeed(ledger)
    for each in TWO_CHAMPIONS:
        ledger.append(each)
    first = feed()
    assert feed() == first
    ledger.append(registered("other", 1))
    assert set(feed()) == {"m", "other"}
    # The last one that is known comes again each time: it says whether this is still the same ledger.
    assert ledger.read == [6, 1, 2]


def test_a_ledger_that_was_replaced_is_followed_from_its_beginning() -> None:
    ledger, backup = InMemoryLedger(lambda: START), InMemoryLedger(lambda: START)
    for each in TWO_CHAMPIONS:
        ledger.append(each)
    for each in [*TWO_CHAMPIONS[:-1], draft("killed")]:
        backup.append(each)
    feed = PlanFeed(ledger)
    assert feed()["m"].killed is None
    ledger._events = backup.events()
    assert feed()["m"].killed == "killed for a reason"


def test_a_model_whose_events_make_no_sense_keeps_its_plan_and_keeps_no_other_from_being_killed() -> None:
    ledger = InMemoryLedger(lambda: START)
    feed = PlanFeed(ledger)
    for each in [*TWO_CHAMPIONS, registered("other", 1), draft("promoted", 1, model="other")]:
        ledger.append(each)
    before = feed()
    ledger.append(registered("m", 1))
    ledger.append(draft("killed", model="other"))
    after = feed()
    assert after["other"].killed == "killed for a reason"
    assert after["m"].champion == before["m"].champion
    assert "a version with this number is registered" in (after["m"].problem or "")
    assert (before["m"].problem, after["other"].problem) == (None, None)
    ledger.append(draft("killed"))
    assert feed()["m"].problem == after["m"].problem
    assert PlanFeed(ledger)() == feed()
