"""Anytime-valid tests and intervals for how much worse a challenger is than the champion. Pure numbers, no logs.

A test may be looked at after every observation, for ever, and stopped whenever one likes: its false alarms stay under
alpha. Each is a game in which nobody can expect to win if the hypothesis holds: the capital starts at 1 and is
multiplied by ``1 + bet * (observation - hypothesis)``. That it ever reaches ``1 / alpha`` then has a probability of at
most alpha (Ville's inequality). The capital is the *e-value*: evidence against the hypothesis.

- I. Waudby-Smith and A. Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS-B 86(1): the
  capital process, its inversion to a confidence sequence, and "diversified Kelly" bets, which are used here.
- G. Shafer (2021), "Testing by betting", JRSS-A 184(2); A. Ramdas et al. (2023), "Game-theoretic statistics and safe
  anytime-valid inference", Statistical Science 38(4): e-values, and that averages and sequential products are such.
- D. Horvitz and D. Thompson (1952), JASA 47: weighting by the inverse of the chance to be drawn.
- M. Lindon and A. Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS: testing the split.

The capital is divided among constant bets, so it is the same whatever the order of the observations. Nothing but
counts has to be kept of them; labels that arrive late, equal times and restarts change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from pilotage.errors import ConfigError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Side = Literal["above", "below"]

STEPS = 10_000
"""A loss, 0..1, is counted in this many steps: of both versions alike, so nobody gains by it."""

FRACTIONS: Floats = np.array([0.98 / 2**octave for octave in range(9)])
"""The bets among which the capital is divided, as shares of the largest that can't lose everything. Octaves: at worst
a bet is the square root of two away from the best one, and grows at 83 % of its rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one version lost."""

    n: int = 0
    """Observations."""
    total: float = 0.0
    """Sum of the losses."""

    def __add__(self, other: Arm) -> Arm:
        return Arm(n=self.n + other.n, total=self.total + other.total)

    @property
    def mean(self) -> float | None:
        """Mean loss, 0..1; ``None`` without observations."""
        return self.total / self.n if self.n else None


class Game(Protocol):
    """What both kinds of comparison give to the betting."""

    @property
    def floor(self) -> float:
        """The least that an observation can be."""

    @property
    def ceiling(self) -> float:
        """The most that an observation can be."""

    def observed(self) -> tuple[Floats, Counts]:
        """Every different observation, with how often it came. Their mean is the difference of the mean losses."""

    def arms(self) -> tuple[Arm, Arm]:
        """What the challenger lost, and what the champion lost."""


def no_counts(steps: int) -> Counts:
    """Nothing counted yet."""
    return np.zeros(steps + 1, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Randomised:
    """Losses of two versions, one of which was drawn for each request.

    A request that had the chance ``share`` to be the challenger's, and lost ``x``, is an observation of
    ``(x - level) / share`` if it was, and of ``-(x - level) / (1 - share)`` if it was the champion's. Its mean is the
    difference of the versions' losses on that very request, whatever the request, the hour or the base rate are:
    only the draw has to be fair. ``level`` takes out what both have in common; any constant is right that was fixed
    before the first observation, the mean loss is the best.
    """

    share: float
    """Chance of a request to be the challenger's, strictly between 0 and 1."""
    level: float = 0.0
    """About what both lose on average, 0..1."""
    challenger: Counts = field(default_factory=lambda: no_counts(STEPS))
    """How often each loss came, by steps."""
    champion: Counts = field(default_factory=lambda: no_counts(STEPS))

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not 0 <= self.level <= 1:
            raise ConfigError(
                f"Nothing is drawn with a share of {self.share}, or losses are never about {self.level}.",
                fix="Give a share between 0 and 1, and a level of 0 to 1.",
                share=self.share,
                level=self.level,
            )

    def add(self, losses: Floats, *, challenger: Bools) -> Self:
        """The same with more observations.

        Args:
            losses: 0..1.
            challenger: Whether the challenger was drawn for it.
        """
        steps = _steps(losses)
        return replace(
            self,
            challenger=self.challenger + np.bincount(steps[challenger], minlength=STEPS + 1),
            champion=self.champion + np.bincount(steps[~challenger], minlength=STEPS + 1),
        )

    @property
    def floor(self) -> float:
        return -max(self.level / self.share, (1 - self.level) / (1 - self.share))

    @property
    def ceiling(self) -> float:
        return max((1 - self.level) / self.share, self.level / (1 - self.share))

    def observed(self) -> tuple[Floats, Counts]:
        ours, theirs = np.flatnonzero(self.challenger), np.flatnonzero(self.champion)
        z = weighted(
            np.concatenate([ours, theirs]) / STEPS,
            np.arange(len(ours) + len(theirs)) < len(ours),
            share=self.share,
            level=self.level,
        )
        return z, np.concatenate([self.challenger[ours], self.champion[theirs]])

    def arms(self) -> tuple[Arm, Arm]:
        return _arm(self.challenger), _arm(self.champion)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """Differences of two versions' losses on the same requests, as a shadow gives them: -1..1."""

    differences: Counts = field(default_factory=lambda: no_counts(2 * STEPS))
    """How often each came, by steps from -1."""
    lost: tuple[int, int] = (0, 0)
    """The sum of the losses of the challenger and of the champion, in steps."""

    def add(self, challenger: Floats, champion: Floats) -> Self:
        """The same with more observations: the losses of both on each request, 0..1."""
        ours, theirs = _steps(challenger), _steps(champion)
        return replace(
            self,
            differences=self.differences + np.bincount(ours - theirs + STEPS, minlength=2 * STEPS + 1),
            lost=(self.lost[0] + int(ours.sum()), self.lost[1] + int(theirs.sum())),
        )

    @property
    def floor(self) -> float:
        return -1.0

    @property
    def ceiling(self) -> float:
        return 1.0

    def observed(self) -> tuple[Floats, Counts]:
        there = np.flatnonzero(self.differences)
        return (there - STEPS) / STEPS, self.differences[there]

    def arms(self) -> tuple[Arm, Arm]:
        n = int(self.differences.sum())
        return Arm(n=n, total=self.lost[0] / STEPS), Arm(n=n, total=self.lost[1] / STEPS)


