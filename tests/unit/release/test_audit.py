"""Whoever changes a stored ledger, in whatever way, is found; and the place is named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import ConfigError
from pilotage.release.audit import Audit, Known, verify
from pilotage.release.events import KEYED, PLAIN, Draft, Event, from_row, hash_of, to_row
from pilotage.release.head import Head, head_of
from pilotage.testing.ledger import InMemoryLedger

KEY = b"a secret of enough bytes"
START = datetime(2024, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


def write(plain: int, keyed: int) -> list[Event]:
    """A ledger that got its key after some events."""
    ticks = iter(range(1000))
    ledger = InMemoryLedger(clock=lambda: START + timedelta(minutes=next(ticks)))
    for number in range(plain + keyed):
        writer = ledger.rekeyed(KEY if number >= plain else None)
        payload = {"number": number, "words": "Größe", "parts": [1, 2.5, None]}
        writer.append(Draft(model="m", kind="alias_edited", actor="ada", cause="manual", payload=payload))
    return ledger.events()


def check(rows: list[Row], noted: Head | None, **options: Any) -> Audit:
    return verify(sorted(rows, key=lambda row: row["sequence"]), key=KEY, noted=noted, **options)


def noted(events: list[Event]) -> Head:
    return head_of(events[-1], KEY if events[-1].algorithm == KEYED else None)


def rows_of(events: list[Event]) -> list[Row]:
    return [to_row(event) for event in events]


chains = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda sizes: sum(sizes) > 1).map(lambda s: write(*s))

EDITS: dict[str, st.SearchStrategy[Any]] = {
    "at": st.datetimes().map(lambda at: at.replace(tzinfo=UTC).isoformat())
    | st.just("2024-01-01T00:00:00Z")
    | st.text(),
    "model": st.text(),
    "kind": st.sampled_from(["registered", "promoted", "killed", ""]),
    "version": st.integers() | st.booleans() | st.text(),
    "actor": st.text() | st.none() | st.binary(),
    "cause": st.text() | st.just("\udc80"),
    "payload": st.text() | st.just('{"number": 0, "number": 0}') | st.just("{}  ") | st.just("[" * 5000),
    "previous": st.text(alphabet="0123456789abcdef", max_size=64) | st.text(),
    "hash": st.text(alphabet="0123456789abcdef", max_size=64) | st.text() | st.none(),
    "algorithm": st.sampled_from([PLAIN, KEYED, "md5", ""]),
}


@given(chains)
def test_what_nobody_touched_verifies(events: list[Event]) -> None:
    found = check(rows_of(events), noted(events))
    assert found.faults == ()
    assert (found.events, found.head, found.head_hash) == (len(events), len(events), events[-1].hash)
    assert found.keyed == sum(event.algorithm == KEYED for event in events)


@given(chains, st.data())
def test_an_edit_of_any_field_is_found_where_it_is(events: list[Event], data: st.DataObject) -> None:
    rows = rows_of(events)
    row = data.draw(st.sampled_from(rows))
    name = data.draw(st.sampled_from(sorted(EDITS)))
    old = row[name]
    row[name] = data.draw(EDITS[name].filter(lambda value: value != old or type(value) is not type(old)))
    faults = check(rows, noted(events)).faults
    assert row["sequence"] in {fault.sequence for fault in faults}


@given(chains, st.data())
def test_a_changed_number_is_found(events: list[Event], data: st.DataObject) -> None:
    rows = rows_of(events)
    row = data.draw(st.sampled_from(rows))
    row["sequence"] = data.draw(st.integers(-3, 30).filter(lambda number: number not in range(1, len(events) + 1)))
    assert check(rows, noted(events)).faults


@given(chains, st.data())
def test_a_deletion_is_found_where_it_was(events: list[Event], data: st.DataObject) -> None:
    rows = rows_of(events)
    number = data.draw(st.integers(1, len(rows)))
    del rows[number - 1]
    (fault,) = check(rows, noted(events)).faults
    assert (fault.kind, fault.sequence) == ("truncated" if number == len(events) else "missing", number)


@given(chains, st.data())
def test_a_deletion_that_closes_the_gap_is_found(events: list[Event], data: st.DataObject) -> None:
    rows = rows_of(events)
    number = data.draw(st.integers(1, len(rows)))
    del rows[number - 1]
    rows = [{**row, "sequence": place} for place, row in enumerate(rows, start=1)]
    assert min(fault.sequence or 0 for fault in check(rows, noted(events)).faults) == number


@given(chains, st.data())
def test_a_swap_is_found_and_called_one(events: list[Event], data: st.DataObject) -> None:
    rows = rows_of(events)
    one, other = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True))
    rows[one]["sequence"], rows[other]["sequence"] = rows[other]["sequence"], rows[one]["sequence"]
    faults = check(rows, noted(events)).faults
    assert {fault.sequence for fault in faults if fault.kind == "reordered"} == {one + 1, other + 1}
    assert "edited" not in {fault.kind for fault in faults}


@given(chains, st.data())
def test_a_tail_that_was_cut_off_is_found_by_what_was_noted_outside(events: list[Event], data: st.DataObject) -> None:
    left = data.draw(st.integers(0, len(events) - 1))
    rows = rows_of(events)[:left]
    (fault,) = check(rows, noted(events)).faults
    assert (fault.kind, fault.sequence) == ("truncated", left + 1)
    digits = Known(sequence=len(events), hash=events[-1].hash[:12])
    assert check(rows, None, known=[digits], expects_head=False).faults == (
        replace(fault, detail=fault.detail.replace("the head file notes", "somebody noted")),
    )


@given(chains, st.data())
def test_a_row_put_in_between_is_found(events: list[Event], data: st.DataObject) -> None:
    """The forger knows how hashes are computed, and does not have the key."""
    place = data.draw(st.integers(1, len(events)))
    before = events[place - 2].hash if place > 1 else ""
    forged = replace(events[place - 1], sequence=place, previous=before, actor="eve", algorithm=PLAIN, hash="")
    forged = replace(forged, hash=hash_of(forged))
    later = [replace(event, sequence=event.sequence + 1) for event in events[place - 1 :]]
    if data.draw(st.booleans()):
        later = [replace(event, previous=forged.hash) if event is later[0] else event for event in later]
    assert check(rows_of([*events[: place - 1], forged, *later]), noted(events)).faults


@given(chains, st.data())
def test_who_recomputes_every_hash_without_the_key_is_found(events: list[Event], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(events) - 1))
    algorithm = data.draw(st.sampled_from(["kept", PLAIN]))
    forged = events[:place]
    for event in events[place:]:
        actor = "eve" if event.sequence == place + 1 else event.actor
        used: Any = event.algorithm if algorithm == "kept" else algorithm
        blank = replace(event, actor=actor, previous=forged[-1].hash if forged else "", algorithm=used, hash="")
        forged.append(replace(blank, hash=hash_of(blank, b"the key that a forger made up")))
    assert check(rows_of(forged), noted(events)).faults


@given(st.integers(1, 4), st.integers(1, 4))
def test_a_plain_event_after_a_keyed_one_is_found_even_without_the_head(plain: int, keyed: int) -> None:
    events = write(plain, keyed)
    blank = replace(events[-1], sequence=len(events) + 1, previous=events[-1].hash, algorithm=PLAIN, hash="")
    forged = replace(blank, hash=hash_of(blank))
    (fault,) = check(rows_of([*events, forged]), noted(events)).faults
    assert (fault.kind, fault.sequence) == ("unkeyed", len(events) + 1)


@given(chains, st.data())
def test_a_head_that_was_edited_is_found(events: list[Event], data: st.DataObject) -> None:
    head = noted(events)
    changed = data.draw(
        st.one_of(
            st.integers().filter(lambda number: number != head.sequence).map(lambda number: {"sequence": number}),
            st.sampled_from([{"hash": events[0].previous}, {"at": ""}, {"algorithm": "md5"}, {"seal": ""}]),
        )
    )
    assert any(fault.kind == "head" for fault in check(rows_of(events), replace(head, **changed)).faults)


def test_a_head_without_the_key_can_not_stand_for_a_keyed_event() -> None:
    events = write(2, 2)
    forged = head_of(replace(events[-1], algorithm=PLAIN), None)
    (fault,) = check(rows_of(events), forged).faults
    assert (fault.kind, fault.sequence) == ("head", 4)


def test_a_missing_head_is_found_and_one_that_lags_is_only_noted() -> None:
    events = write(2, 2)
    (fault,) = check(rows_of(events), None).faults
    assert (fault.kind, fault.sequence) == ("head", 4)
    behind = check(rows_of(events), noted(events[:3]))
    assert behind.faults == ()
    assert "after 3" in behind.notes[0]


def test_rows_from_before_the_algorithm_verify_and_need_no_head() -> None:
    rows = rows_of(write(3, 0))
    for row in rows:
        del row["algorithm"]
    found = verify(rows)
    assert found.faults == ()
    assert found.notes == ("Without a head file it can't be noticed that events were cut off at the end.",)
    rows[1]["actor"] = "eve"
    assert [fault.sequence for fault in verify(rows).faults] == [2]


def test_the_key_is_needed_for_what_is_keyed() -> None:
    events = write(1, 2)
    faults = verify(rows_of(events), noted=noted(events)).faults
    assert [(fault.sequence, fault.kind) for fault in faults] == [(2, "edited"), (3, "edited"), (3, "head")]
    assert all("PILOTAGE_LEDGER_KEY_FILE" in fault.detail or "no key" in fault.detail for fault in faults)
    with pytest.raises(ConfigError, match="no key"):
        hash_of(events[-1])


def test_every_fault_of_several_is_told() -> None:
    events = write(4, 4)
    rows = rows_of(events)
    rows[1]["actor"] = "eve"
    rows[5]["payload"] = json.dumps({"number": 99})
    del rows[7], rows[3]
    faults = [(fault.sequence, fault.kind) for fault in check(rows, noted(events)).faults]
    assert faults == [(2, "edited"), (4, "missing"), (6, "edited"), (8, "truncated")]


@pytest.mark.parametrize("text", ["", "5", "5:", "5:abc", "x:0123456789ab", "5:0123456789xy", "-1:0123456789ab"])
def test_a_noted_event_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NUMBER:HASH"):
        Known.parse(text)


def test_a_stored_row_comes_back_as_the_event_that_it_was() -> None:
    events = write(2, 2)
    assert [from_row(to_row(event)) for event in events] == events
