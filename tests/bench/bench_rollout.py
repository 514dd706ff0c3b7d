"""Rollouts, simulated: how often equal versions are rolled back by mistake, and how soon a worse one is found.

Four tables. *False rollbacks*: 10,000 rollouts a row of versions that lose the same, looked at after every prediction,
beside a z-test at every look (what "significant on the dashboard" is) and one at the end only. *Regressions*: requests
until a worse version is found, beside a fixed-horizon z-test planned for exactly that regression with 90 % power, and
beside the other anytime-valid designs that were tried. *The whole rollout*: shadow, two canary steps and seven
guardrails under one alpha. *Outside of the hypothesis*: what happens where its assumptions do not hold.
Run ``python -m tests.bench rollout``; ``--fast`` as its argument makes it 500 rollouts a row.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pilotage.release.sequential import FRACTIONS, Randomised, weighted
from tests.unit.release.wealth import running_log_wealth

Floats = npt.NDArray[np.float64]
Losses = Callable[[np.random.Generator, int, int], Floats]
"""Runs × requests."""

ALPHA = 0.05
CHUNK = 250
"""Runs at once: arrays that fit the processor's cache."""
FIRST_LOOK = 50
"""Requests before the z-test's first look; earlier ones would raise its false alarms further."""


def rare(rate: float) -> Losses:
    return lambda random, runs, n: (random.random((runs, n)) < rate).astype(float)


def spread(mean: float, weight: float) -> Losses:
    return lambda random, runs, n: random.beta(mean * weight, (1 - mean) * weight, (runs, n))


def heavy(random: np.random.Generator, runs: int, n: int) -> Floats:
    """Almost nothing, and now and then as much as can be lost: a clipped Pareto tail."""
    return np.minimum(0.002 * (1 + random.pareto(1.1, (runs, n))), 1.0)


