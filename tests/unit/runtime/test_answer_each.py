"""Requests that came together get what each would get alone: answers, errors, records, and fallbacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotage.errors import InvalidRequest, ModelNotReady, PilotageError, UnknownModel
from pilotage.runtime.drafts import Asked, Drafted
from pilotage.runtime.responder import Many
from pilotage.testing.bundles import ORDER
from tests.unit.runtime.test_follower import make_online
from tests.unit.runtime.test_many_rows import alone, orders, records_of, the_same, with_canary
from tests.unit.runtime.world import World, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = world_of(tmp_path, "one")
    made.release("one", 1)
    return made


def ask(world: World, requests: list[Any], model: str = "one") -> Many:
    asked = [Asked(each, f"r-{at}", f"k-{at}", time.perf_counter_ns()) for at, each in enumerate(requests)]
    return world.responder.answer_each(model, asked)


def together(world: World, requests: list[Any], model: str = "one") -> list[Drafted | Exception]:
    return list(ask(world, requests, model).results)


def check(world: World, requests: list[Any], model: str = "one") -> list[Drafted]:
    """Each gets what it would get alone; gives the answered ones."""
    drafts: list[Drafted] = []
    many = ask(world, requests, model)
    records = iter(records_of(many))
    for at, (request, result) in enumerate(zip(requests, many.results, strict=True)):
        try:
            drafted, record = alone(world, request, model)
        except PilotageError as error:
            assert (type(result), str(result)) == (type(error), str(error))
            continue
        assert isinstance(result, Drafted)
        told = next(records)
        assert (told.request_id, told.caller) == (f"r-{at}", f"k-{at}")
        the_same(told, msgspec.structs.replace(record, request_id=told.request_id, caller=told.caller))
        assert (told.prediction_id, result.asked.request) == (result.answer.prediction_id, request)
        own = {"prediction_id": "", "predicted_at": drafted.answer.predicted_at}
        assert msgspec.structs.replace(result.answer, **own) == msgspec.structs.replace(drafted.answer, **own)
        assert (result.scored, result.loaded) == (drafted.scored, drafted.loaded)
        drafts.append(result)
    assert next(records, None) is None
    assert len({each.answer.prediction_id for each in drafts}) == len(drafts)
    return drafts


def test_those_that_one_version_answers_are_one_record(world: World) -> None:
    assert len(ask(world, [*orders(16), *WRONG]).payloads) == 1
    assert ask(world, WRONG).payloads == []


def test_each_took_its_own_time(world: World) -> None:
    now = time.perf_counter_ns()
    asked = [Asked(order, "r", "k", now - at * 10**9) for at, order in enumerate(orders(3))]
    took = [record.latency_us // 10**6 for record in records_of(world.responder.answer_each("one", asked))]
    assert took == [0, 1, 2]


WRONG = [7, {}, {**ORDER, "amount": "much"}, None]


@pytest.mark.parametrize("number", [1, 2, 16, 40], ids="{}".format)
def test_each_gets_its_own_answer_or_error(world: World, number: int) -> None:
    assert len(check(world, orders(number))) == number
    mixed = [each for pair in zip(orders(number), WRONG * number, strict=False) for each in pair]
    assert len(check(world, mixed)) == number
    assert check(world, WRONG) == []


def test_each_is_drawn_by_lot_for_itself(world: World) -> None:
    with_canary(world, 0.5)
    assert {each.answer.version for each in check(world, [*orders(40), *WRONG])} == {1, 2}


@pytest.mark.parametrize("number", [3, 40])
def test_all_are_answered_from_one_state(tmp_path: Path, number: int) -> None:
    world = world_of(tmp_path, "stateful")
    make_online(tmp_path)
    world.release("stateful", 1)
    drafts = check(world, [*orders(number), {**ORDER, "ordered_at": "1999-01-01T00:00:00Z"}], "stateful")
    assert len({each.scored.prepared.state for each in drafts if each.scored and each.loaded}) == 1


def test_what_was_said_to_the_same_features_is_remembered(world: World) -> None:
    answers = world.responder.desks["one"].answers
    together(world, orders(5))
    assert (answers.hits, answers.misses, len(answers)) == (0, 5, 5)
    world.follower.boards["one"].champion.predictor.probabilities = None  # type: ignore[assignment,union-attr,method-assign]
    drafts = [each for each in together(world, orders(5)) if isinstance(each, Drafted)]
    assert (answers.hits, answers.misses, len(drafts)) == (5, 5, 5)
    assert {each.answer.answered_by for each in drafts} == {"model"}


def test_one_that_fails_the_model_fails_nobody_else(world: World) -> None:
    predictor = world.follower.boards["one"].champion.predictor  # type: ignore[union-attr]
    score, decide = predictor.probabilities, predictor.decide
    bad = predictor.prepare(orders(3)[1], None).key

    def choosy(keys: Any) -> Any:
        if bad in keys:
            raise RuntimeError("broken")
        return score(keys)

    def choosy_alone(prepared: Any) -> Any:
        choosy([prepared.key])
        return decide(prepared)

    predictor.probabilities, predictor.decide = choosy, choosy_alone  # type: ignore[method-assign]
    said = [each.answer.answered_by for each in together(world, orders(3)) if isinstance(each, Drafted)]
    assert said == ["model", "rule", "model"]
    assert any("failed for 3 requests at once: broken" in each for each in world.said)


def test_only_what_is_not_remembered_is_asked_of_the_model(world: World) -> None:
    predictor = world.follower.boards["one"].champion.predictor  # type: ignore[union-attr]
    probabilities, asked = predictor.probabilities, []

    def counted(keys: Sequence[bytes]) -> list[float]:
        asked.append(len(keys))
        return probabilities(keys)

    predictor.probabilities = counted  # type: ignore[method-assign]
    first, again, once_more = (
        [each.answer.probability for each in together(world, orders(number)) if isinstance(each, Drafted)]
        for number in (3, 5, 5)
    )
    assert asked == [3, 2]
    assert first == again[:3]
    assert again == once_more == [alone(world, order)[0].answer.probability for order in orders(5)]
    assert not any("failed" in each for each in world.said)


def test_a_model_that_gives_no_probability_is_asked_alone_and_not_remembered(world: World) -> None:
    predictor = world.follower.boards["one"].champion.predictor  # type: ignore[union-attr]
    predictor.probabilities = lambda keys: [7.0] * len(keys)  # type: ignore[method-assign]
    assert len(check(world, orders(3))) == 3
    answers = world.responder.desks["one"].answers
    assert all(0 <= entry[2] <= 1 for entry in answers._entries if entry is not None)


def test_a_fault_of_ours_is_told_to_the_one_it_concerns(world: World) -> None:
    writer = world.responder.desks["one"].writer
    write = writer.write
    writer.write_rows = None  # type: ignore[assignment]

    def failing(board: Any, asked: Asked, **more: Any) -> Drafted:
        if asked.request["order_id"] == "A-1":
            raise RuntimeError("no ink")
        return write(board, asked, **more)

    writer.write = failing  # type: ignore[method-assign]
    first, second, third = together(world, orders(3))
    assert isinstance(second, RuntimeError)
    assert isinstance(first, Drafted)
    assert isinstance(third, Drafted)


def test_a_killed_model_answers_by_its_rule(world: World) -> None:
    world.decide("one", killed="wrong")
    assert {each.answer.answered_by for each in check(world, [*orders(3), {}])} == {"rule"}


def test_without_a_version_there_is_no_answer(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    for number in (1, 3):
        with pytest.raises(UnknownModel):
            [error] = {type(each): each for each in together(world, orders(number), "none")}.values()
            raise error  # type: ignore[misc]
    with pytest.raises(ModelNotReady):
        together(world, orders(3))
    [refused] = together(world, orders(1))
    assert isinstance(refused, ModelNotReady)


def test_what_is_wrong_is_no_failure_of_the_version(world: World) -> None:
    for _ in range(10):
        assert all(isinstance(each, InvalidRequest) for each in together(world, WRONG))
    assert world.follower.boards["one"].champion.breaker.allows()  # type: ignore[union-attr]
