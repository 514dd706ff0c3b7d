"""What a person declares of how a model is judged, at the gate and in use: what decisions cost, the KPI, where outcomes
come from, and what is fair enough.

Parts of a ``ModelSpec``, checked when constructed. Nothing here reads data or measures anything.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import Field as Bounded
from pydantic import model_validator

from pilotage.declaration import Declaration, DeclarationProblem, Finite, Name
from pilotage.policy import Probability

Metric = Literal["auc", "log_loss", "brier", "calibration_error", "expected_cost"]
_SHARES: tuple[Metric, ...] = ("auc", "brier", "calibration_error")
"""Metrics that are between 0 and 1."""


class CostMatrix(Declaration):
    """What each outcome costs; negative numbers are gains. ``positive`` is the predicted or true label."""

    true_positive: Finite
    false_positive: Finite
    true_negative: Finite
    false_negative: Finite

    @model_validator(mode="after")
    def _worth_deciding(self) -> Self:
        if self.false_positive <= self.true_negative or self.false_negative <= self.true_positive:
            raise DeclarationProblem(
                "a wrong decision costs no more than the right one",
                fix="Give false_positive > true_negative and false_negative > true_positive.",
            )
        return self

    @property
    def threshold(self) -> float:
        """Probability from which the positive decision is the cheaper one (Elkan 2001, equation 2), in 0..1."""
        acting = self.false_positive - self.true_negative
        missing = self.false_negative - self.true_positive
        return acting / (acting + missing)


class Kpi(Declaration):
    """The business number that the model is for."""

    name: str
    unit: str
    cost: CostMatrix
    sql: str | None = None
    """One DuckDB ``SELECT`` over ``labelled`` that gives one row with the column ``value``. ``labelled`` has a row for
    each answer that was given and whose truth is known: the columns of the log (``request_<field>`` included),
    ``label``, ``stage``, ``day`` (in the model's time zone) and ``cost`` (what the decision cost, by the matrix).
    ``None``: the mean of ``cost``."""
    baseline: Finite | str | None = None
    """What there would be without the model: a number, or such a ``SELECT`` over the same rows."""
    target: Finite | str | None = None
    """What it should reach: a number, or such a ``SELECT``."""
    higher_is_better: bool = False


class Gate(Declaration):
    """What a candidate must show before it may be registered as releasable."""

    at_least: dict[Metric, Finite] = {}
    at_most: dict[Metric, Finite] = {}
    beat_baselines_in: Metric = "log_loss"
    not_worse_in: tuple[Metric, ...] = ("log_loss", "brier", "auc")
    """Compared with the champion, on the same fresh holdout rows."""
    margin: Annotated[float, Bounded(ge=0, lt=1)] = 0.0
    """How much worse than the champion is still not worse, as a share of the champion's value."""
    min_fresh_rows: Annotated[int, Bounded(ge=1)] = 200
    """Holdout rows that must be new to the candidate and to the champion; with fewer, neither can be called worse."""
    max_latency_ms: Annotated[float, Bounded(gt=0)] = 50.0
    """Median of one prediction by the bundle, features included, milliseconds of CPU."""
    max_bundle_mb: Annotated[float, Bounded(gt=0)] = 50.0

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        for metric, limit in (*self.at_least.items(), *self.at_most.items()):
            if metric in _SHARES and not 0 <= limit <= 1:
                raise DeclarationProblem(f"{metric} is between 0 and 1, never {limit:g}", fix="Give it as a share.")
        return self


class Outcomes(Declaration):
    """Where the truth comes from, beside what applications tell the service, and when it should be there.

    By default it comes from the model's own source, where ``label.known_at`` says when each row's label became known.
    """

    source: Name | None = None
    """Another declared source (files, SQL, REST) whose validated rows hold the truth; ``None``: the model's own."""
    on: dict[str, str] = {}
    """Entity column → column of ``source``; empty where the names are the same."""
    expr: pl.Expr | None = None
    """The label, Boolean over the columns of ``source``, null while there is none; ``None``: the spec's own."""
    known_at: str | None = None
    """Column of ``source`` (UTC) that says when it became known."""
    no_label_reason: pl.Expr | None = None
    """Text over the columns of ``source``: why a row will never have a label; null where it has or will have one."""
    within: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(days=2)
    """How long after the prediction moment the labels should have come; from then on a missing one is late."""
    coverage: Probability = 0.9
    """Least share of the predictions as old as ``within`` that must have a label, or a reason to have none."""
    patience: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(days=30)
    """How far back predictions are looked up again in ``source``."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source is not None and (self.expr is None or self.known_at is None):
            raise DeclarationProblem(
                f"what the rows of {self.source} say is not told", fix="Give expr=… and known_at=… with the source."
            )
        if self.source is None and (self.on or self.expr is not None or self.known_at is not None):
            raise DeclarationProblem(
                "on, expr and known_at are about another source", fix="Give source=…, or leave them to the label."
            )
        if self.patience < self.within:
            raise DeclarationProblem(
                f"labels take up to {self.within}, and predictions are looked up for {self.patience} alone",
                fix="Give a patience that is longer than within.",
            )
        return self


class Fairness(Declaration):
    """How far apart groups of a protected column may be: at the gate, and in the answers of ``window``."""

    max_difference: Probability = 0.2
    """Between the highest and the lowest group, of the rates of selection, true positives and false positives."""
    min_group: Annotated[int, Bounded(ge=2)] = 30
    """Rows that a rate needs to be compared: answers for selection, labelled positives or negatives for the others."""
    window: Annotated[timedelta, Bounded(gt=timedelta(0))] = timedelta(days=90)