def drifting(random: np.random.Generator, runs: int, n: int) -> Floats:
    """A base rate that climbs from 1 % to 40 %, with a cycle each hundred requests and one storm in the middle."""
    at = np.arange(n)
    rate = 0.01 + 0.3 * at / n + 0.09 * np.sin(at / 100 * 2 * np.pi) ** 2
    rate[n // 2 : n // 2 + n // 20] = 0.95
    return (random.random((runs, n)) < rate).astype(float)


def pairs_of(losses: Losses, share_equal: float) -> Losses:
    """Differences of two versions that are as good, and answer some requests alike."""

    def differences(random: np.random.Generator, runs: int, n: int) -> Floats:
        apart = losses(random, runs, n) - losses(random, runs, n)
        return np.where(random.random((runs, n)) < share_equal, 0.0, apart)

    return differences


class Scene(NamedTuple):
    name: str
    share: float | None
    """``None`` for a shadow."""
    level: float
    losses: Losses


AA = (
    Scene("errors 0.5 %, canary 5 %", 0.05, 0.0, rare(0.005)),
    Scene("errors 0.5 %, canary 25 %", 0.25, 0.0, rare(0.005)),
    Scene("errors 5 %, canary 50 %", 0.5, 0.05, rare(0.05)),
    Scene("cost 20 %, canary 5 %", 0.05, 0.2, rare(0.2)),
    Scene("probability, canary 5 %", 0.05, 0.25, spread(0.25, 4)),
    Scene("brier, canary 25 %", 0.25, 0.15, spread(0.15, 3)),
    Scene("brier, level far off", 0.25, 0.9, spread(0.15, 3)),
    Scene("heavy tail, canary 5 %", 0.05, 0.01, heavy),
    Scene("heavy tail, canary 25 %", 0.25, 0.01, heavy),
    Scene("drifting rate, canary 5 %", 0.05, 0.1, drifting),
    Scene("drifting rate, canary 25 %", 0.25, 0.1, drifting),
    Scene("brier, shadow", None, 0.0, pairs_of(spread(0.15, 3), 0.5)),
    Scene("errors 0.5 %, shadow", None, 0.0, pairs_of(rare(0.005), 0.0)),
    Scene("heavy tail, shadow", None, 0.0, pairs_of(heavy, 0.3)),
)


def observe(scene: Scene, random: np.random.Generator, runs: int, n: int) -> tuple[Floats, float]:
    """Observations of the difference, and the least that one can be."""
    x = scene.losses(random, runs, n)
    if scene.share is None:
        return x, -1.0
    drawn = random.random((runs, n)) < scene.share
    game = Randomised(share=scene.share, level=scene.level)
    return weighted(x, drawn, share=scene.share, level=scene.level), game.floor


def z_scores(z: Floats, difference: float) -> Floats:
    """The usual statistic after each observation."""
    n = np.arange(1, z.shape[1] + 1)
    mean = np.cumsum(z, axis=1) / n
    variance = np.maximum(np.cumsum(z * z, axis=1) / n - mean**2, 1e-12)
    scores: Floats = (mean - difference) / np.sqrt(variance / n)
    return scores


def chunks(runs: int) -> Iterator[int]:
    while runs > 0:
        yield min(runs, CHUNK)
        runs -= CHUNK


def false_rollbacks(runs: int, n: int) -> None:
    print(
        f"False rollbacks of {runs:,} rollouts of equal versions, {n:,} requests each, tolerance 0, alpha {ALPHA:.0%}"
    )
    print(f"{'':30}{'every prediction':>18}{'z at every look':>18}{'z once, at the end':>20}")
    critical = NormalDist().inv_cdf(1 - ALPHA)
    for scene in AA:
        random = np.random.default_rng(1)
        alarms = np.zeros(3)
        for some in chunks(runs):
            z, floor = observe(scene, random, some, n)
            capital = running_log_wealth(z, 0.0, floor=floor)
            scores = z_scores(z, 0.0)
            alarms += (
                (capital.max(axis=1) >= -math.log(ALPHA)).sum(),
                (scores[:, FIRST_LOOK:].max(axis=1) >= critical).sum(),
                (scores[:, -1] >= critical).sum(),
            )
        rates = alarms / runs
        over = "" if rates[0] <= ALPHA else "  ABOVE ALPHA"
        print(f"{scene.name:30}{rates[0]:>18.2%}{rates[1]:>18.1%}{rates[2]:>20.1%}{over}", flush=True)


class Regression(NamedTuple):
    name: str
    share: float
    level: float
    tolerance: float
    challenger: Losses
    champion: Losses
    longest: int


WORSE = (
    Regression("errors 0.1 % → 100 %", 0.05, 0.001, 0.01, rare(1.0), rare(0.001), 1_000),
    Regression("errors 0.1 % → 20 %", 0.05, 0.001, 0.01, rare(0.2), rare(0.001), 4_000),
    Regression("errors 0.1 % → 5 %", 0.05, 0.001, 0.01, rare(0.05), rare(0.001), 20_000),
    Regression("errors 0.1 % → 5 %", 0.25, 0.001, 0.01, rare(0.05), rare(0.001), 6_000),
    Regression("abstentions 20 → 50 %", 0.05, 0.2, 0.1, rare(0.5), rare(0.2), 8_000),
    Regression("mean probability + 0.2", 0.05, 0.25, 0.1, spread(0.45, 4), spread(0.25, 4), 8_000),
    Regression("mean probability + 0.2", 0.25, 0.25, 0.1, spread(0.45, 4), spread(0.25, 4), 3_000),
    Regression("brier 0.15 → 0.20", 0.25, 0.15, 0.01, spread(0.2, 3), spread(0.15, 3), 8_000),
    Regression("brier 0.15 → 0.25", 0.25, 0.15, 0.01, spread(0.25, 3), spread(0.15, 3), 4_000),
    Regression("cost 15 → 25 %", 0.25, 0.15, 0.01, rare(0.25), rare(0.15), 10_000),
)


def regressions(runs: int) -> None:
    alpha = ALPHA / 7
    print(f"\nRequests until a regression is found, {runs} rollouts each, alpha {alpha:.2%} (one of seven guardrails).")
    print("Fixed: a z-test planned for exactly this size with 90 % power, which may be looked at only once.")
    heads = ("median", "90 %", "fixed", "level 0", "plug-in", "blocks")
    print(f"{'':32}" + "".join(f"{head:>10}" for head in heads))
    for each in WORSE:
        random = np.random.default_rng(2)
        founds: dict[str, list[Floats]] = {"": [], "level 0": [], "plug-in": [], "blocks": []}
        for some in chunks(runs):
            drawn = random.random((some, each.longest)) < each.share
            x = np.where(drawn, each.challenger(random, some, each.longest), each.champion(random, some, each.longest))
            for name, level in (("", each.level), ("level 0", 0.0)):
                floor = Randomised(share=each.share, level=level).floor
                z = weighted(x, drawn, share=each.share, level=level)
                founds[name].append(when(running_log_wealth(z, each.tolerance, floor=floor), alpha))
                if not name:
                    founds["plug-in"].append(when(plug_in(z, each.tolerance, floor), alpha))
            founds["blocks"].append(blocks(x, drawn, each.share, each.tolerance, alpha))
        of = {name: np.concatenate(found) for name, found in founds.items()}
        fixed = planned(each, alpha)
        told = [np.median(of[""]), np.quantile(of[""], 0.9), fixed]
        told += [np.median(of[name]) for name in ("level 0", "plug-in", "blocks")]
        label = f"{each.name}, {each.share:.0%}"
        print(f"{label:32}" + "".join(f"{count(value):>10}" for value in told), flush=True)


def count(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f}"


def when(capital: Floats, alpha: float) -> Floats:
    """The request at which each run was found; infinite for none."""
    hit = capital >= -math.log(alpha)
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)


