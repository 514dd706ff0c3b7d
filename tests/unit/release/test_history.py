"""Looking back in the ledger: what stood at a moment is what the events up to it amount to."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.release.abtest import ab_tests
from pilotage.release.history import decisions, stood
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import START, draft, registered
from tests.unit.release.test_interleavings import Writer

HOUR = timedelta(hours=1)


def ledger_of_hours() -> InMemoryLedger:
    """Its first event is at START, each later one an hour after the one before."""
    hours = iter(range(10_000))
    return InMemoryLedger(clock=lambda: START + next(hours) * HOUR)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_stood_at_a_moment_is_what_was_decided_until_then(choose: st.DataObject) -> None:
    ledger, writer = ledger_of_hours(), Writer()
    for _ in range(choose.draw(st.integers(1, 25))):
        writer.look(ledger)
        writer.decide(ledger, choose)
    events = ledger.events()
    number = choose.draw(st.integers(0, len(events)))
    moment = START + (number - 1) * HOUR + choose.draw(st.sampled_from([timedelta(0), HOUR / 2]))
    then = stood(events, moment)
    assert {model: each.state for model, each in then.items()} == fold(events[:number])
    now = fold(events)
    for model, each in then.items():
        if each.state.champion is None:
            assert (each.champion, each.until) == (None, None)
            continue
        assert each.champion is not None
        assert each.champion.version == each.state.champion.version
        assert {one.sequence for one in each.champion.decisions} <= set(range(1, number + 1))
        replaced = now[model].champion != each.state.champion
        assert (each.until is not None) == replaced
        if each.until is not None:
            assert each.until == now[model].history[len(each.state.history)]


def test_a_clock_that_was_set_back_hides_nothing_that_came_before() -> None:
    moments = iter([START, START + 5 * HOUR, START + HOUR])
    ledger = InMemoryLedger(clock=lambda: next(moments))
    for each in (registered("m", 1), draft("promoted", 1), registered("m", 2)):
        ledger.append(each)
    then = stood(ledger.events(), START + 2 * HOUR)["m"].state
    assert (then.champion is not None, sorted(then.versions)) == (True, [1, 2])


def test_decisions_can_be_asked_for_by_model_version_and_time() -> None:
    ledger = ledger_of_hours()
    for each in (registered("a", 1), registered("b", 1), draft("promoted", 1, model="a"), registered("a", 2)):
        ledger.append(each)
    events = ledger.events()

    def numbers(**only: object) -> list[int]:
        return [each.sequence for each in decisions(events, **only)]  # type: ignore[arg-type]

    assert numbers() == [1, 2, 3, 4]
    assert numbers(models=("a",)) == [1, 3, 4]
    assert numbers(models=("a", "b"), version=1) == [1, 2, 3]
    assert numbers(first=START + HOUR, last=START + 2 * HOUR) == [2, 3]
    promoted = decisions(events, models=("a",))[1]
    assert (promoted.kind, promoted.actor, promoted.why) == ("promoted", "ada", "promoted for a reason")


def test_what_a_rollback_went_back_to_is_about_that_version_too() -> None:
    ledger = ledger_of_hours()
    for each in (
        registered("m", 1),
        registered("m", 2),
        draft("promoted", 1),
        draft("promoted", 2),
        draft("rolled_back", 2, to=1),
    ):
        ledger.append(each)
    assert [each.sequence for each in decisions(ledger.events(), version=1)] == [1, 3, 5]
    assert [each.sequence for each in decisions(ledger.events(), version=2)] == [2, 4, 5]


def test_an_erasure_changes_nothing_of_a_model_and_is_told_of_the_moments_before_it() -> None:
    ledger = ledger_of_hours()
    for each in (registered("m", 1), draft("promoted", 1), draft("erasure_begun"), draft("erased"), draft("killed")):
        ledger.append(each)
    events = ledger.events()
    before, after = stood(events, START + HOUR)["m"], stood(events, START + 3 * HOUR)["m"]
    assert (before.erasures, after.erasures) == ((4,), ())
    assert before.state == after.state
    assert fold(events[:4]) == fold(events[:2])


def test_a_model_of_which_only_an_erasure_is_known_has_no_versions_and_no_trials() -> None:
    ledger = ledger_of_hours()
    ledger.append(draft("erasure_begun"))
    assert fold(ledger.events())["m"].versions == {}
    assert ab_tests("m", settings=Settings(), ledger=ledger) == ()
