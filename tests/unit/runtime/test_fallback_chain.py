"""Who answers when versions fail or differ in what they take: trials, the answers of before, the rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import InvalidRequest, StateUnavailable
from pilotage.runtime.board import Loaded
from pilotage.spec import Serving
from pilotage.testing.bundles import tiny_spec
from tests.unit.runtime.test_responder import fail
from tests.unit.runtime.world import ORDER, World, world_of

# Trials


def broken(world: World) -> Loaded:
    """The champion, mended after its breaker opened, with a trial due."""
    champion = world.follower.boards["one"].champion
    assert champion is not None
    mended = fail(champion)
    for number in range(3):
        world.answer("one", amount=float(number))
    mended()
    assert champion.breaker.open
    champion.breaker._not_before = 0.0
    return champion


def alone(world: World) -> None:
    with pytest.raises(InvalidRequest):
        world.answer("one", amount="much")


def in_bulk(world: World) -> None:
    world.answer_rows("one", [{}] * 30)


def one_that_fails_at_once(world: World) -> None:
    champion = world.follower.boards["one"].champion
    assert champion is not None
    mended = fail(champion, "score_many")
    world.answer_rows("one", [ORDER, {**ORDER, "amount": 7.0}])
    mended()
    assert not champion.breaker.open


def without_history(world: World) -> None:
    mended = fail(world.follower.boards["one"].champion, "prepare", StateUnavailable("None.", fix="Make it."))
    assert world.answer("one").answer.answered_by in ("rule", "cached_answer")
    mended()


@pytest.mark.parametrize("trial", [alone, in_bulk, one_that_fails_at_once, without_history])
def test_a_trial_that_says_nothing_of_the_version_is_left_to_the_next_request(
    tmp_path: Path, trial: Callable[[World], Any]
) -> None:
    world = world_of(tmp_path, "one", serving=Serving(break_after=3, break_for=timedelta(hours=1)))
    world.release("one", 1)
    champion = broken(world)
    trial(world)
    assert world.answer("one", amount=9.0).answer.answered_by == "model"
    assert not champion.breaker.open


# The answer of before


def test_another_request_with_the_same_values_in_other_fields_does_not_get_its_answer(tmp_path: Path) -> None:
    spec = tiny_spec("one")
    fields = {each.name: each for each in spec.request}
    swapped = {"order_id": "courier", "courier": "order_id"}
    request = tuple(fields[swapped.get(each.name, each.name)] for each in spec.request)
    world = World(tmp_path, spec.model_copy(update={"request": request}))
    world.decide("one", champion=world.made("one", 1, spec=spec))
    sent = {**ORDER, "order_id": "ann", "courier": "bob"}
    before = world.answer("one", sent).answer
    world.release("one", 2)
    for loaded in world.follower.boards["one"].loaded().values():
        fail(loaded, "prepare")
    assert world.answer("one", {**sent, "order_id": "bob", "courier": "ann"}).answer.answered_by == "rule"
    again = world.answer("one", sent).answer
    assert (again.answered_by, again.version, again.probability) == ("cached_answer", 1, before.probability)