def planned(each: Regression, alpha: float) -> float:
    """Requests of a fixed-horizon test of the difference with 90 % power; its variance is the hypothesis's own."""
    random = np.random.default_rng(3)
    ours, theirs = each.challenger(random, 1, 200_000), each.champion(random, 1, 200_000)
    at_edge = theirs.var()
    if np.isin(theirs, (0.0, 1.0)).all():
        rate = theirs.mean() + each.tolerance
        at_edge = rate * (1 - rate)
    rest = theirs.var() / (1 - each.share)
    noise = NormalDist().inv_cdf(1 - alpha) * math.sqrt(at_edge / each.share + rest)
    noise += NormalDist().inv_cdf(0.9) * math.sqrt(ours.var() / each.share + rest)
    # A certain failure has no variance, and still needs requests that the canary answers.
    return max((noise / float(ours.mean() - theirs.mean() - each.tolerance)) ** 2, 2 / each.share)


def plug_in(z: Floats, tolerance: float, floor: float) -> Floats:
    """Predictable plug-in bets (aGRAPA) instead of a divided capital; depends on the order."""
    runs, n = z.shape
    seen = np.arange(1, n + 1) + 5
    mean = (np.cumsum(z, axis=1) + 5 * tolerance) / seen
    variance = np.maximum((np.cumsum(z * z, axis=1) + 5 * (0.25 + tolerance**2)) / seen - mean**2, 1e-6)
    mean = np.hstack([np.full((runs, 1), tolerance), mean[:, :-1]])
    variance = np.hstack([np.full((runs, 1), 1.0), variance[:, :-1]])
    bets = np.clip((mean - tolerance) / (variance + (mean - tolerance) ** 2), 0, 0.75 / (tolerance - floor))
    return np.cumsum(np.log1p(bets * (z - tolerance)), axis=1)


