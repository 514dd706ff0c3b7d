"""Tests that may be looked at at every observation keep their false alarms under alpha, exactly and in simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import ConfigError
from pilotage.release.sequential import (
    STEPS,
    Game,
    Paired,
    Randomised,
    bound,
    log_evidence,
    log_split_evidence,
    log_wealth,
    weighted,
)
from tests.unit.release.wealth import running_log_wealth

ALPHA = 0.05
losses = st.integers(0, STEPS).map(lambda steps: steps / STEPS)
shares = st.floats(0.01, 0.9)
levels = st.floats(0, 1)
tolerances = st.floats(0, 0.5)


def randomised(x: list[float], drawn: list[bool], *, share: float, level: float) -> Randomised:
    return Randomised(share=share, level=level).add(np.array(x), challenger=np.array(drawn, dtype=bool))


def chance(drawn: tuple[bool, ...], share: float) -> float:
    return math.prod(share if each else 1 - share for each in drawn)


# Validity, exactly: the mean of the capital over every way in which the lots could have fallen


@given(st.lists(losses, min_size=1, max_size=7), shares, levels, tolerances)
def test_no_losses_whatsoever_let_the_capital_grow_on_average_if_both_versions_lose_the_same(
    x: list[float], share: float, level: float, tolerance: float
) -> None:
    for side, hypothesis in (("above", tolerance), ("below", -tolerance)):
        mean = sum(
            chance(drawn, share)
            * math.exp(
                log_wealth([randomised(x, list(drawn), share=share, level=level)], hypothesis, side=side)  # type: ignore[arg-type]
            )
            for drawn in product([False, True], repeat=len(x))
        )
        assert mean <= 1 + 1e-9


@given(st.lists(st.integers(0, 5000).map(lambda s: s / STEPS), min_size=1, max_size=6), shares, levels)
def test_a_version_that_loses_just_what_is_tolerated_everywhere_gives_no_evidence_on_average(
    x: list[float], share: float, level: float
) -> None:
    tolerance, mean = 0.25, 0.0
    for drawn in product([False, True], repeat=len(x)):
        lost = [loss + tolerance * each for loss, each in zip(x, drawn, strict=True)]
        game = randomised(lost, list(drawn), share=share, level=level)
        mean += chance(drawn, share) * math.exp(log_wealth([game], tolerance))
    assert mean <= 1 + 1e-9


@given(st.lists(st.lists(losses, min_size=1, max_size=3), min_size=1, max_size=3), shares, st.integers(0, 2))
def test_one_capital_through_all_stages_does_not_grow_on_average_either(
    x: list[list[float]], share: float, to_come: int
) -> None:
    lengths = [len(stage) for stage in x]
    mean = 0.0
    for drawn in product([False, True], repeat=sum(lengths)):
        stages, start = [], 0
        for stage, length in zip(x, lengths, strict=True):
            stages.append([randomised(stage, list(drawn[start : start + length]), share=share, level=0.2)])
            start += length
        mean += chance(drawn, share) * math.exp(log_evidence(stages, 0.0, of=len(x) + to_come))
    assert mean <= 1 + 1e-9


@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=6))
def test_pairs_in_which_either_is_as_likely_the_worse_one_give_no_evidence_on_average(
    pairs: list[tuple[float, float]],
) -> None:
    mean = 0.0
    for swapped in product([False, True], repeat=len(pairs)):
        both = [pair[::-1] if swap else pair for pair, swap in zip(pairs, swapped, strict=True)]
        game = Paired().add(np.array([a for a, _ in both]), np.array([b for _, b in both]))
        mean += math.exp(log_wealth([game], 0.0)) / 2 ** len(pairs)
    assert mean <= 1 + 1e-9


# Validity, simulated: looking after every observation


def aa(random: np.random.Generator, runs: int, length: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Runs in which both versions lose the same: seldom, heavy-tailed, at a rate that drifts."""
    rate = 0.02 + 0.2 * np.linspace(0, 1, length)
    x = np.where(random.random((runs, length)) < rate, random.beta(0.3, 0.3, (runs, length)), 0.0)
    return x, random.random((runs, length)) < share


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_looking_after_every_prediction_of_equal_versions_raises_no_more_false_alarms_than_alpha(share: float) -> None:
    random, runs = np.random.default_rng(11), 400
    x, drawn = aa(random, runs, 2000, share)
    z = weighted(x, drawn, share=share, level=0.1)
    capital = running_log_wealth(z, 0.0, floor=Randomised(share=share, level=0.1).floor)
    alarms = int((capital.max(axis=1) >= -math.log(ALPHA)).sum())
    # 20 are expected at most; 38 or more come about once in 10,000 times where alpha is kept.
    assert alarms < 38


def test_a_z_test_after_every_prediction_would_not_pass_that_test() -> None:
    random, runs, share = np.random.default_rng(11), 400, 0.25
    x, drawn = aa(random, runs, 2000, share)
    z = weighted(x, drawn, share=share, level=0.1)
    n = np.arange(1, z.shape[1] + 1)
    mean = np.cumsum(z, axis=1) / n
    variance = np.cumsum(z * z, axis=1) / n - mean**2
    score = mean / np.sqrt(np.maximum(variance, 1e-12) / n)
    assert int((score[:, 100:].max(axis=1) >= 1.645).sum()) >= 2 * 38


