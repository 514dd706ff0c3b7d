"""The generated look-ups of one row: what a search through all facts finds, for any facts, keys and moments."""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilotage.errors import StateUnavailable
from pilotage.features import memory, spans
from pilotage.features.asof import Lookup, resolve
from pilotage.features.columns import NULL
from pilotage.features.memory import MemoryStore, MemoryTimeline
from pilotage.features.state import Key, RowLookups, microseconds
from pilotage.features.store import StoreMeta
from pilotage.features.timeline import ALWAYS, Newest
from pilotage.spec import Latest, Window

MINUTE = 60_000_000
REQUEST = {"lane": pl.Int64(), "sensor": pl.String()}
COLUMNS = {"value": pl.Int64, "level": pl.Float64, "good": pl.Boolean, "note": pl.String}
BY_SENSOR = {"on": {"sensor": "sensor"}, "source": "readings", "known_at": "known_at"}
BY_BOTH = {**BY_SENSOR, "on": {"sensor": "sensor", "lane": "lane"}}
LOOKUPS = resolve(
    (
        Latest(name="last", columns=COLUMNS, **BY_SENSOR),
        Latest(name="fresh", columns=COLUMNS, max_age=timedelta(minutes=7), **BY_SENSOR),
        Latest(name="both", columns=COLUMNS, max_age=timedelta(minutes=7), **BY_BOTH),
        Window(name="rows", over=timedelta(minutes=10), aggregate="count", **BY_SENSOR),
        Window(name="sum_3m", over=timedelta(minutes=3), aggregate="sum", value=pl.col("value"), **BY_SENSOR),
        Window(name="mean_3m", over=timedelta(minutes=3), aggregate="mean", value=pl.col("value"), **BY_SENSOR),
        Window(name="mean_9m", over=timedelta(minutes=9), aggregate="mean", value=pl.col("value"), **BY_SENSOR),
        Window(name="mean_both", over=timedelta(minutes=9), aggregate="mean", value=pl.col("value"), **BY_BOTH),
    ),
    REQUEST,
)
META = StoreMeta(
    model="world",
    fingerprint="f" * 64,
    run_id="r",
    materialised_through=None,
    answers_from=None,
    newest={},
    versions={},
    timelines={},
    columns={lookup.timeline.name: (len(lookup.on), 4) for lookup in LOOKUPS},
)

Fact = tuple[int, tuple[Any, ...]]
"""A moment and a payload."""
Facts = dict[Key, dict[int, tuple[Any, ...]]]
"""Key → moment → payload: value, level, good, note."""

VALUES = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([-(2**63), 2**63 - 1]), st.integers(-(2**58), 2**58))
PAYLOADS = st.tuples(
    VALUES,
    st.sampled_from([None, 0.0, float("inf"), 0.1, -2.5]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, "", "a"]),
)
# Close together, minutes apart, or ages apart: whatever buckets make of it.
MOMENTS = st.one_of(
    st.integers(-5, 300),
    st.integers(-50, 50).map(lambda minutes: minutes * MINUTE),
    st.sampled_from([microseconds(ALWAYS), 7_258_118_400_000_000]),
)
KEYS = st.tuples(st.sampled_from([0, 1]), st.sampled_from(["a", "b"]))
FACTS: st.SearchStrategy[Facts] = st.dictionaries(KEYS, st.dictionaries(MOMENTS, PAYLOADS, max_size=40), max_size=3)


class Asked(MemoryStore):
    """A state that is asked for each position, and keeps none of it in arrays; counts."""

    asked = 0

    def searched(self, name: str) -> None:  # type: ignore[override]
        return None

    def timeline(self, name: str) -> Any:
        return Counted(super().timeline(name), self)


class Counted:
    def __init__(self, timeline: MemoryTimeline, state: Asked) -> None:
        self.known_at, self.columns = timeline.known_at, timeline.columns
        self._timeline, self._state = timeline, state

    def find(self, key: Key, at: int) -> int:
        self._state.asked += 1
        return self._timeline.find(key, at)


