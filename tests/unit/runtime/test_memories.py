"""What a worker remembers: probabilities by features, and answers by the values of the request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pilotage.runtime.answer import Answer
from pilotage.runtime.answered import AnsweredRows, Own
from pilotage.runtime.answers_cache import AnswersCache
from pilotage.runtime.earlier_answers import Earlier, EarlierAnswers
from pilotage.testing.bundles import START

KEYS = st.integers(0, 7).map(lambda number: b"features %d" % number)

# Probabilities by version and features


@given(
    st.integers(0, 5),
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 2), st.lists(st.tuples(KEYS, st.floats(0, 1)), max_size=6)), max_size=30
    ),
)
def test_what_is_found_is_what_that_version_said_last_to_the_same_features(
    size: int, steps: list[tuple[bool, int, list[tuple[bytes, float]]]]
) -> None:
    cache = AnswersCache(size)
    said: dict[tuple[int, bytes], float] = {}
    asked = hits = 0
    for writes, version, pairs in steps:
        keys = [key for key, _ in pairs]
        if writes:
            cache.put(version, keys, [probability for _, probability in pairs])
            said |= {(version, key): probability for key, probability in pairs}
        else:
            found = cache.get(version, keys)
            assert len(found) == len(keys)
            for key, probability in zip(keys, found, strict=True):
                assert probability is None or probability == said[version, key]
            asked, hits = asked + len(keys), hits + len(keys) - found.count(None)
        assert len(cache) <= size
    assert (cache.hits, cache.misses) == (hits, asked - hits)


def test_what_was_put_last_is_found() -> None:
    cache = AnswersCache(3)
    for number in range(50):
        cache.put(1, [b"%d" % number], [number / 100])
        assert cache.get(1, [b"%d" % number]) == [number / 100]
        assert cache.get(2, [b"%d" % number]) == [None]
    assert len(cache) == 3


def test_a_zero_is_a_probability() -> None:
    cache = AnswersCache(10)
    cache.put(1, [b"a"], [0.0])
    assert cache.get(1, [b"a", b"b"]) == [0.0, None]


@pytest.mark.parametrize(("others", "at_least"), [(100, 0.9), (1_000, 0.8), (10_000, 0.25)])
def test_of_what_others_came_after_so_much_is_still_known(others: int, at_least: float) -> None:
    cache = AnswersCache(10_000)
    keys = [b"mine %d" % number for number in range(1_000)]
    cache.put(1, keys, [0.5] * len(keys))
    cache.put(1, [b"others %d" % number for number in range(others)], [0.5] * others)
    assert sum(found is not None for found in cache.get(1, keys)) / len(keys) > at_least


# Answers by the values of the request


def answer(version: int, number: int) -> Answer:
    return Answer(
        prediction_id=str(number),
        model="tiny",
        version=version,
        stage="champion",
        answered_by="model",
        probability=number / 1_000,
        decision=None if number % 3 == 0 else number % 3 == 1,
        referred=number % 3 == 0,
        label="late",
        entity={"order_id": str(number)},
        predicted_at=START + timedelta(microseconds=number),
        state_through=None,
    )


def rows(answers: Sequence[Answer], version: int, at: datetime) -> AnsweredRows:
    own = Own(
        prediction_id=[each.prediction_id for each in answers],
        probability=[each.probability or 0.0 for each in answers],
        decision=[each.decision for each in answers],
        referred=[each.referred for each in answers],
        reasons=[()] * len(answers),
        entity=[each.entity for each in answers],
    )
    return AnsweredRows(len(answers), {}, msgspec.structs.replace(answers[0], version=version, predicted_at=at), own)


@example(2, [("put", [0, 1]), ("get", [1]), ("put", [0]), ("get", [1]), ("put", [2]), ("get", [0])])
@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["get", "put", "many"]), st.lists(st.integers(0, 7), max_size=6))),
)
def test_a_versions_answer_is_found_while_it_is_among_the_newest(size: int, steps: list[tuple[str, list[int]]]) -> None:
    memory = EarlierAnswers(size)
    written: list[tuple[tuple[int, int], Earlier]] = []
    for step, keys in steps:
        if step == "get":
            for pair in ((version, key) for key in keys for version in (1, 2, 3)):
                newest = max((place for place, (each, _) in enumerate(written) if each == pair), default=None)
                found = memory.get(pair[0], [pair[1], "x"])
                assert found is None or (newest is not None and found == written[newest][1])
                assert found is not None or pair not in [each for each, _ in written[max(0, len(written) - size) :]]
            continue
        if not keys:
            continue
        version, first = 1 + len(written) % 3, len(written)
        answers = [answer(version, first + place) for place in range(len(keys))]
        at = answers[0].predicted_at
        if step == "many":
            memory.put_many(([key, "x"] for key in keys), rows(answers, version, at))
        else:
            for key, each in zip(keys, answers, strict=True):
                memory.put([key, "x"], each)
        for key, each in zip(keys, answers, strict=True):
            moment = at if step == "many" else each.predicted_at
            written.append(((version, key), Earlier(version, moment, each.probability, each.decision, each.referred)))
        assert len(memory._known) <= size
        waiting = sum(len(msgspec.msgpack.decode(packed)[2]) for _, packed in memory._written)
        assert waiting == memory._waiting < size + 6
        assert waiting < size or not memory._known


@pytest.mark.parametrize(
    "value",
    ["", "Zürich", 2**63 - 1, -(2**63), 0.1, -0.0, 1e308, 5e-324, True, None, START, START + timedelta(microseconds=1),
     datetime(1900, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)],
)  # fmt: skip
def test_whatever_a_contract_takes_is_remembered_as_it_is(value: Any) -> None:
    memory = EarlierAnswers(10)
    memory.put([value, "a"], answer(7, 5))
    assert memory.get(7, [value, "a"]) == Earlier(7, START + timedelta(microseconds=5), 0.005, False, False)
    assert memory.get(7, [value, "b"]) is None
    assert memory.get(8, [value, "a"]) is None
