"""What a person declares of how a model is run: its rollout, its service, its drift and its retraining.

Parts of a ``ModelSpec`` that say nothing about how the model is made. Only declarations, checked when constructed.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import Field as Bounded
from pydantic import field_validator, model_validator

from pilotage.cron import read_cron
from pilotage.declaration import Declaration, DeclarationProblem
from pilotage.errors import ConfigError

Probability = Annotated[float, Bounded(ge=0, le=1)]


class CanaryStep(Declaration):
    """A share of the traffic that a canary gets, and what it must have shown before it gets more."""

    share: Annotated[float, Bounded(gt=0, le=0.9)]
    """Of the entities, 0..1."""
    predictions: Annotated[int, Bounded(ge=1)]
    """Answers of the canary."""
    outcomes: Annotated[int, Bounded(ge=0)] = 0
    """Labelled answers of the canary."""
    at_most: Annotated[timedelta, Bounded(gt=timedelta(0))]
    """Longest time of the step; what then happens is ``Rollout.when_time_is_up``."""


class ShadowStage(Declaration):
    """How long a version only watches: it predicts on every request, and nobody sees its answers."""

    predictions: Annotated[int, Bounded(ge=1)]
    outcomes: Annotated[int, Bounded(ge=0)] = 0
    at_most: Annotated[timedelta, Bounded(gt=timedelta(0))]


GuardrailMetric = Literal[
    "errors", "slow_answers", "abstentions", "fallbacks", "probability", "certainty", "cost", "log_loss", "brier"
]


class Guardrail(Declaration):
    """A mean that must not get worse than the champion's; a sequential test watches it at every tick."""

    metric: GuardrailMetric
    """``errors``, ``slow_answers`` (above ``limit_ms``), ``abstentions`` and ``fallbacks`` are shares of the answers;
    ``probability`` is the mean predicted probability, and ``certainty`` how far it is from even odds, (2p - 1) squared
    (both in both directions); ``cost`` is the business KPI per labelled answer, as a share of the span of its cost
    matrix; ``log_loss`` (clipped at 5, over 5) and ``brier`` need labels."""
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

    @model_validator(mode="after")
    def _rising(self) -> Self:
        shares = [step.share for step in self.canary]
        if any(later <= earlier for earlier, later in pairwise(shares)):
            told = ", ".join(f"{share:g}" for share in shares)
            raise DeclarationProblem(
                f"the shares of the canary do not rise: {told}", fix="Give each step a larger one."
            )
        return self

    @model_validator(mode="after")
    def _watched_once(self) -> Self:
        # Answers that are slow by another limit are another thing to watch.
        watched = [(each.metric, each.metric == "slow_answers" and each.limit_ms) for each in self.guardrails]
        if twice := next((what for what in watched if watched.count(what) > 1), None):
            raise DeclarationProblem(f"two guardrails watch {twice[0]}", fix="Leave one of them, the narrower one.")
        return self

    @model_validator(mode="after")
    def _approvable(self) -> Self:
        if self.approvers and len(set(self.approvers)) < (self.approvals or 0):
            raise DeclarationProblem(
                f"approvals={self.approvals}, of {len(set(self.approvers))} approvers: nothing could be released",
                fix="Name more people, or ask for fewer approvals.",
            )
        return self


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
    """Answers that a worker remembers, by version and features; 0 for none. Each has one place: of those that are asked
    for again after half as many others, six in ten are still known."""
    largest_batch: Annotated[int, Bounded(ge=1, le=10_000)] = 1_000
    """Rows of one request."""

    @model_validator(mode="after")
    def _refers_some(self) -> Self:
        if self.refer_between is not None and self.refer_between[0] >= self.refer_between[1]:
            low, high = self.refer_between
            raise DeclarationProblem(
                f"no probability is between {low:g} and {high:g}", fix="Give refer_between the lower one first."
            )
        return self


