"""kill -9 again and again, while clients go on asking: what was acknowledged is in the log, and in the lake, once."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.faults.checker import check
from tests.faults.crowd import Crowd
from tests.faults.world import World

KILLS = 50


@pytest.mark.timeout(1800)
def test_no_acknowledged_prediction_is_missing_after_fifty_killed_workers(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    killed, lives = 0, 0
    with ExitStack() as last:
        crowd = Crowd(0, draw, models=("tiny", "tiny_high", "tiny_state"))
        while killed < KILLS:
            # A new service: the one before was killed as a whole.
            lives += 1
            with world.serving(f"life-{lives}") as serving:
                crowd.port = serving.port
                if lives == 1:
                    last.enter_context(crowd)
                while killed < KILLS:
                    crowd.until_more(draw.randrange(1, 200))
                    how = draw.choice(("one", "both", "everything"))
                    if how == "everything":
                        killed += serving.kill_everything()
                        break
                    pids = sorted(each["pid"] for each in serving.until_complete())
                    serving.kill_workers(pids if how == "both" else [draw.choice(pids)])
                    killed += len(pids) if how == "both" else 1
                    tell(f"{how}: {killed} workers killed, {len(crowd.seen)} requests")
                    serving.until_complete()
                else:
                    # Who waits for an answer gets it from the last one.
                    crowd.stop()
                tell(f"everything: {killed} workers killed, {len(crowd.seen)} requests")
        if lives and not crowd._stopping:
            with world.serving("afterwards") as serving:
                crowd.port = serving.port
                crowd.until_more(100)
                crowd.stop()
    tell(f"{killed} workers killed in {lives} lives of the service; {check(world, crowd.seen)}")
