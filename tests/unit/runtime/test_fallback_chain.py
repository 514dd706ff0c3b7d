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
