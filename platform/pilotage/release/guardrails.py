"""Evidence → a verdict on each guardrail: is the version worse than the champion by more than is tolerated?

The hypothesis of each is that on no request is the version expected to lose more than the champion and the tolerance.
The chance to refute it although it holds is at most ``alpha`` over the whole rollout, however often one looks: it is
divided evenly among the guardrails (a union bound: nothing has to be assumed of how metrics depend on each other), for
``probability`` and ``certainty`` once more among their two directions, and within a guardrail one capital goes through
all the stages (``sequential.log_evidence``). What is done about a verdict is ``rollout.py``'s to decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from pilotage.policy import Guardrail, GuardrailMetric
from pilotage.release.evidence import Evidence, Stage, observations
from pilotage.release.losses import METRICS, loss
from pilotage.release.sequential import (
    Arm,
    Game,
    Paired,
    Randomised,
    bound,
    log_evidence,
    log_split_evidence,
)
from pilotage.spec import CostMatrix, ModelSpec

ENOUGH_REFERENCE = 100
"""Answers of the champion from before a stage from which its usual loss is taken."""

SPLIT_ALPHA = 0.001
"""Chance, over all looks at one step, to call a sound draw unsound."""

_LARGEST = 1e12
"""E-values above are told as this: JSON has no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailVerdict:
    """What is known about one guardrail."""

    metric: GuardrailMetric
    tolerance: float
    alpha: float
    """This guardrail's part of the rollout's."""
    challenger: int
    """Observations (entities) of the version, over all stages."""
    champion: int
    challenger_mean: float | None
    """Mean loss in the latest stage with observations, 0..1; ``None`` without any."""
    champion_mean: float | None
    difference: float | None
    """Estimated in that stage; above 0 the version loses more."""
    low: float
    """Lower end of the difference over the rollout; it holds at all times with probability 1 - alpha (half of alpha
    each end for ``probability`` and ``certainty``)."""
    high: float
    """The upper end, likewise."""
    e_value: float
    """Evidence that more than the tolerance is lost; at ``1 / alpha`` it is established."""
    breached: bool

    @property
    def message(self) -> str:
        """The verdict in words."""
        name = self.metric.replace("_", " ")
        if self.challenger_mean is None and self.champion_mean is None:
            return f"{name}: nothing to compare yet."
        ours, theirs = (
            "nothing yet" if mean is None else f"{mean:.4f}" for mean in (self.challenger_mean, self.champion_mean)
        )
        told = (
            f"{name}: {ours} against the champion's {theirs}"
            f" ({self.challenger:,} and {self.champion:,} observations); the difference is between {self.low:+.4f} and"
            f" {self.high:+.4f}, {self.tolerance:g} is tolerated"
        )
        return (
            f"{told}: worse (e-value {self.e_value:.3g}, {1 / self.alpha:.3g} is proof)."
            if self.breached
            else told + "."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Whether the lot is what it should be. If not, nothing that compares the two versions can be trusted."""

    challenger: int
    champion: int
    expected: float
    """Share of the challenger that the lot should give, 0..1."""
    e_value: float
    sound: bool

    @property
    def message(self) -> str:
        """What is wrong, in words."""
        total = self.challenger + self.champion
        return (
            f"The lot is not fair: {self.challenger:,} of {total:,} entities"
            f" ({self.challenger / max(total, 1):.2%}) were the challenger's, {self.expected:.2%} should be."
        )


def judge(spec: ModelSpec, evidence: Evidence) -> tuple[GuardrailVerdict, ...]:
    """The verdict on every guardrail that the spec declares, in its order."""
    rollout = spec.rollout
    alpha = rollout.alpha / max(len(rollout.guardrails), 1)
    observed = [observations(evidence, stage) for stage in evidence.stages]
    return tuple(
        _judge(guardrail, alpha, games_of(evidence, observed, guardrail, spec.kpi.cost), evidence.planned)
        for guardrail in rollout.guardrails
    )


def split(evidence: Evidence) -> Split | None:
    """Whether entities were drawn with the shares of the steps; ``None`` for a shadow.

    Every step that is compared counts: of one that was not fair, else of the one under way.
    """
    if evidence.stage.kind == "shadow":
        return None
    draws = [_split(evidence, stage) for stage in evidence.stages if stage.kind == "canary"]
    return next((draw for draw in draws if not draw.sound), draws[-1])


def _split(evidence: Evidence, stage: Stage) -> Split:
    logs, ours, total, expected = 0.0, 0, 0, 0.0
    for (share,), rows in observations(evidence, stage).group_by("share", maintain_order=True):
        challenger = int(rows["challenger"].sum())
        logs += log_split_evidence(challenger, rows.height - challenger, float(share))
        ours, total, expected = ours + challenger, total + rows.height, expected + float(share) * rows.height
    return Split(
        challenger=ours,
        champion=total - ours,
        expected=expected / total if total else stage.share or 0.0,
        e_value=told(logs),
        sound=logs < -math.log(SPLIT_ALPHA),
    )


def payload(verdicts: Sequence[GuardrailVerdict]) -> list[dict[str, Any]]:
    """Verdicts as JSON values, for the ledger."""
    return [{**asdict(verdict), "message": verdict.message} for verdict in verdicts]


def told(log_e: float) -> float:
    """An e-value of which this is the natural logarithm, finite."""
    return min(math.exp(min(log_e, 100.0)), _LARGEST)


def games_of(
    evidence: Evidence, observed: Sequence[pl.DataFrame], guardrail: Guardrail, cost: CostMatrix
) -> list[list[Game]]:
    """What there is to bet on in each stage.

    Args:
        evidence: Of the version.
        observed: The observations of each stage begun.
        guardrail: What is measured.
        cost: Of the spec's KPI.

    Returns:
        A list per stage; stages beyond those planned belong to the last one's.
    """
    stages: list[list[Game]] = []
    for stage, rows in zip(evidence.stages, observed, strict=True):
        shadow = stage.kind == "shadow"
        found = (
            _paired(evidence, rows, guardrail, cost) if shadow else drawn_games(evidence, stage, rows, guardrail, cost)
        )
        if len(stages) < max(evidence.planned, 1):
            stages.append(found)
        else:
            stages[-1] = [*stages[-1], *found]
    return stages


def level_of(rows: pl.DataFrame, metric: GuardrailMetric, expr: pl.Expr) -> float:
    """About what the champion lost before a stage began.

    It must not move once the stage has observations, so only what was known by then counts.

    Args:
        rows: The champion's answers until then, with the labels that were there by then.
        metric: Whose typical loss is taken where there are too few.
        expr: The loss.
    """
    losses = rows.select(expr).to_series().drop_nulls()
    return round(float(losses.mean()), 4) if len(losses) >= ENOUGH_REFERENCE else METRICS[metric].typical  # type: ignore[arg-type]


def _judge(guardrail: Guardrail, alpha: float, stages: Sequence[Sequence[Game]], planned: int) -> GuardrailVerdict:
    of = max(planned, 1)
    two_sided = METRICS[guardrail.metric].both_ways
    each = alpha / 2 if two_sided else alpha
    logs = [log_evidence(stages, guardrail.tolerance, of=of)]
    if two_sided:
        logs.append(log_evidence(stages, -guardrail.tolerance, of=of, side="below"))
    latest = next((games for games in reversed(stages) if any(arm.n for arm in totals(games))), [])
    ours, theirs = totals(latest)
    everything = totals([game for games in stages for game in games])
    return GuardrailVerdict(
        metric=guardrail.metric,
        tolerance=guardrail.tolerance,
        alpha=alpha,
        challenger=everything[0].n,
        champion=everything[1].n,
        challenger_mean=ours.mean,
        champion_mean=theirs.mean,
        difference=estimate(latest),
        low=bound(stages, each, of=of, side="lower"),
        high=bound(stages, each, of=of, side="upper"),
        e_value=told(max(logs) - math.log(len(logs))),
        breached=max(logs) >= -math.log(each),
    )


def totals(games: Sequence[Game]) -> tuple[Arm, Arm]:
    """What both versions lost in some games together: the challenger first."""
    challenger, champion = Arm(), Arm()
    for game in games:
        ours, theirs = game.arms()
        challenger, champion = challenger + ours, champion + theirs
    return challenger, champion


def estimate(games: Sequence[Game]) -> float | None:
    """The difference of the mean losses, unbiased: the mean of all observations; ``None`` without any."""
    sums = [(float(z @ counts), int(counts.sum())) for z, counts in (game.observed() for game in games)]
    n = sum(count for _, count in sums)
    # Rounded, so that no difference is told as none; and never as -0.
    return round(sum(total for total, _ in sums) / n, 9) + 0.0 if n else None


def _paired(evidence: Evidence, pairs: pl.DataFrame, guardrail: Guardrail, cost: CostMatrix) -> list[Game]:
    if not METRICS[guardrail.metric].of_shadows:
        return []
    expr = loss(guardrail.metric, cost=cost, limit_ms=guardrail.limit_ms)
    if guardrail.metric == "errors":
        ours = pl.col("error").is_not_null().cast(pl.Float64)
        both = pairs.select(ours.alias("ours"), expr.alias("theirs"))
    else:
        # Where one of the two has no answer of its own there is nothing to compare; that is what errors count.
        own = pl.col("error").is_null() & (pl.col("version") == evidence.champion)
        answered = pairs.filter(own & (pl.col("answered_by") == "model"))
        theirs = answered.select(expr).to_series()
        ours_of = answered.with_columns(
            pl.col(f"shadow_{name}").alias(name) for name in ("probability", "decision", "referred")
        )
        both = pl.DataFrame({"ours": ours_of.select(expr).to_series(), "theirs": theirs}).drop_nulls()
    return [Paired().add(both["ours"].to_numpy(), both["theirs"].to_numpy())]


def drawn_games(
    evidence: Evidence, stage: Stage, rows: pl.DataFrame, guardrail: Guardrail, cost: CostMatrix
) -> list[Game]:
    """What a step's lots give to bet on; each chance to be drawn is a game of its own."""
    expr = loss(guardrail.metric, cost=cost, limit_ms=guardrail.limit_ms)
    before = evidence.predictions.filter((pl.col("routed_version") == evidence.champion) & (pl.col("at") < stage.since))
    if METRICS[guardrail.metric].labelled:
        before = before.filter(pl.col("label_received_at") < stage.since)
    level = level_of(before, guardrail.metric, expr)
    return [
        Randomised(share=float(share), level=level).add(
            group["loss"].to_numpy(), challenger=group["challenger"].to_numpy()
        )
        for (share,), group in rows.with_columns(expr).drop_nulls("loss").group_by("share", maintain_order=True)
    ]
