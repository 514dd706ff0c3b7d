"""A champion is held against the one before it, on labelled answers on disk, and taken back when it does worse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.data.lake import Lake
from pilotage.features.state import microseconds
from pilotage.policy import Limit, Retraining, Watch
from pilotage.release import commands
from pilotage.release.events import Draft
from pilotage.release.feed import plan_of
from pilotage.release.retraining.watch import Looked, look, to_do, versus_limit
from pilotage.release.stages import ModelState
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle, tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.release.evidences import START
from tests.unit.release.lives import registered

WEEKS = timedelta(days=14)
LONG_AGO = datetime(2013, 3, 1, tzinfo=UTC)
SPEC = tiny_spec("tiny", retraining=Retraining(watch=Watch(lasts=WEEKS)))


class Clock:
    now = START - timedelta(hours=1)

    def __call__(self) -> Any:
        return self.now


class World:
    """A model whose version 2 replaced version 1, and its log."""

    def __init__(self, home: Path, spec: Any = SPEC, *, broken: bool = False) -> None:
        self.spec, self.clock = spec, Clock()
        self.settings = Settings(home=home)
        self.ledger = InMemoryLedger(clock=self.clock)
        for version in (1, 2):
            folder = home / str(version)
            sha256 = make_bundle(folder, spec=spec, seed=version)
            self.ledger.append(registered("tiny", version, bundle=str(folder), sha256=sha256))
            self.do(commands.promote, version)
        if broken:
            (home / "1" / "manifest.json").write_text("{}")
        self.clock.now = START + timedelta(hours=1)

    def do(self, command: Any, *arguments: Any) -> Any:
        by = {"settings": self.settings, "ledger": self.ledger, "actor": "ada", "why": "so"}
        return command("tiny", *arguments, spec=self.spec, **by)

    def do_plainly(self, command: Any) -> Any:
        return command("tiny", settings=self.settings, ledger=self.ledger, actor="ada", why="so")

    def answers(
        self,
        n: int,
        *,
        off: float = 0.0,
        before: float = 0.0,
        seed: int = 1,
        apart: timedelta | None = None,
        since: datetime = START,
        first: int = 0,
    ) -> None:
        """Labelled answers from a moment on, one a second; the champion's probabilities are off by some, and those of
        the version before by others. ``apart``: of a history that is replayed, whose prediction moments are so far from
        each other."""
        random, records = np.random.default_rng(seed), list[Any]()
        for number in range(first, first + n):
            truth, at = float(random.beta(2, 6)), microseconds(since + timedelta(seconds=number - first))
            label = bool(random.random() < truth)
            wrong = [float(np.clip(truth + (gap if not label else -gap), 0.01, 0.99)) for gap in (off, before)]
            records += [
                prediction(
                    number,
                    at=at,
                    moment=None if apart is None else microseconds(LONG_AGO + number * apart),
                    version=2,
                    routed_version=2,
                    probability=wrong[0],
                    decision=wrong[0] > 0.4,
                ),
                shadow(number, at=at, version=1, probability=wrong[1], decision=wrong[1] > 0.4),
                outcome(number, label=label, received_at=at + 1),
            ]
        write_segment(self.settings.prediction_log, records, number=first + 1)

    def look(self, *, after: timedelta = timedelta(days=1)) -> Looked:
        self.clock.now = START + after
        lake = Lake(self.settings.lake)
        return look(self.spec, settings=self.settings, lake=lake, now=self.clock.now, ledger=self.ledger, run="run-7")

    @property
    def state(self) -> ModelState:
        return fold(self.ledger.events())["tiny"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_champion_before_goes_on_predicting_unheard_and_still_steps_in(world: World) -> None:
    plan = plan_of(world.state)
    assert plan.previous is not None
    assert (plan.previous.version, [each.version for each in plan.shadows]) == (1, [1])
    assert world.state.under_way is None
    assert to_do(world.spec, world.state) == "version 2 is held against version 1"


def test_a_first_champion_has_nobody_to_be_held_against(tmp_path: Path) -> None:
    ledger = InMemoryLedger()
    ledger.append(registered("tiny", 1))
    promoted = {"how": "by hand", "watch_s": 3600}
    ledger.append(Draft(model="tiny", kind="promoted", version=1, actor="a", cause="c", payload=promoted))
    assert fold(ledger.events())["tiny"].watch is None


def test_a_champion_that_does_worse_is_taken_back_and_the_ledger_says_by_what(world: World) -> None:
    world.answers(600, off=0.25)
    looked = world.look()
    assert looked.did == "rolled_back"
    champion = world.state.champion
    assert champion is not None
    assert (champion.version, world.state.versions[2].stage, world.state.watch) == (1, "rolled_back", None)
    event = world.ledger.events()[-1]
    assert (event.kind, event.actor) == ("rolled_back", "watch")
    assert event.cause.startswith("Worse than version 1 before it: cost: ") or "brier: " in event.cause
    refuted = [test for test in event.payload["evidence"]["tests"] if test["refuted"]]
    assert refuted
    assert event.payload["evidence"]["run"] == "run-7"
    assert all(test["against"] == 1 and test["difference"] > 0 and test["observations"] == 600 for test in refuted)
    assert plan_of(world.state).shadows == ()


@pytest.mark.parametrize(("off", "before"), [(0.0, 0.0), (0.0, 0.25)])
def test_a_champion_that_is_no_worse_stays_and_the_watch_ends_with_its_time(
    world: World, off: float, before: float
) -> None:
    world.answers(600, off=off, before=before)
    assert world.look().did == "held"
    assert world.look(after=WEEKS).did == "ended"
    assert world.state.champion is not None
    assert (world.state.champion.version, world.state.watch) == (2, None)
    assert world.look(after=WEEKS).did == "nothing"


def test_a_history_that_is_replayed_is_compared_in_its_own_weeks_and_for_its_own_time(tmp_path: Path) -> None:
    short, long = World(tmp_path / "short"), World(tmp_path / "long")
    short.answers(600, apart=timedelta(minutes=20))
    long.answers(600, apart=timedelta(minutes=42))
    assert [world.look(after=timedelta(hours=1)).did for world in (short, long)] == ["held", "ended"]
    worse = World(tmp_path / "worse")
    worse.answers(600, off=0.25, apart=timedelta(minutes=42))
    assert worse.look(after=timedelta(hours=1)).did == "rolled_back"


def test_without_labels_nothing_is_decided(world: World) -> None:
    assert world.look().did == "held"
    assert len(world.ledger.events()) == 4


LIMITED = SPEC.model_copy(
    update={"retraining": Retraining(watch=Watch(lasts=WEEKS), limit=Limit(metric="brier", at=0.25))}
)


def test_above_its_limit_and_with_nobody_to_go_back_to_the_fallback_takes_over_and_a_person_is_called(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, LIMITED, broken=True)
    world.answers(600, off=0.6)
    looked = world.look()
    assert looked.did == "killed"
    assert world.state.killed is not None
    assert world.state.killed.actor == "watch"
    assert "It could not be taken back: " in world.state.killed.why
    assert "against the limit of 0.25" in world.state.killed.why
    assert [call.about for call in world.state.retraining.calls] == ["rollback", "limit"]
    assert world.look().did == "nothing"


def test_a_champion_within_its_limit_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, LIMITED)
    world.answers(600)
    assert world.look().did == "held"
    assert world.look(after=WEEKS).did == "ended"
    # The limit holds for as long as it is champion.
    assert to_do(world.spec, world.state) == "version 2 is held against its limit"


@pytest.mark.slow
def test_equal_champions_are_hardly_ever_taken_back_however_often_one_looks(tmp_path: Path) -> None:
    taken = 0
    for seed in range(8):
        world = World(tmp_path / str(seed))
        random, records = np.random.default_rng(seed), list[Any]()
        for number in range(400):
            at = microseconds(START + timedelta(seconds=number))
            ours, theirs = random.uniform(0.1, 0.5, 2)
            records += [
                prediction(number, at=at, version=2, routed_version=2, probability=ours, decision=False),
                shadow(number, at=at, version=1, probability=theirs, decision=False),
                outcome(number, label=bool(random.random() < 0.3), received_at=at + 1),
            ]
            if number % 80 == 79:
                write_segment(world.settings.prediction_log, records, number=number)
                records = []
                taken += world.look(after=timedelta(hours=number)).did == "rolled_back"
    assert taken <= 1


def test_time_in_which_the_model_was_killed_is_none_of_the_watch(world: World) -> None:
    world.do_plainly(commands.kill)
    world.clock.now = START + WEEKS
    world.do_plainly(commands.resume)
    assert world.look(after=WEEKS + timedelta(days=1)).did == "held"
    assert world.look(after=2 * WEEKS + timedelta(days=1)).did == "ended"


def test_a_watch_that_saw_nothing_says_so(world: World) -> None:
    looked = world.look(after=WEEKS + timedelta(days=1))
    assert looked.did == "ended"
    said = world.ledger.events()[-1].cause
    assert said.startswith("Not found to be worse than version 1: ")
    assert "nothing to compare yet" in said


ONLY_LIMITED = SPEC.model_copy(update={"retraining": Retraining(watch=None, limit=Limit(metric="brier", at=0.25))})


def test_what_was_before_a_resume_is_not_held_against_a_champion_and_a_second_kill_calls_again(tmp_path: Path) -> None:
    world = World(tmp_path, ONLY_LIMITED)
    world.answers(600, off=0.6)
    assert world.look(after=timedelta(hours=2)).did == "killed"
    world.clock.now = START + timedelta(hours=3)
    world.do_plainly(commands.resume)
    assert world.look(after=timedelta(hours=4)).did == "held"
    world.answers(600, off=0.6, since=START + timedelta(hours=5), first=1000)
    assert world.look(after=timedelta(hours=8)).did == "killed"
    assert [call.about for call in world.state.retraining.calls] == ["limit", "limit"]


def test_a_champion_that_a_person_changed_meanwhile_is_not_killed_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, ONLY_LIMITED)
    world.answers(600, off=0.6)

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        if world.state.champion and world.state.champion.version != 1:
            world.do(commands.rollback, 1)
        return versus_limit(*arguments, **options)

    monkeypatch.setattr("pilotage.release.retraining.watch.versus_limit", meanwhile)
    assert world.look().did == "held"
    assert world.state.killed is None
    assert world.state.champion is not None
    assert world.state.champion.version == 1
