"""What a person declares of a model: one ``ModelSpec`` gives it its whole life.

Only declarations live here, checked when constructed; those of how a trained model is run are in ``policy.py``, those
of how it is judged in ``measures.py``. How they are carried out is in the rooms (``features/``, ``training/``,
``release/``, ``runtime/``); nothing here reads data, and nothing here knows Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
from pydantic import Field as Bounded
from pydantic import field_validator, model_validator

from pilotage.declaration import Declaration, DeclarationProblem, Finite, Name
from pilotage.expressions import columns_of, to_json

# Exported again, so that a model's file imports from one place.
from pilotage.measures import CostMatrix as CostMatrix
from pilotage.measures import Fairness as Fairness
from pilotage.measures import Gate as Gate
from pilotage.measures import Kpi as Kpi
from pilotage.measures import Metric as Metric
from pilotage.measures import Outcomes as Outcomes
from pilotage.policy import CanaryStep as CanaryStep
from pilotage.policy import Drift as Drift
from pilotage.policy import Guardrail as Guardrail
from pilotage.policy import Limit as Limit
from pilotage.policy import Probability as Probability
from pilotage.policy import Retraining as Retraining
from pilotage.policy import Rollout as Rollout
from pilotage.policy import Serving as Serving
from pilotage.policy import ShadowStage as ShadowStage
from pilotage.policy import TrainOn as TrainOn
from pilotage.policy import Watch as Watch

Scalar = str | int | float | bool

REQUEST_TYPES: dict[pl.DataType, str] = {
    pl.String(): "string",
    pl.Int64(): "integer",
    pl.Float64(): "number",
    pl.Boolean(): "boolean",
    pl.Datetime("us", "UTC"): "date-time",
}
"""The types that a request column may have, with their JSON names. Times are UTC."""


class RequestField(Declaration):
    """A column that an application sends with every request. Training reads the same column from the source."""

    name: Name
    dtype: pl.DataType
    description: str
    example: Any
    """A valid value; it appears in the OpenAPI page and in the first request that a newcomer tries."""
    nullable: bool = False
    personal: bool = False
    """Whether it identifies a person: the prediction log then holds a pseudonym."""
    minimum: Finite | None = None
    maximum: Finite | None = None
    one_of: tuple[str, ...] = ()
    """The allowed values; empty means any."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _instance(cls, dtype: Any) -> Any:
        made = dtype() if isinstance(dtype, type) and issubclass(dtype, pl.DataType) else dtype
        if made not in REQUEST_TYPES:
            allowed = ", ".join(str(known) for known in REQUEST_TYPES)
            raise DeclarationProblem(f"dtype={dtype} can't be sent in a request", fix=f"Use one of: {allowed}.")
        return made

    @model_validator(mode="after")
    def _possible(self) -> Self:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and not self.dtype.is_numeric():
            raise DeclarationProblem(f"{self.dtype} has no minimum or maximum", fix="Leave them out.")
        if bounds != sorted(bounds):
            raise DeclarationProblem(f"no number is from {bounds[0]:g} to {bounds[1]:g}", fix="Swap them.")
        if self.one_of and self.dtype != pl.String():
            raise DeclarationProblem(
                f"one_of is given for {self.dtype}", fix="Give minimum and maximum, or leave it out."
            )
        return self


