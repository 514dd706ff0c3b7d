"""However the lives of several models interleave in the ledger, they fold to a state that can be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import ReleaseError
from pilotage.release.events import Draft, Event
from pilotage.release.state import ModelState, fold
from pilotage.testing.ledger import InMemoryLedger

START = datetime(2024, 1, 1, tzinfo=UTC)


def draft(model: str, kind: Any, version: int | None) -> Draft:
    payload: dict[str, Any] = {}
    if kind == "registered":
        payload = {
            "bundle": f"/bundles/{model}/{version}",
            "trained_at": START.isoformat(),
            "run_url": "",
            "facts": {"rows": version},
        }
    if kind == "refused":
        payload = {"reasons": ["worse in brier"]}
    if kind != "promoted":
        payload |= {"bundle_sha256": f"{model}-{version}", "mlflow_run_id": "r"}
    return Draft(model=model, kind=kind, version=version, actor="ada", cause="manual", payload=payload)


@st.composite
def lives(draw: st.DrawFn, model: str) -> list[Draft]:
    """What may happen to one model. MLflow gives the numbers of versions, in order and not without gaps."""
    events: list[Draft] = []
    versions: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["registered", "refused", *(["promoted"] if versions else [])]))
        if kind == "registered":
            versions.append((versions[-1] if versions else 0) + draw(st.integers(1, 3)))
            events.append(draft(model, kind, versions[-1]))
        else:
            events.append(draft(model, kind, draw(st.sampled_from(versions)) if kind == "promoted" else None))
    return events


@st.composite
def interleavings(draw: st.DrawFn) -> list[Event]:
    """Each life in its own order, all of them at once."""
    left = [life for life in (draw(lives(model)) for model in "abc") if life]
    ledger = InMemoryLedger(clock=lambda: START)
    while left:
        life = draw(st.sampled_from(left))
        ledger.append(life.pop(0))
        left = [each for each in left if each]
    return ledger.events()


def legal(state: ModelState, events: list[Event]) -> None:
    """What must be true of a model whatever happened."""
    own = [event for event in events if event.model == state.model]
    assert state.sequence == own[-1].sequence
    assert state.champion == (state.history[-1] if state.history else None)
    registered = {event.version: event.sequence for event in own if event.kind == "registered"}
    assert set(state.versions) == set(registered)
    for release in state.history:
        assert registered[release.version] < release.sequence
        assert release.bundle_sha256 == state.versions[release.version].bundle_sha256
        assert events[release.sequence - 1].kind == "promoted"
    assert [release.sequence for release in state.history] == sorted({release.sequence for release in state.history})
    assert len(own) == len(state.versions) + len(state.history) + len(state.refused)


@given(interleavings())
def test_any_interleaving_folds_to_a_legal_state_at_every_moment(events: list[Event]) -> None:
    for seen in range(len(events) + 1):
        states = fold(events[:seen])
        assert set(states) == {event.model for event in events[:seen]}
        for state in states.values():
            legal(state, events[:seen])


@given(interleavings())
def test_what_happens_to_other_models_changes_nothing_for_one(events: list[Event]) -> None:
    together = fold(events)
    for model, state in together.items():
        assert fold(event for event in events if event.model == model) == {model: state}


@given(interleavings().filter(lambda events: any(event.kind == "registered" for event in events)), st.data())
def test_a_version_that_is_registered_again_is_refused(events: list[Event], data: st.DataObject) -> None:
    registered = [event for event in events if event.kind == "registered"]
    again = replace(data.draw(st.sampled_from(registered)), sequence=len(events) + 1)
    with pytest.raises(ReleaseError, match=f"Event {len(events) + 1} "):
        fold([*events, again])
