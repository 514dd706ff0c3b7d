"""What a person declares of how a model is run: its rollout, its service, its drift and its retraining.

Parts of a ``ModelSpec`` that say nothing about how the model is made. Only declarations, checked when constructed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import polars as pl
from pydantic import Field as Bounded

from pilotage.declaration import Declaration

Probability = Annotated[float, Bounded(ge=0, le=1)]


class CanaryStep(Declaration):
    """A share of the traffic that a canary gets, and what it must have shown before it gets more."""

    share: Annotated[float, Bounded(gt=0, le=0.9)]
    """Of the entities, 0..1."""
    predictions: Annotated[int, Bounded(ge=1)]
    """Answers of the canary."""
    outcomes: Annotated[int, Bounded(ge=0)] = 0
    """Labelled answers of the canary."""
    at_most: timedelta
    """Longest time of the step; what then happens is ``Rollout.when_time_is_up``."""


class ShadowStage(Declaration):
    """How long a version only watches: it predicts on every request, and nobody sees its answers."""

    predictions: Annotated[int, Bounded(ge=1)]
    outcomes: Annotated[int, Bounded(ge=0)] = 0
    at_most: timedelta


GuardrailMetric = Literal[
    "errors", "slow_answers", "abstentions", "fallbacks", "probability", "cost", "log_loss", "brier"
]


class Guardrail(Declaration):
    """A mean that must not get worse than the champion's; a sequential test watches it at every tick."""

    metric: GuardrailMetric
    """``errors``, ``slow_answers`` (above ``limit_ms``), ``abstentions`` and ``fallbacks`` are shares of the answers;
    ``probability`` is the mean predicted probability (both directions); ``cost`` is the business KPI per labelled
    answer, as a share of the span of its cost matrix; ``log_loss`` (clipped at 5, over 5) and ``brier`` need labels."""
    tolerance: Annotated[float, Bounded(ge=0, lt=1)]
    """Difference of the means, 0..1 on the metric's scale, that is still acceptable."""
    limit_ms: Annotated[float, Bounded(gt=0)] = 50.0
    """For ``slow_answers``: what is slow, milliseconds inside the service."""


class Rollout(Declaration):
    """How a version becomes champion: ``candidate → shadow → canary (steps) → champion``, and what stops it."""

    automatic: bool = False
    """Whether a newly registered version, newer than the champion, enters its shadow stage by itself."""
    shadow: ShadowStage | None = ShadowStage(predictions=500, at_most=timedelta(days=7))
    """``None`` to begin with the canary."""
    canary: tuple[CanaryStep, ...] = (
        CanaryStep(share=0.05, predictions=200, at_most=timedelta(days=7)),
        CanaryStep(share=0.25, predictions=500, at_most=timedelta(days=7)),
    )
    first_segment: pl.Expr | None = None
    """Boolean over request columns: the lowest-risk requests, the only ones that the first canary step gets."""
    guardrails: tuple[Guardrail, ...] = (
        Guardrail(metric="errors", tolerance=0.01),
        Guardrail(metric="slow_answers", tolerance=0.05),
        Guardrail(metric="fallbacks", tolerance=0.02),
        Guardrail(metric="abstentions", tolerance=0.10),
        Guardrail(metric="probability", tolerance=0.10),
        Guardrail(metric="cost", tolerance=0.01),
        Guardrail(metric="brier", tolerance=0.01),
    )
    alpha: Annotated[float, Bounded(gt=0, lt=0.5)] = 0.05
    """Chance, over the whole rollout and all guardrails, to roll a version back that is no worse."""
    when_time_is_up: Literal["hold", "advance", "reject"] = "hold"
    """What happens when a stage lasted its longest without what it waits for."""
    approvals: Annotated[int, Bounded(ge=0, le=5)] | None = None
    """Different people who must approve a version before it gets traffic; ``None``: 1 for high risk, else 0."""
    approvers: tuple[str, ...] = ()
    """Who may approve; empty means anybody but the one who trained it."""
    alias_edits: Literal["adopt", "revert"] = "revert"
    """What happens to an alias that somebody changed in MLflow by hand."""


class Serving(Declaration):
    """How the service treats this model's requests."""

    refer_between: tuple[Probability, Probability] | None = None
    """Probabilities (low ≤ p < high) at which no decision is made: a person decides."""
    when_log_is_full: Literal["refuse", "answer"] | None = None
    """What happens to a prediction that can't be put on disk; ``None``: refuse for high risk, else answer and alert."""
    break_after: Annotated[int, Bounded(ge=1)] = 5
    """Failures in a row of a version after which it is not asked for ``break_for``."""
    break_for: timedelta = timedelta(seconds=10)
    cached_answers: Annotated[int, Bounded(ge=0, le=1_000_000)] = 10_000
    """Answers that a worker remembers, by version and features; 0 for none."""
    largest_batch: Annotated[int, Bounded(ge=1, le=10_000)] = 1_000
    """Rows of one request."""


class Drift(Declaration):
    """What is compared with the champion's reference sample."""

    window: timedelta
    alert_psi: Annotated[float, Bounded(gt=0)] = 0.25
    """Population stability index from which a feature is reported as drifted."""


class Retraining(Declaration):
    """When the platform trains again by itself, and on what."""

    schedule: str | None = None
    """Cron expression in the model's time zone; ``None`` for never."""
    window: timedelta | None = None
    """Only rows this young at training time; ``None`` for all."""
