"""Kill and rollback with two workers under load: no answer comes from what was taken away, and how soon."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from pilotage.release import commands
from pilotage.release.stages import ModelState
from tests.faults.checker import check
from tests.faults.crowd import Crowd, Seen
from tests.faults.world import Serving, World

ROUNDS = 10
PROMISED_S = 2.0


def decide(
    crowd: Crowd, serving: Serving, decision: Callable[[], ModelState], wrong: Callable[[Seen], bool]
) -> tuple[float, float, int]:
    """Decides, and waits until both workers say that they go by it.

    Returns:
        Seconds from the commit (from before it, to be exact: the call returns after it) to the last request that was
        still answered as before, and to the workers' own word; and how many requests were sent after that.
    """
    # What came before the commit, and what was under way then, may say anything.
    state = decision()
    committed = time.monotonic()
    serving.until_sequence("tiny", state.sequence)
    told = time.monotonic()
    crowd.until_more(200, sent_after=told)
    late = [each for each in crowd.seen if each.status == 200 and each.sent > committed and wrong(each)]
    after = [each for each in crowd.seen if each.sent > told]
    assert [each for each in after if each.status == 200 and wrong(each)] == [], "no worker answers as before"
    return max((each.sent - committed for each in late), default=0.0), told - committed, len(after)


@pytest.mark.timeout(900)
def test_after_a_rollback_to_a_version_that_no_worker_holds_any_more_it_answers_soon(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    settings = world.settings
    for version in (2, 3):
        world.release("tiny", version)
    latest = {"taken back": 0.0, "target": 0.0}
    with world.serving() as serving, Crowd(serving.port, draw, connections=8, named=0.0) as crowd:
        crowd.until_more(100, version=3)
        for _ in range(ROUNDS):
            asked = time.monotonic()
            state = commands.rollback("tiny", 1, settings=settings, actor="ada", why="a test")
            recorded = time.monotonic()
            serving.until_sequence("tiny", state.sequence)
            crowd.until_more(200, version=1, sent_after=time.monotonic())
            since = [each for each in crowd.seen if each.status == 200 and each.sent > recorded]
            by_others = [each for each in since if each.answer["version"] != 1]
            taken_back = max((each.sent - recorded for each in by_others if each.answer["version"] == 3), default=0.0)
            target = max((each.sent - recorded for each in by_others), default=0.0)
            tell(
                f"recorded after {recorded - asked:.2f} s; its last answer {taken_back:.2f} s after, and the last one "
                f"that is not the target's {target:.2f} s ({len(by_others)} of {len(since)} by others)"
            )
            latest = {"taken back": max(taken_back, latest["taken back"]), "target": max(target, latest["target"])}
            for version in (2, 3):
                state = commands.promote("tiny", version, settings=settings, actor="ada", why="a test")
                serving.until_sequence("tiny", state.sequence)
                crowd.until_more(50, version=version, answered_by="model")
        crowd.stop()
    checked = check(world, crowd.seen)
    tell(f"{ROUNDS} rounds; latest: {latest} (promised: {PROMISED_S} s); {checked}")
    assert (checked.unlogged, checked.refused, checked.broken) == (0, {}, 0)


@pytest.mark.timeout(900)
def test_after_a_kill_no_answer_comes_from_a_model_and_after_a_rollback_none_from_that_version(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    settings = world.settings
    world.release("tiny", 2)
    longest: dict[str, float] = {"kill": 0.0, "rollback": 0.0}
    with world.serving() as serving, Crowd(serving.port, draw, connections=8, named=0.0) as crowd:
        crowd.until_more(100, version=2)
        for _ in range(ROUNDS):
            last, told, after = decide(
                crowd,
                serving,
                lambda: commands.kill("tiny", settings=settings, actor="ada", why="a test"),
                lambda each: each.answer["answered_by"] != "rule",
            )
            longest["kill"] = max(longest["kill"], last)
            tell(f"kill: the model's last answer {last:.3f} s after, told by all at {told:.2f} s; {after} since")
            state = commands.resume("tiny", settings=settings, actor="ada", why="a test")
            serving.until_sequence("tiny", state.sequence)
            crowd.until_more(50, version=2, answered_by="model")
            last, told, after = decide(
                crowd,
                serving,
                lambda: commands.rollback("tiny", settings=settings, actor="ada", why="a test"),
                lambda each: each.answer["version"] != 1,
            )
            longest["rollback"] = max(longest["rollback"], last)
            tell(f"rollback: the version's last answer {last:.3f} s after, told by all at {told:.2f} s; {after} since")
            state = commands.promote("tiny", 2, settings=settings, actor="ada", why="a test")
            serving.until_sequence("tiny", state.sequence)
            crowd.until_more(50, version=2, answered_by="model")
        crowd.stop()
    checked = check(world, crowd.seen)
    tell(f"{ROUNDS} rounds; longest: {longest} (promised: {PROMISED_S} s); {checked}")
    assert (checked.unlogged, checked.refused, checked.broken) == (0, {}, 0)
