"""State is a pure fold of the ledger: the same events always mean the same, and nonsense is not skipped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import ReleaseError
from pilotage.release.events import Draft, Event, seal
from pilotage.release.feed import PlanFeed, plan_of
from pilotage.release.state import fold
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import broken_link

START = datetime(2024, 1, 1, tzinfo=UTC)


def registered(model: str, version: int) -> Draft:
    payload = {
        "bundle": f"/bundles/{model}/{version}",
        "bundle_sha256": f"{model}-{version}",
        "mlflow_run_id": f"run-{version}",
        "run_url": "http://127.0.0.1:3000/runs/1",
        "trained_at": START.isoformat(),
        "facts": {"rows": 10},
    }
    return Draft(model=model, kind="registered", version=version, actor="a", cause="nightly", payload=payload)


def promoted(model: str, version: int) -> Draft:
    return Draft(model=model, kind="promoted", version=version, actor="ada", cause="better", payload={})


def refused(model: str) -> Draft:
    payload = {"mlflow_run_id": "r", "run_url": "", "bundle_sha256": "x", "reasons": ["worse in brier"]}
    return Draft(model=model, kind="refused", actor="a", cause="drift", payload=payload)


@st.composite
def histories(draw: st.DrawFn) -> list[Draft]:
    """Legal interleavings of the lives of two models."""
    drafts: list[Draft] = []
    known: dict[str, int] = {"m": 0, "n": 0}
    for _ in range(draw(st.integers(0, 20))):
        model = draw(st.sampled_from(["m", "n"]))
        kinds = ["registered", "refused"] + (["promoted"] if known[model] else [])
        match draw(st.sampled_from(kinds)):
            case "registered":
                known[model] += 1
                drafts.append(registered(model, known[model]))
            case "refused":
                drafts.append(refused(model))
            case _:
                drafts.append(promoted(model, draw(st.integers(1, known[model]))))
    return drafts


def chain(drafts: list[Draft]) -> list[Event]:
    ledger = InMemoryLedger(clock=lambda: START)
    return [ledger.append(draft) for draft in drafts]


@settings(deadline=None)
@given(histories(), st.integers(0, 20))
def test_folding_in_parts_is_folding_at_once(drafts: list[Draft], cut: int) -> None:
    events = chain(drafts)
    assert fold(events[cut:], fold(events[:cut])) == fold(events)


@settings(deadline=None)
@given(histories())
def test_the_champion_is_the_version_promoted_last(drafts: list[Draft]) -> None:
    states = fold(chain(drafts))
    for model, state in states.items():
        promotions = [draft.version for draft in drafts if draft.model == model and draft.kind == "promoted"]
        assert [release.version for release in state.history] == promotions
        assert (state.champion.version if state.champion else None) == (promotions[-1] if promotions else None)
        assert len(state.refused) == sum(draft.model == model and draft.kind == "refused" for draft in drafts)


@settings(deadline=None)
@given(histories())
def test_the_feed_reads_on_where_it_stopped(drafts: list[Draft]) -> None:
    ledger = InMemoryLedger(clock=lambda: START)
    feed = PlanFeed(ledger)
    for draft in drafts:
        ledger.append(draft)
        assert feed() == {name: plan_of(state) for name, state in fold(ledger.events()).items()}


@settings(deadline=None)
@given(histories(), st.data())
def test_any_edit_removal_or_swap_breaks_the_chain(drafts: list[Draft], data: st.DataObject) -> None:
    events = chain([*drafts, refused("m"), refused("n")])
    assert broken_link(events) is None
    index = data.draw(st.integers(0, len(events) - 2))
    field, value = data.draw(
        st.sampled_from([("actor", "eve"), ("cause", "because"), ("at", START + timedelta(seconds=1)), ("model", "o")])
    )
    fields: dict[str, Any] = {name: getattr(events[index], name) for name in Event.__slots__}
    edited = [*events[:index], Event(**{**fields, field: value}), *events[index + 1 :]]
    removed = [*events[:index], *events[index + 1 :]]
    swapped = [*events[:index], events[index + 1], events[index], *events[index + 2 :]]
    assert broken_link(edited) == index + 1
    assert broken_link(removed) == index + 1
    assert broken_link(swapped) == index + 1


@pytest.mark.parametrize("draft", [promoted("m", 1), registered("m", 2)], ids=["unregistered", "twice"])
def test_an_event_that_makes_no_sense_is_told_not_skipped(draft: Draft) -> None:
    events = chain([registered("m", 2)])
    events.append(seal(draft, sequence=2, at=START, previous=events[-1].hash))
    with pytest.raises(ReleaseError, match="Event 2 of the ledger"):
        fold(events)


def test_an_event_of_a_newer_platform_is_told_not_skipped() -> None:
    cloned = Draft(model="m", kind="cloned", actor="a", cause="c", payload={})  # type: ignore[arg-type]
    with pytest.raises(ReleaseError, match="cloned of m"):
        fold(chain([cloned]))
