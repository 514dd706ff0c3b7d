"""Labels that can hardly be right take no version back: they are no evidence, then or later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.data.lake import Lake
from pilotage.features.state import microseconds
from pilotage.policy import Limit, Retraining, Watch
from pilotage.release.evidence import answers_since
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.release.evidences import START
from tests.unit.release.test_retraining_watch import LONG_AGO, SPEC, WEEKS, World

A_DAY = 60
LASTING = SPEC.model_copy(update={"retraining": Retraining(watch=Watch(lasts=10 * WEEKS))})
LIMITED = SPEC.model_copy(update={"retraining": Retraining(watch=None, limit=Limit(metric="brier", at=0.22))})
Truth = Callable[[int, bool], bool]
"""Day, and what is true → what the feed says."""


def use(world: World, said: Truth, *, days: int, mean: float = 0.25, mended: bool = False, disputed: int = 0) -> None:
    """Days of answers by a champion that knows the chances, and by the duller version before it.

    Args:
        world: Where.
        said: What the feed says first.
        days: How many.
        mean: Share of true labels.
        mended: Whether the feed says what is true afterwards.
        disputed: Of how many answers a day somebody else first says what is not true.
    """
    random, log = np.random.default_rng(7), list[Any]()
    for number in range(days * A_DAY):
        truth = float(random.beta(8 * mean, 8 * (1 - mean)))
        label = bool(random.random() < truth)
        at = microseconds(START + timedelta(seconds=number))
        moment = microseconds(LONG_AGO + timedelta(days=number // A_DAY, minutes=number % A_DAY))
        dull = 0.5 * truth + 0.5 * mean
        told = {"known_at": moment + 2, "received_at": at + 2}
        log += [
            prediction(
                number, at=at, moment=moment, version=2, routed_version=2, probability=truth, decision=truth > 0.4
            ),
            shadow(number, at=at, version=1, probability=dull, decision=dull > 0.4),
            outcome(number, label=said(number // A_DAY, label), **told),
        ]
        if mended:
            log.append(outcome(number, outcome_id=f"m{number}", label=label, known_at=moment + 3, received_at=at + 3))
        if number % A_DAY < disputed:
            first = {"known_at": moment + 1, "received_at": at + 1, "caller": "key-2"}
            log.append(outcome(number, outcome_id=f"d{number}", label=not label, **first))
    write_segment(world.settings.prediction_log, log)


def right(day: int, label: bool) -> bool:
    return label


def swapped_from(day: int, until: int = 1000) -> Truth:
    return lambda now, label: not label if day <= now < until else label


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize(("mean", "first"), [(0.25, 26), (0.5, 0)])
def test_swapped_labels_take_no_good_champion_back_and_those_that_were_mended_do_not_either(
    tmp_path: Path, mean: float, first: int, mended: bool
) -> None:
    world = World(tmp_path, LASTING)
    use(world, swapped_from(first), days=40, mean=mean, mended=mended)
    looked = world.look()
    assert looked.did == "held", looked.why
    counted = {test["observations"] for test in looked.evidence["tests"]}
    assert counted == {first * A_DAY}
    assert looked.evidence["doubts"] == [
        f"{(40 - first) * A_DAY:,} labels are no evidence: they contradict every version's ranking."
    ]
    assert looked.evidence["doubts"][0] in looked.why


def test_sound_labels_all_count_and_a_bad_day_takes_only_itself_out(tmp_path: Path) -> None:
    sound, one = World(tmp_path / "sound", LASTING), World(tmp_path / "one", LASTING)
    use(sound, right, days=40)
    use(one, lambda day, label: label or day == 30, days=40)
    counted = [{test["observations"] for test in world.look().evidence["tests"]} for world in (sound, one)]
    assert counted == [{40 * A_DAY}, {39 * A_DAY}]


def test_a_champion_that_ranks_the_wrong_way_round_is_taken_back_when_the_one_before_ranks_rightly(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, LASTING)
    world.answers(1200, off=0.5, apart=timedelta(minutes=24))
    assert world.look().did == "rolled_back"


def test_a_version_with_few_answers_does_not_speak_for_labels_that_contradict_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, LASTING)
    use(world, swapped_from(0), days=14, mean=0.5)
    log = list[Any]()
    for number in range(14):
        at, moment = START + timedelta(seconds=number), microseconds(LONG_AGO + timedelta(days=number, hours=3))
        log += [
            prediction(9000 + number, at=microseconds(at), moment=moment, version=3, routed_version=3),
            outcome(9000 + number, known_at=moment + 1, received_at=microseconds(at) + 1),
        ]
    write_segment(world.settings.prediction_log, log, number=2)
    assert world.look().evidence["doubts"] == [
        f"{14 * (A_DAY + 1)} labels are no evidence: they contradict every version's ranking."
    ]


def test_what_is_contested_does_not_count_by_the_word_that_came_first(tmp_path: Path) -> None:
    world = World(tmp_path, LASTING)
    use(world, right, days=40, disputed=40)
    looked = world.look()
    assert looked.did == "held", looked.why
    assert {test["observations"] for test in looked.evidence["tests"]} == {40 * 20}
    assert looked.evidence["doubts"] == ["1,600 labels are no evidence: those who tell the truth disagree."]


def test_a_rate_that_jumps_kills_no_champion_at_its_limit(tmp_path: Path) -> None:
    world = World(tmp_path, LIMITED)
    use(world, lambda day, label: label or day >= 26, days=60)
    looked = world.look()
    assert looked.did == "held", looked.why
    assert world.state.killed is None


def test_rollouts_and_ab_tests_go_by_the_same_labels(tmp_path: Path) -> None:
    world = World(tmp_path, LASTING)
    use(world, swapped_from(26), days=40)
    champion = world.state.champion
    rows = answers_since(world.spec, START, world.settings, Lake(world.settings.lake), champion=champion)
    assert rows.height == 40 * A_DAY
    assert rows["label"].count() == 26 * A_DAY
