"""A batch is looked up as each of its rows would be, however far apart moments are and whoever is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotage.features import columnar
from pilotage.features.columnar import TimelineArrays
from pilotage.features.memory import MemoryTimeline
from pilotage.features.spans import Spans
from pilotage.features.state import Key, microseconds
from pilotage.features.timeline import ALWAYS

MINUTE = 60_000_000
LAST = 7_258_118_400_000_000
"""2200, beyond every moment that a request can name."""
MOMENTS = st.one_of(
    st.integers(0, 20).map(lambda minutes: minutes * MINUTE),
    st.integers(-5, 5),
    st.sampled_from([microseconds(ALWAYS), LAST]),
    st.integers(microseconds(ALWAYS), LAST),
)
KEYS = st.one_of(st.tuples(st.sampled_from("abc")), st.tuples(st.integers(0, 2)))
FACTS = st.dictionaries(KEYS, st.lists(MOMENTS, min_size=1, max_size=6, unique=True).map(sorted), max_size=4)


@pytest.fixture(params=["by ticks", "by ranks"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by ranks":
        monkeypatch.setattr(columnar, "_LARGEST", 0)


def made_of(facts: dict[Key, list[int]]) -> MemoryTimeline:
    known_at, starts, spans = array("q"), array("q"), Spans(1)
    for key, moments in facts.items():
        first = len(known_at)
        starts.extend([first] * len(moments))
        known_at.extend(moments)
        spans.add(spans.kept(key), first, len(known_at), known_at)
    return MemoryTimeline(spans, starts, known_at, [array("q", range(len(known_at)))])


def around(facts: dict[Key, list[int]]) -> Iterator[int]:
    for moments in facts.values():
        for moment in moments:
            yield from (moment - 1, moment, moment + 1, moment + MINUTE)


@pytest.mark.usefixtures("_by")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=FACTS, more=st.lists(MOMENTS, max_size=4))
def test_positions_are_those_of_one_look_up_at_a_time(facts: dict[Key, list[int]], more: list[int]) -> None:
    timeline = made_of(facts)
    asked = [(key, at) for key in [*facts, ("z",), (7,)] for at in [*around(facts), *more]]
    keys, at = [timeline.spans.kept(key) for key, _ in asked], np.array([moment for _, moment in asked], dtype=np.int64)
    arrays = timeline.arrays
    found = TimelineArrays.find([arrays] * 2, np.stack([arrays.first(keys)] * 2), np.stack((at, at - MINUTE)))
    assert found[0].tolist() == [timeline.find(key, moment) for key, moment in asked]
    assert found[1].tolist() == [timeline.find(key, moment - MINUTE) for key, moment in asked]


def test_a_store_of_many_keys_and_moments_has_an_order_all_the_same() -> None:
    facts: dict[Key, list[int]] = {(number,): [microseconds(ALWAYS), number, LAST - number] for number in range(1000)}
    timeline = made_of(facts)
    first = timeline.arrays.first(range(1000))
    [found] = TimelineArrays.find([timeline.arrays], first[None], np.full((1, 1000), 999))
    assert found.tolist() == [3 * number + 1 for number in range(1000)]


def test_timelines_of_any_order_are_searched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = made_of({("a",): [0, MINUTE], ("b",): [5 * MINUTE]})
    monkeypatch.setattr(columnar, "_LARGEST", 0)
    ranks = made_of({("b",): [1, 2, 3]})
    keys = ["a", "b", "c"]
    first = np.stack([timeline.arrays.first(keys) for timeline in (ticks, ranks, ticks)])
    at = np.array([[MINUTE, MINUTE, 0], [2, 2, 2], [7 * MINUTE] * 3])
    found = TimelineArrays.find([ticks.arrays, ranks.arrays, ticks.arrays], first, at)
    assert found.tolist() == [[1, -1, -1], [-1, 1, -1], [1, 2, -1]]
