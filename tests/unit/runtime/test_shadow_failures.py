"""What counts against a shadow version, and what of it follows the version into its next role."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pilotage.errors import ModelNotReady, PilotageError, StateUnavailable
from pilotage.runtime.drafts import Drafted
from tests.unit.runtime.test_responder import fail
from tests.unit.runtime.test_responding_parts import offer_all, shadowing
from tests.unit.runtime.world import World, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With a shadow that takes no more than 5 EUR."""
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    spec = world.specs["one"]
    narrow = tuple(each.model_copy(update={"maximum": 5.0}) if each.name == "amount" else each for each in spec.request)
    shadow = world.made("one", 2, "shadow", spec=spec.model_copy(update={"request": narrow}))
    world.decide("one", shadows=(shadow,))
    return world


def shown(world: World, drafts: Iterable[Drafted], *, together: bool) -> list[str | None]:
    """What the shadow says is wrong, of each request; ``None`` where it predicts."""
    queue, logged = shadowing(world)
    offer_all(queue, drafts, together=together)
    return [record.error for record in logged]


@pytest.mark.parametrize("together", [True, False])
def test_what_a_shadow_does_not_take_is_no_failure_of_it(world: World, together: bool) -> None:
    [shadow] = world.follower.boards["one"].shadows
    said = len(world.said)
    drafts = [world.answer("one", amount=amount) for amount in [*range(6, 16), 4.0]]
    errors = shown(world, drafts, together=together)
    assert errors[-1] is None
    assert all(error is not None and "amount" in error for error in errors[:-1])
    assert not shadow.breaker.open
    assert world.said[said:] == [], "nobody has to do anything"


@pytest.mark.parametrize(
    "error",
    [StateUnavailable("None.", fix="Make it."), ModelNotReady("None.", fix="Make it.")],
    ids=lambda each: type(each).__name__,
)
def test_missing_history_is_no_failure_of_a_shadow(world: World, error: PilotageError) -> None:
    [shadow] = world.follower.boards["one"].shadows
    drafts = [world.answer("one", amount=amount) for amount in range(1, 9)]
    mended = [fail(shadow, step, error) for step in ("score_one", "score_many")]
    assert shown(world, drafts, together=False) == ["None."] * 8
    assert not shadow.breaker.open
    for mend in mended:
        mend()
    assert shown(world, drafts[:1], together=False) == [None]


def test_a_shadow_on_trial_whose_batch_fails_at_once_is_asked_one_by_one(world: World) -> None:
    [shadow] = world.follower.boards["one"].shadows
    for _ in range(5):
        shadow.breaker.failed()
    shadow.breaker._not_before = 0.0
    fail(shadow, "score_many")
    drafts = [world.answer("one", amount=amount) for amount in (1.0, 2.0)]
    assert shown(world, drafts, together=True) == [None, None]


def test_a_version_that_gets_another_role_begins_anew_and_one_that_keeps_it_does_not(world: World) -> None:
    board = world.follower.boards["one"]
    for loaded in board.loaded().values():
        for _ in range(5):
            loaded.breaker.failed()
    world.decide("one", shadows=(), canary=world.made("one", 2, "canary", share=1.0, salt="salt"))
    board = world.follower.boards["one"]
    assert board.champion is not None
    assert board.champion.breaker.open, "its role is the same"
    assert board.canary is not None
    assert not board.canary.loaded.breaker.open
    assert world.answer("one", amount=4.0).answer.stage == "canary"
    for _ in range(5):
        board.canary.loaded.breaker.failed()
    world.decide("one", canary=world.made("one", 2, "canary", share=0.5, salt="salt"))
    canary = world.follower.boards["one"].canary
    assert canary is not None
    assert canary.loaded.breaker.open, "another share is the same role"


def test_a_champion_that_waits_for_its_successor_to_load_is_one_version_with_one_breaker(world: World) -> None:
    for _ in range(5):
        world.follower.boards["one"].champion.breaker.failed()  # type: ignore[union-attr]
    world.release("one", 3, look=False)
    world.follower.follow()
    board = world.follower.boards["one"]
    assert board.champion is not None
    assert board.previous is board.champion
    assert board.champion.breaker.open
    world.follower.look()
    board = world.follower.boards["one"]
    assert [each.version for each in (board.champion, board.previous) if each] == [3, 1]
    assert not board.previous.breaker.open, "it is the one before now"