class Latest(Declaration):
    """As-of feature: columns of the newest row of a source, per key, that was known at the prediction moment."""

    name: Name
    source: Name
    on: dict[str, str]
    """Request column → source column."""
    columns: dict[str, pl.DataType]
    """Source column → its type. The column's name in features is ``<name>_<column>``."""
    known_at: str | None = None
    """Source column (UTC) that says when the row became known; ``None`` for reference data, which always was."""
    max_age: timedelta | None = None
    """Rows older than this count as missing; ``None`` means any age."""

    @field_validator("columns", mode="before")
    @classmethod
    def _instances(cls, columns: Any) -> Any:
        return {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in dict(columns).items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_age is not None and self.known_at is None:
            raise DeclarationProblem("max_age is given, but no age", fix="Give known_at=…, or drop max_age.")
        return self

    def outputs(self) -> dict[str, pl.DataType]:
        """The columns it adds, with their types."""
        return {f"{self.name}_{column}": dtype for column, dtype in self.columns.items()}


class Window(Declaration):
    """As-of feature: an aggregate of a source's rows, per key, over a time before the prediction moment.

    Rows count when ``at - over < known_at <= at``. ``value`` is an integer, so that sums are exact and the batch and
    the online answer are the same bits.
    """

    name: Name
    source: Name
    on: dict[str, str]
    """Request column → source column."""
    known_at: str
    """Source column (UTC) that says when the row became known."""
    over: timedelta
    aggregate: Literal["count", "sum", "mean"]
    value: pl.Expr | None = None
    """Integer or boolean expression over the source's columns; nulls don't count. Not needed for ``count``."""
    where: pl.Expr | None = None
    """Only rows for which this holds count."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.aggregate != "count" and self.value is None:
            raise DeclarationProblem(f"aggregate={self.aggregate!r} has no value", fix="Give value=pl.col(…).")
        if self.over <= timedelta(0):
            raise DeclarationProblem(f"over={self.over} is not positive", fix="Give a positive timedelta.")
        return self

    def outputs(self) -> dict[str, pl.DataType]:
        """The column it adds, with its type."""
        return {self.name: pl.Float64() if self.aggregate == "mean" else pl.Int64()}


AsOf = Latest | Window


class Feature(Declaration):
    """One input of the model: an expression over request columns and as-of columns.

    A String feature is categorical; its levels are learned from the training rows, and a level never seen is missing.
    """

    name: Name
    expr: pl.Expr
    description: str
    """In words that a domain expert uses; explanations quote it."""
    unit: str = ""
    advice: str = ""
    """What a person can do about it, as an imperative sentence; quoted when it spoke against them. Empty: nothing."""


class Label(Declaration):
    """What is predicted, and when the truth is known."""

    name: Name
    expr: pl.Expr
    """Boolean over the source's columns; null means that the row has no label and is not trained on."""
    known_at: str | None
    """Source column (UTC) that says when the label became known; ``None`` where the source has no time."""
    description: str


class TimeSplit(Declaration):
    """Oldest rows train, the next calibrate, the newest are the holdout; an embargo keeps late labels apart."""

    calibration: Annotated[timedelta, Bounded(gt=timedelta(0))]
    holdout: Annotated[timedelta, Bounded(gt=timedelta(0))]
    embargo: Annotated[timedelta, Bounded(ge=timedelta(0))]
    """Gap before each later part, at least as long as a label takes."""
    folds: Annotated[int, Bounded(ge=0, le=20)] = 3
    """Rolling-origin cross-validation folds within the training part; 0 for none."""


class HashSplit(Declaration):
    """For data without a time: a hash of the entity decides, so a row is always in the same part."""

    calibration: Probability
    holdout: Probability
    salt: str = "pilotage"
    folds: Annotated[int, Bounded(ge=0, le=20)] = 5

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if not self.holdout or self.calibration + self.holdout >= 1:
            raise DeclarationProblem(
                f"calibration={self.calibration:g} and holdout={self.holdout:g} leave too few rows",
                fix="Give a holdout above 0, and less than 1 together.",
            )
        return self


class LightGBM(Declaration):
    """A LightGBM binary classifier, trained deterministically as a native Booster."""

    rounds: Annotated[int, Bounded(ge=1, le=10_000)] = 200
    params: dict[str, Scalar] = {}
    """LightGBM parameters. Objective, seed, threads and the deterministic flags are the platform's."""
    calibration: Literal["isotonic", "sigmoid", "none"] = "isotonic"


class Fallback(Declaration):
    """The rule that answers when no model can; every candidate must beat it."""

    rule: pl.Expr
    """Probability over request and as-of columns; never null."""
    reason: str


class ModelSpec(Declaration):
    """A model's declaration. Grain of the population: one row of ``source`` is one thing to predict."""

    name: Name
    title: str
    objective: str
    owner: Annotated[str, Bounded(pattern=r"^(team:[a-z0-9_-]+|[^@\s]+@[^@\s]+)$")]
    """An e-mail address or ``team:name``."""
    risk: Literal["minimal", "limited", "high"]
    intended_use: str
    limitations: tuple[str, ...]
    kpi: Kpi
    source: Name
    """The source whose validated rows are predicted."""
    entity: Annotated[tuple[str, ...], Bounded(min_length=1)]
    """Columns that identify a row of the source."""
    event_time: str | None
    """Column (UTC) of the event; ``None`` for data without a time."""
    predicts_at: pl.Expr | None
    """The prediction moment (UTC) over request columns; ``None`` for data without a time."""
    request: tuple[RequestField, ...]
    label: Label
    asof: tuple[AsOf, ...] = ()
    features: Annotated[tuple[Feature, ...], Bounded(min_length=1)]
    split: TimeSplit | HashSplit
    trainer: LightGBM = LightGBM()
    gate: Gate
    fallback: Fallback
    last_value: pl.Expr | None = None
    """Baseline: the last known truth about this thing, as a probability over request and as-of columns."""
    slices: tuple[str, ...] = ()
    """Request columns or features by whose values the evaluation is told apart."""
    protected: tuple[str, ...] = ()
    """Columns of the source that no feature may read, and by which groups must fare alike."""
    fairness: Fairness = Fairness()
    outcomes: Outcomes = Outcomes()
    drift: Drift | None = None
    retraining: Retraining = Retraining()
    rollout: Rollout = Rollout()
    serving: Serving = Serving()
    time_zone: str = "UTC"
    """IANA name; schedules run in it, and days begin in it."""

    @field_validator("time_zone")
    @classmethod
    def _on_the_map(cls, name: str) -> str:
        try:
            ZoneInfo(name)
            pl.Series([datetime(2013, 1, 1)], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(name)
        except (ValueError, OSError, ZoneInfoNotFoundError, pl.exceptions.PolarsError):
            raise DeclarationProblem(
                f"there is no time zone {name!r}", fix="Give an IANA name, such as Europe/Berlin."
            ) from None
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _distinct("request", [field.name for field in self.request])
        _distinct("asof", [column for item in self.asof for column in item.outputs()])
        _distinct("features", [feature.name for feature in self.features])
        available = {field.name for field in self.request}
        for item in self.asof:
            _known(f"asof {item.name}", set(item.on), available, "request column")
        if self.asof and self.predicts_at is None:
            raise DeclarationProblem("as-of features need a prediction moment", fix="Give predicts_at=….")
        if (self.event_time is None) != (self.predicts_at is None) or (self.event_time is None) != (
            self.label.known_at is None
        ):
            raise DeclarationProblem(
                "event_time, predicts_at and label.known_at go together", fix="Give all three, or none of them."
            )
        if isinstance(self.split, TimeSplit) and self.event_time is None:
            raise DeclarationProblem("split=TimeSplit needs event_time", fix="Use HashSplit, or give event_time.")
        if isinstance(self.split, HashSplit) and self.retraining.refit:
            raise DeclarationProblem(
                "retraining.refit leaves split=HashSplit no row that the next candidate could be judged on",
                fix="Leave out refit, or use TimeSplit.",
            )
        _known("outcomes.on", set(self.outcomes.on), set(self.entity), "column of the entity")
        if self.predicts_at is not None:
            _known("predicts_at", columns_of(self.predicts_at), available, "request column")
        available |= {column for item in self.asof for column in item.outputs()}
        for name, expr in self.expressions():
            _known(name, columns_of(expr), available, "request or as-of column")
            to_json(expr, name=name)
        for feature in self.features:
            if feature.name in available and not feature.expr.meta.eq(pl.col(feature.name)):
                raise DeclarationProblem(
                    f"feature {feature.name} has the name of a column, but is another value", fix="Rename the feature."
                )
        if (first := self.rollout.first_segment) is not None:
            _known("rollout.first_segment", columns_of(first), set(self.request_types()), "request column")
            to_json(first, name="rollout.first_segment")
        inputs = {feature.name for feature in self.features} | {field.name for field in self.request}
        _known("slices", set(self.slices), inputs, "request column or feature")
        read = {column for _, expr in self.expressions() for column in columns_of(expr)}
        if leaked := sorted(read & set(self.protected)):
            raise DeclarationProblem(f"features read the protected column {leaked[0]}", fix="Leave it out.")
        return self

    @model_validator(mode="after")
    def _asks_beforehand(self) -> Self:
        if (told := columns_of(self.label.expr)) and told <= set(self.request_types()):
            raise DeclarationProblem(
                "label.expr reads request columns alone, so that who asks sends the answer",
                fix="Read what becomes known later, or leave it out of request.",
            )
        for item in self.asof:
            if item.source == self.source and item.known_at is None:
                raise DeclarationProblem(
                    f"asof {item.name} takes all rows of {self.source} for known always, that of the question too",
                    fix="Give known_at=….",
                )
        return self

    def expressions(self) -> Iterator[tuple[str, pl.Expr]]:
        """Every expression over request and as-of columns, with its name: features, fallback rule, last value."""
        for feature in self.features:
            yield f"feature {feature.name}", feature.expr
        yield "fallback.rule", self.fallback.rule
        if self.last_value is not None:
            yield "last_value", self.last_value

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of every source it reads, its own first."""
        return tuple(dict.fromkeys([self.source, *(item.source for item in self.asof)]))

    @property
    def approvals(self) -> int:
        """Different people who must approve a version before it gets traffic."""
        declared = self.rollout.approvals
        return declared if declared is not None else int(self.risk == "high")

    @property
    def when_log_is_full(self) -> Literal["refuse", "answer"]:
        """What happens to a prediction that can't be put on disk."""
        return self.serving.when_log_is_full or ("refuse" if self.risk == "high" else "answer")

    def state_types(self) -> dict[str, pl.DataType]:
        """As-of columns with their types."""
        return {column: dtype for item in self.asof for column, dtype in item.outputs().items()}

    def request_types(self) -> dict[str, pl.DataType]:
        """Request columns with their types."""
        return {field.name: field.dtype for field in self.request}


def _distinct(where: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DeclarationProblem(f"{where} names {twice[0]} twice", fix="Rename one of them.")


def _known(where: str, used: set[str], available: set[str], kind: str) -> None:
    if missing := sorted(used - available):
        raise DeclarationProblem(
            f"{where} reads {missing[0]}, which is no {kind}", fix=f"Use one of: {', '.join(sorted(available))}."
        )
