"""Kill the daemon, run workers, step processes and the code server at every step of a retraining, forget cursors and
tell everything twice: a request still ends in one finished attempt, and in one version at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotage.release.retraining.records import Request
from tests.faults.plant import Plant

STEPS = ("features", "training_set", "trained_model", "evaluation", "registered_version")
FAULTS, SLOW_FAULTS = 6, 3
"""Faults a test draws: minutes. With another seed, others. Those with a process a step take four times as long."""

pytestmark = pytest.mark.timeout(3600)


def suffer(
    plant: Plant, victims: tuple[str, ...], draw: random.Random, tell: Callable[[str], None], *, faults: int
) -> None:
    """Asks again and again, kills something at some step, and holds what comes of it to the promise."""
    drawn = [(draw.choice(victims), draw.choice(STEPS)) for _ in range(faults)]
    drawn[: len(victims)] = [(victim, draw.choice(STEPS)) for victim in victims]
    with plant.running():
        for place, (victim, step) in enumerate(drawn):
            occasion = f"fault {place}"
            number = plant.asks(occasion)
            plant.until(
                lambda number=number: plant.steps_begun(number),  # type: ignore[misc]
                lambda begun, step=step: step in begun,  # type: ignore[misc]
                what=f"{step} of request {number}",
            )
            killed = plant.kill(victim)
            plant.forget_cursors()
            # Told again, it is the same: an occasion counts once, open or closed.
            plant.tells_again(occasion)
            closed = plant.until_closed(number)
            plant.look()
            came = f"{len(closed.attempts)} attempts, {closed.outcome} {closed.version}"
            tell(f"{killed} {victim} killed at {step}: {came}")
            holds(plant, closed)
        # What still lives of killed runs may try to commit while others work; nothing of it may be recorded.
        plant.until(plant.unfinished_runs, lambda left: not left, what="all runs over")
        for request in plant.state.closed:
            holds(plant, request)
        assert plant.state.open is None
        assert plant.state.queued == ()


def holds(plant: Plant, closed: Request) -> None:
    """One finished attempt; one version at most, and that in the ledger once."""
    finished = [attempt for attempt in closed.attempts if attempt.failure is None]
    assert len(finished) == 1, closed
    assert closed.outcome in ("registered", "refused", "unchanged"), closed
    model = plant.model
    assert (closed.version is not None) == (closed.outcome == "registered")
    versions = [request.version for request in model.retraining.closed if request.version is not None]
    assert sorted(versions) == sorted(model.versions)
    assert len(closed.asks) == 1


def test_a_request_ends_once_whatever_process_is_killed(
    tmp_path: Path, draw: random.Random, tell: Callable[[str], None]
) -> None:
    suffer(Plant(tmp_path), ("daemon", "code_server", "run_worker"), draw, tell, faults=FAULTS)


def test_a_step_that_outlives_its_killed_run_records_nothing(
    tmp_path: Path, draw: random.Random, tell: Callable[[str], None]
) -> None:
    suffer(Plant(tmp_path, executor="multiprocess"), ("run_worker", "step"), draw, tell, faults=SLOW_FAULTS)