def blocks(x: Floats, drawn: npt.NDArray[np.bool_], share: float, tolerance: float, alpha: float) -> Floats:
    """Each answer of the canary beside the mean of the champion's next ones, bounded by -1..1."""
    size = max(1, round((1 - share) / share))
    found = np.full(len(x), np.inf)
    for run in range(len(x)):
        ours, theirs = np.flatnonzero(drawn[run]), np.flatnonzero(~drawn[run])
        n = min(len(ours), len(theirs) // size)
        if not n:
            continue
        d = x[run][ours[:n]] - x[run][theirs[: n * size]].reshape(n, size).mean(axis=1)
        closed = np.maximum(ours[:n], theirs[size - 1 : n * size : size][:n])
        capital = running_log_wealth(d[None, :], tolerance, floor=-1.0)[0]
        hit = capital >= -math.log(alpha)
        if hit.any():
            found[run] = closed[hit.argmax()] + 1
    return found


def whole_rollouts(runs: int) -> None:
    """Shadow (300 requests), canary 5 % (800) and 25 % (800); seven guardrails share alpha, stages share capital."""
    guardrails = (rare(0.005), rare(0.02), rare(0.01), rare(0.1), spread(0.25, 4), rare(0.2), spread(0.15, 3))
    levels = (0.0, 0.0, 0.0, 0.1, 0.25, 0.2, 0.15)
    random = np.random.default_rng(4)
    alarms = 0
    for some in chunks(runs):
        back = np.zeros(some, dtype=bool)
        for losses, level in zip(guardrails, levels, strict=True):
            # Capital of each starting stage: log of what it has become, per run and request.
            carried, ended = np.zeros((3, some, 1)), np.zeros((3, some))
            for number, (share, n) in enumerate(((None, 300), (0.05, 800), (0.25, 800))):
                source = pairs_of(losses, 0.5) if share is None else losses
                z, floor = observe(Scene("", share, level, source), random, some, n)
                capital = running_log_wealth(z, 0.0, floor=floor)
                carried = ended[:, :, None] + np.where(np.arange(3)[:, None, None] <= number, capital, 0.0)
                ended = carried[:, :, -1]
                total = np.exp(carried).mean(axis=0)
                back |= total.max(axis=1) >= 7 / ALPHA
        alarms += int(back.sum())
    print(f"\nThe whole rollout, {runs:,} times: shadow, 5 %, 25 %, seven guardrails, looked at after every prediction")
    print(f"{'rolled back or rejected by mistake':40}{alarms / runs:>8.2%} (alpha {ALPHA:.0%})", flush=True)


def outside(runs: int) -> None:
    print(f"\nOutside of the hypothesis, {runs:,} rollouts each")
    random, n, share = np.random.default_rng(5), 2_000, 0.25
    floor = Randomised(share=share, level=0.2).floor
    for name, first in (("counting every answer", False), ("counting first answers", True)):
        alarms = 0
        for some in chunks(runs):
            # 300 customers, each of whom loses always or never, ask again and again; drawn once each.
            customers = random.integers(0, 300, (some, n))
            rows = np.arange(some)[:, None]
            x = (random.random((some, 300)) < 0.2).astype(float)[rows, customers]
            drawn = (random.random((some, 300)) < share)[rows, customers]
            z = weighted(x, drawn, share=share, level=0.2)
            if first:
                seen = np.zeros((some, 300), dtype=bool)
                new = np.zeros((some, n), dtype=bool)
                for at in range(n):
                    who = customers[:, at]
                    new[:, at] = ~seen[rows[:, 0], who]
                    seen[rows[:, 0], who] = True
                z = np.where(new, z, 0.0)  # A hypothesis of 0 leaves the capital as it is.
            alarms += int((running_log_wealth(z, 0.0, floor=floor).max(axis=1) >= -math.log(ALPHA)).sum())
        print(f"{'equal, 300 customers, ' + name:52}{alarms / runs:>8.2%}")
    for sd in (0.01, 0.03, 0.1):
        alarms = 0
        for some in chunks(runs):
            # Ten days of 200 pairs: as good over time, better on some days and worse on others.
            day = np.repeat(random.normal(0, sd, (some, n // 200)), 200, axis=1)
            d = np.clip(spread(0.15, 3)(random, some, n) - spread(0.15, 3)(random, some, n) + day, -1, 1)
            alarms += int((running_log_wealth(d, 0.01, floor=-1.0).max(axis=1) >= -math.log(ALPHA)).sum())
        print(f"{f'equal over time, days differ by {sd} (tolerance 0.01)':52}{alarms / runs:>8.2%}", flush=True)


def main(runs: int) -> None:
    began = time.perf_counter()
    print(f"The capital is divided among {len(FRACTIONS)} bets.\n")
    false_rollbacks(runs, 2_000)
    regressions(max(runs // 50, 20))
    whole_rollouts(runs)
    outside(max(runs // 5, 100))
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(500 if "--fast" in sys.argv else 10_000)