class Drift(Declaration):
    """How the newest predictions are compared with what the champion learned from, and what is said about it."""

    window: Annotated[timedelta, Bounded(ge=timedelta(days=1))]
    """Whole days that are compared at a time; each day has the window that ends with it."""
    false_alarms_a_year: Annotated[float, Bounded(gt=0, le=12)] = 0.2
    """Alarms to expect in a year without drift, over all windows and all columns together. Thresholds are learned so
    that it holds, from past windows of the same model."""
    block_days: Annotated[int, Bounded(ge=1, le=60)] | None = None
    """Days that belong together (weather lasts, weeks repeat) and are drawn together when thresholds are learned.
    ``None``: as many as the longest as-of window looks back, and a week at least."""
    incident_days: Annotated[int, Bounded(ge=0, le=14)] = 3
    """Longest incident (a storm, an outage): its days are told and left out. What lasts longer is compared."""
    multivariate: bool = True
    """Whether a classifier looks at the columns together; it takes seconds."""
    alert_psi: Annotated[float, Bounded(gt=0)] = 0.25
    """Population stability index from which a column counts as drifted while there is too little history to learn
    from: the customary limit of "has shifted" (Siddiqi 2006)."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.window % timedelta(days=1):
            raise DeclarationProblem(f"window={self.window} is no number of whole days", fix="Give timedelta(days=…).")
        return self

    @property
    def days(self) -> int:
        """Days of a window."""
        return self.window.days


class TrainOn(Declaration):
    """What data to learn from. The newest rows, which calibrate and judge, are the same for every policy."""

    policy: Literal["expanding", "sliding", "since_change", "weighted"]
    """All rows; the newest of them; those since the change that the alarm dates; all, the younger the heavier."""
    length: timedelta | None = None
    """Of ``sliding``: how old the rows may be that it learns from. Of ``weighted``: the age at which a row counts half.
    Of ``since_change``: the shortest time since the change that is enough to learn from (default: a day)."""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        wanted = self.policy in ("sliding", "weighted")
        if wanted and (self.length is None or self.length <= timedelta(0)):
            raise DeclarationProblem(f"TrainOn({self.policy!r}) has no length", fix="Give length=timedelta(days=…).")
        if self.policy == "expanding" and self.length is not None:
            raise DeclarationProblem("TrainOn('expanding') has a length", fix="Leave it out, or say sliding.")
        return self

    @property
    def name(self) -> str:
        """What reports call it: ``sliding 60 d``."""
        days = "" if self.length is None else f" {self.length / timedelta(days=1):g} d"
        return f"{self.policy.replace('_', ' ')}{days}"


class Watch(Declaration):
    """How a champion is held against the one before it, which goes on predicting unheard."""

    lasts: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(days=28)
    """How long after a promotion; each prediction is then made twice."""
    metrics: tuple[Literal["cost", "log_loss", "brier"], ...] = ("cost", "log_loss", "brier")
    tolerance: Annotated[float, Bounded(ge=0, lt=1)] = 0.0
    """How much worse the champion may be, 0..1 on the metrics' scale (see ``Guardrail.metric``)."""
    alpha: Annotated[float, Bounded(gt=0, lt=0.5)] = 0.05
    """Chance to roll a champion back that is no worse, over all metrics and the whole watch."""


class Limit(Declaration):
    """How bad a champion may be on labelled answers before nobody hears it any more: its fallback takes over."""

    metric: Literal["cost", "log_loss", "brier"] = "log_loss"
    at: Annotated[float, Bounded(gt=0, lt=1)]
    """Mean loss, 0..1 on the metric's scale (see ``Guardrail.metric``), that the champion must stay under."""
    alpha: Annotated[float, Bounded(gt=0, lt=0.5)] = 0.01
    """Chance, over a year of looks, to kill a model that is never expected to be above the limit."""


class Retraining(Declaration):
    """When the platform trains again by itself, on what, and what happens when that does not help."""

    schedule: str | None = None
    """Cron expression in the model's time zone; ``None`` for never."""
    window: Annotated[timedelta, Bounded(gt=timedelta(0))] | None = None
    """Only rows this young at training time; ``None`` for all."""
    data: tuple[TrainOn, ...] = ()
    """What to learn from, of those rows; empty: all. With several, one run trains a candidate for each, chooses on the
    older part of the holdout, and the gate judges the chosen one on the rest."""
    choose_on: Annotated[float, Bounded(gt=0, lt=0.9)] = 0.4
    """Share of the holdout's days, the older ones, on which one of several candidates is chosen."""
    better_by: Annotated[float, Bounded(ge=0, lt=1)] = 0.8
    """How sure it must be, by resampled days that neither saw, that a retrained candidate is better than the champion
    in the metric in which it must beat the baselines; 0: it need only not be worse. Not asked of trainings by hand."""
    refit: bool = False
    """Whether a candidate that passed its gate is fitted once more with its calibration and holdout rows before it is
    registered: the newest days, which it gave up to be judged. Its rollout is then the first to see it.
    Only with TimeSplit: the next candidate is judged on rows that are new to it, and a hash has none."""
    at_most: Annotated[int, Bounded(ge=1)] = 2
    """Requests that may begin within ``per``, whatever their cause."""
    per: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(days=1)
    attempts: Annotated[int, Bounded(ge=1, le=10)] = 3
    """Tries of one request, if runs fail or vanish, before a person is called."""
    retry_after: timedelta = timedelta(minutes=1)
    """Pause before the second attempt; twice as long before each further one."""
    lease: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(minutes=10)
    """Longest silence of an attempt before another one may begin."""
    back_off: Annotated[timedelta, Bounded(ge=timedelta(0))] = timedelta(days=7)
    """Pause before the same alarm may ask again after a retraining that brought no version; then twice as long."""
    tries_to_help: Annotated[int, Bounded(ge=1)] = 2
    """Retrainings in a row that bring no version before the same alarm calls a person instead of asking again."""
    min_new_labels: Annotated[int, Bounded(ge=1)] = 200
    """Labelled rows since the last training below which there is nothing new to learn."""
    watch: Watch | None = Watch()
    """How a new champion is held against the one before; ``None``: it is not."""
    limit: Limit | None = None
    """When the fallback takes over because no version is good enough; ``None``: only a person decides that."""

    @field_validator("schedule")
    @classmethod
    def _readable(cls, schedule: str | None) -> str | None:
        try:
            if schedule is not None:
                read_cron(schedule)
        except ConfigError as error:
            raise DeclarationProblem(f"schedule can't be read: {error.message.rstrip('.')}", fix=error.fix) from None
        return schedule