def weighted(losses: Floats, challenger: Bools, *, share: float, level: float) -> Floats:
    """Each loss as an observation of the difference; see ``Randomised``."""
    centred = losses - level
    observed: Floats = np.where(challenger, centred / share, -centred / (1 - share))
    return observed


def log_wealth(games: Sequence[Game], difference: float, *, side: Side = "above") -> float:
    """Log of the e-value against "the mean difference is nowhere above (below) this".

    Args:
        games: Observations of one stage; those in it may have been drawn with different shares.
        difference: The hypothesis, between -1 and 1.
        side: ``above`` bets that the difference is larger than the hypothesis, ``below`` that it is smaller.

    Returns:
        Natural logarithm of the capital; falls (``below``: rises) with ``difference``.
    """
    logs = np.zeros(len(FRACTIONS))
    for game in games:
        z, counts = game.observed()
        low, hypothesis = game.floor, difference
        if side == "below":
            z, low, hypothesis = -z, -game.ceiling, -difference
        gains = (z - low) / max(hypothesis - low, 1e-9) - 1
        logs += counts @ np.log1p(np.outer(gains, FRACTIONS))
    return _log_mean(logs)


def log_evidence(stages: Sequence[Sequence[Game]], difference: float, *, of: int, side: Side = "above") -> float:
    """Log of the e-value over a whole rollout, that new evidence need not first undo what earlier stages lost.

    The capital is divided evenly among the stages that the rollout has; each share is bet from its stage on, through
    all later ones. An average of products of e-values that follow each other is an e-value again, so one threshold
    holds for the whole rollout.

    Args:
        stages: Observations of each stage begun, in their order.
        difference: The hypothesis.
        of: Stages that the rollout has, or more.
        side: See ``log_wealth``.
    """
    played = np.array([log_wealth(games, difference, side=side) for games in stages])
    from_each = np.cumsum(played[::-1])[::-1]
    return _log_mean(np.concatenate([from_each, np.zeros(max(of - len(stages), 0))]))


def bound(stages: Sequence[Sequence[Game]], alpha: float, *, of: int, side: Literal["lower", "upper"]) -> float:
    """End of the confidence sequence: it holds at all times at once with probability 1 - alpha (-1..1).

    The lower end is above a hypothesis exactly where the e-value against it reaches ``1 / alpha``.
    """
    against: Side = "above" if side == "lower" else "below"
    threshold = -math.log(alpha)
    kept, refuted = (1.0, -1.0) if side == "lower" else (-1.0, 1.0)
    if log_evidence(stages, refuted, of=of, side=against) < threshold:
        return refuted
    if log_evidence(stages, kept, of=of, side=against) >= threshold:
        return kept
    while abs(kept - refuted) > 1 / STEPS / 10:
        middle = (kept + refuted) / 2
        if log_evidence(stages, middle, of=of, side=against) >= threshold:
            refuted = middle
        else:
            kept = middle
    return refuted


def log_split_evidence(challenger: int, champion: int, share: float) -> float:
    """Log of the e-value against "the challenger is drawn with this share": is the experiment itself sound?"""
    drawn, not_drawn = challenger, champion
    sides = []
    for chance in (share, 1 - share):
        sides.append(drawn * np.log1p(FRACTIONS * (1 / chance - 1)) + not_drawn * np.log1p(-FRACTIONS))
        drawn, not_drawn = not_drawn, drawn
    return _log_mean(np.concatenate(sides))


def _steps(losses: Floats) -> Counts:
    """Losses in steps. One that is no number, or out of bounds, is none: the test would be void."""
    fine = (losses >= 0) & (losses <= 1)
    if not fine.all():
        raise ConfigError(f"A loss is not within 0..1: {losses[~fine][0]}.", fix="Bound it before it is counted.")
    return np.rint(losses * STEPS).astype(np.int64)


def _arm(counts: Counts) -> Arm:
    return Arm(n=int(counts.sum()), total=float(counts @ np.arange(len(counts))) / STEPS)


def _log_mean(logs: Floats) -> float:
    return float(np.logaddexp.reduce(logs) - math.log(len(logs)))
