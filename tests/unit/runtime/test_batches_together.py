"""Rows of several requests that are answered together: each request gets what it would get by itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import ModelNotReady, StateUnavailable, UnknownModel
from pilotage.runtime.drafts import Drafted, DraftedRows
from pilotage.runtime.prepared import PreparedRows
from pilotage.runtime.responder import Many
from pilotage.testing.bundles import ORDER
from tests.unit.runtime.test_follower import make_online
from tests.unit.runtime.test_many_rows import orders, records_of, the_same, with_canary
from tests.unit.runtime.world import World, batch, world_of

WRONG: list[Any] = [7, {}, {**ORDER, "amount": "much"}, {**ORDER, "ordered_at": "soon"}]


def together(world: World, batches: list[list[Any]], model: str = "one", **more: Any) -> list[Many]:
    asked = [batch(rows, f"r-{number}") for number, rows in enumerate(batches)]
    return world.responder.answer_many(model, asked, **more)


def check(world: World, batches: list[list[Any]], model: str = "one", **more: Any) -> list[Many]:
    """Each request's answers, errors and records are those that it gets by itself."""
    answered = together(world, batches, model, **more)
    for number, (rows, many) in enumerate(zip(batches, answered, strict=True)):
        [own] = world.responder.answer_many(model, [batch(rows, f"r-{number}")], **more)
        assert (type(many.results), len(many.payloads)) == (type(own.results), len(own.payloads))
        for mine, its in zip(many.results, own.results, strict=True):
            assert type(mine) is type(its)
            if isinstance(mine, Drafted) and isinstance(its, Drafted):
                assert mine.asked.request == its.asked.request
                assert (mine.answer.probability, mine.answer.entity) == (its.answer.probability, its.answer.entity)
                assert (mine.scored, mine.answer.answered_by) == (its.scored, its.answer.answered_by)
            else:
                assert str(mine) == str(its)
        for record, its_record in zip(records_of(many), records_of(own), strict=True):
            assert record.request_id == f"r-{number}"
            the_same(record, its_record)
        ids = [each.answer.prediction_id for each in many.results if isinstance(each, Drafted)]
        assert [record.prediction_id for record in records_of(many)] == ids
    return answered


@pytest.mark.parametrize("model", ["one", "stateful"])
def test_whatever_the_sizes_and_the_errors(tmp_path: Path, model: str) -> None:
    world = world_of(tmp_path, model)
    if model == "stateful":
        make_online(tmp_path)
    world.release(model, 1)
    chance = random.Random(7)
    for _ in range(25):
        batches = [
            [chance.choice(WRONG) if chance.random() < 0.2 else row for row in orders(chance.choice((0, 1, 2, 17, 40)))]
            for _ in range(chance.randint(1, 5))
        ]
        check(world, batches, model)


def test_they_are_scored_once_and_written_each_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    champion = world.follower.boards["one"].champion
    assert champion is not None
    score, asked = champion.predictor.score_many, []
    monkeypatch.setattr(
        champion.predictor, "score_many", lambda rows, state: asked.append(len(rows)) or score(rows, state)
    )
    answered = together(world, [orders(30), [7], orders(3)])
    assert asked == [34]
    assert [len(many.payloads) for many in answered] == [1, 0, 1]
    assert isinstance(answered[0].results, DraftedRows)


def test_with_a_canary_each_row_is_drawn_by_lot(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    with_canary(world, 0.5)
    answered = check(world, [orders(20), [*orders(10), 7]])
    assert {each.answer.version for many in answered for each in many.results if isinstance(each, Drafted)} == {1, 2}
    check(world, [orders(3), orders(30)], version=2)
    with pytest.raises(UnknownModel, match="Version 9"):
        together(world, [orders(1), orders(1)], version=9)


def test_of_a_killed_model_each_row_gets_the_rule(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", killed="it lies")
    for many in check(world, [orders(2), orders(30)]):
        assert {each.answer.answered_by for each in many.results if isinstance(each, Drafted)} == {"rule"}


def test_a_version_that_fails_for_one_row_answers_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    champion = world.follower.boards["one"].champion
    assert champion is not None
    prepare, prepare_many = champion.predictor.prepare, champion.predictor.prepare_many

    def picky(request: Any, state: Any) -> Any:
        if request["order_id"] == "A-13":
            raise RuntimeError("broken")
        return prepare(request, state)

    def picky_many(requests: Any, state: Any) -> PreparedRows:
        for request in requests:
            picky(request, state)
        return prepare_many(requests, state)

    monkeypatch.setattr(champion.predictor, "prepare", picky)
    monkeypatch.setattr(champion.predictor, "prepare_many", picky_many)
    long, short = together(world, [orders(30), orders(5)])
    told = [each.answer.answered_by for each in long.results if isinstance(each, Drafted)]
    assert told == ["model"] * 13 + ["rule"] + ["model"] * 16
    assert [each.answer.answered_by for each in short.results if isinstance(each, Drafted)] == ["model"] * 5


def test_a_model_that_gives_no_probability_for_one_row_answers_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    champion = world.follower.boards["one"].champion
    assert champion is not None
    scorer = champion.predictor.bundle.scorer
    score = scorer.score_matrix
    monkeypatch.setattr(scorer, "score_matrix", lambda matrix: [float("nan"), *score(matrix)[1:]])
    first, second = together(world, [orders(30), orders(40)[30:]])
    seen = [record.request["order_id"] for many in (first, second) for record in records_of(many)]
    assert seen == [row["order_id"] for row in orders(40)]


def test_what_concerns_all_is_told_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, "stateful", "one")
    with pytest.raises(ModelNotReady):
        together(world, [orders(1), orders(2)])
    make_online(tmp_path)
    world.release("stateful", 1)
    board = world.follower.boards["stateful"]
    assert board.champion is not None

    def gone(*_: Any) -> Any:
        raise StateUnavailable("The state is gone.", fix="Bring it back.")

    monkeypatch.setattr(board.champion.predictor, "_snapshot", gone)
    for many in check(world, [orders(2), orders(30)], "stateful"):
        assert {each.answer.answered_by for each in many.results if isinstance(each, Drafted)} == {"rule"}


@pytest.mark.parametrize("size", [5, 40], ids=["one by one", "at once"])
def test_a_part_of_what_was_prepared_together_is_what_was_prepared_by_itself(tmp_path: Path, size: int) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    champion, board = world.follower.boards["one"].champion, world.follower.boards["one"]
    assert champion is not None
    first, second = [*orders(size), 7], [{}, *orders(size)[::-1]]
    whole = champion.predictor.score_many(first + second, board.state)
    for rows, part in zip((first, second), whole.parts([size + 1, size + 1]), strict=True):  # type: ignore[attr-defined]
        own = champion.predictor.score_many(rows, board.state)
        assert list(map(repr, part)) == list(map(repr, own))
        mine, its = part.prepared, own.prepared  # type: ignore[attr-defined]
        assert (mine.row_keys(), mine.moments, list(mine.places)) == (its.row_keys(), its.moments, list(its.places))
        assert mine.matrix().tobytes() == its.matrix().tobytes()
        assert list(map(list, mine.requests())) == list(map(list, its.requests()))
        assert list(map(list, mine.features())) == list(map(list, its.features()))
        assert list(mine.all()) == list(its.all())