@contextmanager
def indexed_from(rows: int, portion: int = 512) -> Iterator[None]:
    """Spans have an index from fewer rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "_MANY", rows)
        patch.setattr(memory, "_PORTION", portion)
        yield


def key_of(lookup: Lookup, lane: Any, sensor: Any) -> Key:
    return tuple({"lane": lane, "sensor": sensor}[name] for name in lookup.on)


def of(facts: Facts, lookup: Lookup) -> dict[Key, dict[int, tuple[Any, ...]]]:
    """The facts by the key of a look-up."""
    found: dict[Key, dict[int, tuple[Any, ...]]] = {}
    for (lane, sensor), rows in facts.items():
        for moment, payload in rows.items():
            found.setdefault(key_of(lookup, lane, sensor), {}).setdefault(moment, payload)
    return found


def counts(lookup: Lookup, payload: tuple[Any, ...]) -> int | None:
    """What a fact adds to a window's sum, if it counts."""
    declared = lookup.declared
    assert isinstance(declared, Window)
    # Sums of a store are within 64 bits; whoever builds one sees to that.
    return 1 if declared.value is None else None if payload[0] is None else payload[0] >> 8


def stored(lookup: Lookup, rows: dict[int, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Moments and payloads of one key, as a store has them."""
    if isinstance(lookup.timeline, Newest):
        return [(moment, *rows[moment]) for moment in sorted(rows)]
    added = [(moment, counts(lookup, rows[moment])) for moment in sorted(rows)]
    known = [(moment, value) for moment, value in added if value is not None]
    sums = accumulate(value for _, value in known)
    return [(moment, count, total) for count, ((moment, _), total) in enumerate(zip(known, sums, strict=True), 1)]


def state_of(facts: Facts, kind: type[MemoryStore] = MemoryStore) -> MemoryStore:
    """A store as it is loaded from SQLite."""
    timelines = {}
    for lookup in LOOKUPS:
        keys, payload = len(lookup.on), 4 if isinstance(lookup.timeline, Newest) else 2
        rows = [(*key, *row) for key, found in of(facts, lookup).items() for row in stored(lookup, found)]
        names = [*(f"k{i}" for i in range(keys)), "known_at", *(f"p{i}" for i in range(payload))]
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"CREATE TABLE t ({', '.join(names)})")
            connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(names))})", rows)
            timelines[lookup.timeline.name] = memory._load(connection, "t", keys, payload)
    return kind(META, timelines)


def searched(facts: Facts, lookup: Lookup, key: Key, at: int) -> list[Any]:
    """The columns of a look-up, by their definition."""
    declared, rows = lookup.declared, of(facts, lookup).get(key, {})
    if isinstance(declared, Latest):
        newest = max((moment for moment in rows if moment <= at), default=None)
        if newest is None or (declared.max_age is not None and at - newest > microseconds(declared.max_age)):
            return [None] * 4
        value, level, good, note = rows[newest]
        return [value, level, None if good is None else bool(good), note]
    added = [counts(lookup, rows[moment]) for moment in rows if at - microseconds(declared.over) < moment <= at]
    known = [value for value in added if value is not None]
    if declared.aggregate == "count":
        return [len(known)]
    if declared.aggregate == "sum":
        return [sum(known)]
    return [float(sum(known)) / float(len(known)) if known else None]


def expected(facts: Facts, row: Sequence[Any], at: int) -> list[Any]:
    return [value for lookup in LOOKUPS for value in searched(facts, lookup, key_of(lookup, *row), at)]


def around(facts: Facts) -> set[int]:
    """Moments at, right before and right after facts; and at the ends of what is too old and of windows."""
    known = {moment for rows in facts.values() for moment in rows}
    return {moment + before * MINUTE + near for moment in known for before in (0, 3, 7, 9) for near in (-1, 0, 1)} or {
        0
    }


NULLS_ALONE: Facts = {(0, "a"): {0: (None, None, None, None), 5: (None, None, None, None)}}
NULLS_AND_THE_INTEGER_THAT_STANDS_FOR_THEM: Facts = {
    (0, "a"): {0: (-(2**63), None, 1, None), 5: (None, 0.5, None, "a"), 6: (2**63 - 1, 0.0, 0, "")}
}
A_BUCKET_THAT_IS_FULL: Facts = {(0, "a"): dict.fromkeys(range(64), (1, None, None, None))}
"""The moment after its last row is in no bucket."""
ONE_AGE_AND_THEN_MANY_AT_ONCE: Facts = {
    (0, "a"): {microseconds(ALWAYS): (1, 0.5, 1, "a"), **{at: (at, 0.5, 1, "a") for at in range(100)}}
}


@settings(deadline=None, max_examples=60)
@given(facts=FACTS, indexed=st.sampled_from([1, 2, 16, 64]), portion=st.integers(1, 20), data=st.data())
@example(facts={}, indexed=1, portion=3, data=None)
@example(facts=NULLS_ALONE, indexed=1, portion=3, data=None)
@example(facts=A_BUCKET_THAT_IS_FULL, indexed=64, portion=64, data=None)
@example(facts=NULLS_AND_THE_INTEGER_THAT_STANDS_FOR_THEM, indexed=2, portion=3, data=None)
@example(facts=ONE_AGE_AND_THEN_MANY_AT_ONCE, indexed=64, portion=30, data=None)
def test_a_row_gets_what_a_search_through_all_facts_finds(facts: Facts, indexed: int, portion: int, data: Any) -> None:
    with indexed_from(indexed, portion):
        states = [state_of(facts), state_of(facts, Asked)]
    lookups = RowLookups(LOOKUPS, REQUEST)
    moments = sorted(around(facts))
    if data is not None:
        moments = data.draw(st.lists(st.one_of(st.sampled_from(moments), MOMENTS), min_size=1, max_size=30))
    for row in [(0, "a"), (1, "a"), (0, "b"), (None, "a"), (0, None), (None, None), (7, "a"), (0, "unheard of")]:
        for at in moments[:300]:
            wanted = repr(expected(facts, row, at))
            for state in states:
                assert repr(lookups.answer(row, at, state)) == wanted, (row, at)


def many(rows: int) -> Facts:
    """A key with many facts, in bursts; and one with few."""
    burst = [second * 1_000_000 * (1 if second % 5 else 60) for second in range(rows)]
    return {
        (0, "a"): {at: (at % 7 - 3, at / 3, at % 2, str(at % 3)) for at in burst},
        (1, "b"): {burst[-1] // 2: (1, None, None, None)},
    }


def test_a_key_with_thousands_of_rows_is_found_at_every_one_of_them() -> None:
    facts = many(2_000)
    state, asked = state_of(facts), state_of(facts, Asked)
    lookups = RowLookups(LOOKUPS, REQUEST)
    assert any(span[2] is not None for span in state.timelines[LOOKUPS[0].timeline.name].spans.of.values())
    for at in sorted(around(facts))[::7]:
        for row in ((0, "a"), (1, "b")):
            assert lookups.answer(row, at, state) == lookups.answer(row, at, asked)


@settings(deadline=None)
@given(moments=st.sets(MOMENTS, min_size=1, max_size=200))
def test_an_index_takes_two_bytes_a_row_at_most(moments: set[int]) -> None:
    facts: Facts = {(0, "a"): dict.fromkeys(moments, (1, None, None, None))}
    with indexed_from(1):
        held = state_of(facts).timelines[LOOKUPS[0].timeline.name].spans
    assert len(held.edges) * held.edges.itemsize <= 2 * len(moments) + 12


def test_what_several_look_ups_ask_is_asked_once() -> None:
    state = state_of(many(10), Asked)
    assert isinstance(state, Asked)
    RowLookups(LOOKUPS, REQUEST).answer((0, "a"), 5_000_000, state)
    questions = {(lookup.timeline.name, lookup.on, before) for lookup in LOOKUPS for before in lookup.before}
    assert state.asked == len(questions) < sum(len(lookup.before) for lookup in LOOKUPS)


def test_every_state_answers_for_itself_however_they_take_turns() -> None:
    lookups, other = RowLookups(LOOKUPS, REQUEST), RowLookups(LOOKUPS, REQUEST)
    worlds: list[Facts] = [many(100), {}, NULLS_AND_THE_INTEGER_THAT_STANDS_FOR_THEM]
    states = [(facts, state_of(facts, kind)) for facts in worlds for kind in (MemoryStore, Asked)]
    for _ in range(3):
        for facts, state in states:
            for each in (lookups, other):
                assert each.answer((0, "a"), 5_000_001, state) == expected(facts, (0, "a"), 5_000_001)
    # Only what is in memory is worth keeping: it is for every row.
    assert [set(state.bound) for _, state in states] == [{lookups, other}, set()] * 3


def test_a_state_that_nobody_holds_is_gone_at_once_with_what_was_made_of_it() -> None:
    lookups = RowLookups(LOOKUPS, REQUEST)
    gc.disable()
    try:
        for kind in (MemoryStore, Asked):
            state = state_of(many(100), kind)
            lookups.answer((0, "a"), 0, state)
            gone = weakref.ref(state), weakref.ref(state.timelines[LOOKUPS[0].timeline.name].known_at)
            del state
            assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_threads_share_a_state_from_its_first_look_up_on() -> None:
    facts = many(500)
    state, lookups, ready = state_of(facts), RowLookups(LOOKUPS, REQUEST), threading.Barrier(4)
    asked = sorted(around(facts))[:400]
    answers: list[list[list[Any]]] = []

    def ask() -> None:
        ready.wait()
        answers.append([lookups.answer((0, "a"), at, state) for at in asked])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[expected(facts, (0, "a"), at) for at in asked]] * 4


@pytest.mark.parametrize("kind", [MemoryStore, Asked])
def test_a_state_that_lacks_a_timeline_or_reaches_back_too_little_refuses_each_time(kind: type[MemoryStore]) -> None:
    complete = state_of(many(10))
    lookups = RowLookups(LOOKUPS, REQUEST)
    lacking = kind(META, dict(list(complete.timelines.items())[1:]))
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    short = kind(
        StoreMeta(**{**{name: getattr(META, name) for name in StoreMeta.__slots__}, "answers_from": moment}),
        complete.timelines,
    )
    lookups.answer((0, "a"), microseconds(moment), short)
    for _ in range(2):
        with pytest.raises(StateUnavailable, match="no timeline readings_"):
            lookups.answer((0, "a"), 0, lacking)
        with pytest.raises(StateUnavailable, match="reaches back to 2024-01-01"):
            lookups.answer((0, "a"), microseconds(moment) - 1, short)


def test_a_running_total_that_is_lost_is_an_error_and_no_number() -> None:
    state = state_of(many(3))
    [name] = {lookup.timeline.name for lookup in LOOKUPS if lookup.declared.name == "sum_3m"}
    whole = state.timelines[name]
    starts, lost = (array("q", [value] * len(whole.known_at)) for value in (0, NULL))
    state.timelines[name] = MemoryTimeline(whole.spans, starts, array("q", whole.known_at), [lost, lost])
    with pytest.raises(TypeError):
        RowLookups(LOOKUPS, REQUEST).answer((0, "a"), 5_000_000, state)


def test_no_look_ups_give_no_columns() -> None:
    assert RowLookups((), REQUEST).answer((0, "a"), 0, state_of({})) == []