def test_a_regression_is_found() -> None:
    random = np.random.default_rng(3)
    drawn = random.random(4000) < 0.05
    x = (random.random(4000) < np.where(drawn, 0.10, 0.002)).astype(float)
    assert log_wealth([Randomised(share=0.05).add(x, challenger=drawn)], 0.01) > math.log(20)
    assert log_wealth([Randomised(share=0.05).add(x, challenger=drawn)], 0.01, side="below") < 0


# State


@given(st.lists(st.tuples(losses, st.booleans()), max_size=30), st.randoms(), st.integers(0, 30))
def test_counting_bit_by_bit_in_any_order_is_the_same_to_the_last_bit(
    rows: list[tuple[float, bool]], random, cut: int
) -> None:
    def counted(parts: list[list[tuple[float, bool]]]) -> Randomised:
        game = Randomised(share=0.1, level=0.3)
        for part in parts:
            game = game.add(np.array([x for x, _ in part]), challenger=np.array([c for _, c in part], dtype=bool))
        return game

    shuffled = list(rows)
    random.shuffle(shuffled)
    whole, bit_by_bit = counted([rows]), counted([shuffled[:cut], *([each] for each in shuffled[cut:])])
    for difference in (-0.3, 0.0, 0.2):
        assert log_wealth([whole], difference) == log_wealth([bit_by_bit], difference)


@given(st.lists(st.tuples(losses, st.booleans()), min_size=1, max_size=40), shares, levels, tolerances)
def test_the_capital_of_the_counts_is_the_one_after_the_last_observation(
    rows: list[tuple[float, bool]], share: float, level: float, tolerance: float
) -> None:
    x, drawn = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    game = Randomised(share=share, level=level).add(x, challenger=drawn)
    z = weighted(x, drawn, share=share, level=level)
    running = running_log_wealth(z[None, :], tolerance, floor=game.floor)
    assert running[0, -1] == pytest.approx(log_wealth([game], tolerance), abs=1e-8)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_a_loss_that_is_out_of_bounds_is_refused_since_nothing_would_hold_for_it(bad: float) -> None:
    with pytest.raises(ConfigError, match="not within"):
        Randomised(share=0.5).add(np.array([0.5, bad]), challenger=np.array([True, False]))
    with pytest.raises(ConfigError, match="not within"):
        Paired().add(np.array([bad]), np.array([0.1]))


@pytest.mark.parametrize(("share", "level"), [(0.0, 0.1), (1.0, 0.1), (0.5, -0.1), (0.5, 1.1)])
def test_a_draw_that_is_none_is_refused(share: float, level: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        Randomised(share=share, level=level)


# Intervals


def played(seed: int) -> list[list[Game]]:
    random = np.random.default_rng(seed)
    drawn = random.random(1500) < 0.3
    x = random.beta(1, 4, 1500) + np.where(drawn, 0.05, 0.0)
    pairs = random.beta(1, 4, (2, 300))
    return [[Paired().add(*pairs)], [Randomised(share=0.3, level=0.2).add(np.clip(x, 0, 1), challenger=drawn)]]


@given(st.integers(0, 20), st.floats(-0.2, 0.2))
def test_the_interval_excludes_exactly_what_the_test_refutes(seed: int, hypothesis: float) -> None:
    stages = played(seed)
    low, high = (bound(stages, ALPHA, of=3, side=side) for side in ("lower", "upper"))  # type: ignore[arg-type]
    assert -1 <= low < high <= 1
    if abs(hypothesis - low) > 1e-4:
        refuted = log_evidence(stages, hypothesis, of=3) >= -math.log(ALPHA)
        assert refuted == (hypothesis < low)
    if abs(hypothesis - high) > 1e-4:
        refuted = log_evidence(stages, hypothesis, of=3, side="below") >= -math.log(ALPHA)
        assert refuted == (hypothesis > high)


def test_without_observations_the_interval_is_everything() -> None:
    assert bound([], ALPHA, of=3, side="lower") == -1
    assert bound([[Randomised(share=0.1)]], ALPHA, of=3, side="upper") == 1


def test_what_a_stage_lost_need_not_be_won_back_before_a_later_one_counts() -> None:
    good = Paired().add(np.zeros(5000), np.full(5000, 0.3))
    bad = Paired().add(np.full(60, 0.5), np.zeros(60))
    assert log_evidence([[good], [bad]], 0.01, of=3) >= log_wealth([bad], 0.01) - math.log(3) - 1e-9


# The lot


def test_a_lot_that_is_off_is_noticed_and_one_that_is_not_is_not() -> None:
    assert log_split_evidence(110, 890, 0.05) > math.log(1000)
    assert log_split_evidence(10, 990, 0.05) > math.log(1000)
    assert log_split_evidence(52, 948, 0.05) < 0


@given(shares, st.integers(1, 9))
def test_a_fair_lot_gives_no_evidence_on_average(share: float, n: int) -> None:
    mean = sum(
        math.comb(n, k) * share**k * (1 - share) ** (n - k) * math.exp(log_split_evidence(k, n - k, share))
        for k in range(n + 1)
    )
    assert mean <= 1 + 1e-9
