"""What each logged answer counts as, by each guardrail's metric: a loss from 0 (best) to 1. Expressions, no statistics.

An answer counts for the version whose turn it was, also where that one failed and another answered (intention to
treat): a canary that fails on the hard requests must not look good on the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import polars as pl

from pilotage.policy import GuardrailMetric
from pilotage.spec import CostMatrix

CLIP = 5.0
"""Natural-log units: a log loss above counts as this, about what a probability of 0.7 % for the truth loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What holds of a guardrail's metric, besides its loss."""

    labelled: bool
    """Whether it needs the label."""
    of_shadows: bool
    """Whether a shadow can be held to it. It has no fallback, and its time is another than an answer's: measured off
    the answer's path, without parsing and logging, and under whatever load there is."""
    both_ways: bool
    """Whether it is about how answers are distributed: less is then no better than more."""
    typical: float
    """About what is lost, where nothing is known of the champion. A wrong guess costs time, never validity."""


METRICS: dict[GuardrailMetric, Metric] = {
    "errors": Metric(labelled=False, of_shadows=True, both_ways=False, typical=0.0),
    "slow_answers": Metric(labelled=False, of_shadows=False, both_ways=False, typical=0.0),
    "abstentions": Metric(labelled=False, of_shadows=True, both_ways=False, typical=0.05),
    "fallbacks": Metric(labelled=False, of_shadows=False, both_ways=False, typical=0.0),
    "probability": Metric(labelled=False, of_shadows=True, both_ways=True, typical=0.3),
    "certainty": Metric(labelled=False, of_shadows=True, both_ways=True, typical=0.4),
    "cost": Metric(labelled=True, of_shadows=True, both_ways=False, typical=0.2),
    "log_loss": Metric(labelled=True, of_shadows=True, both_ways=False, typical=0.1),
    "brier": Metric(labelled=True, of_shadows=True, both_ways=False, typical=0.15),
}
"""Every metric; a new one needs its loss below, too."""


def loss(metric: GuardrailMetric, *, cost: CostMatrix, limit_ms: float) -> pl.Expr:
    """A metric's loss over the columns of the log, 0..1; null where an answer has none (no label yet, no probability).

    Args:
        metric: The metric.
        cost: Of the spec's KPI.
        limit_ms: What is slow.

    Reads ``routed_version``, ``version``, ``answered_by``, ``referred``, ``latency_us``, ``probability``, ``decision``
    and, for some metrics, ``label``.
    """
    probability, label = pl.col("probability"), pl.col("label")
    failed = pl.col("version").ne_missing(pl.col("routed_version"))
    match metric:
        case "errors":
            expr = failed.cast(pl.Float64)
        case "slow_answers":
            expr = (pl.col("latency_us") > limit_ms * 1000).cast(pl.Float64)
        case "abstentions":
            expr = pl.col("referred").cast(pl.Float64)
        case "fallbacks":
            # The champion that answers for a canary is a fallback of the canary's.
            expr = ((pl.col("answered_by") != "model") | failed).cast(pl.Float64)
        case "probability":
            expr = probability
        case "certainty":
            expr = (2 * probability - 1) ** 2
        case "cost":
            expr = _cost(cost)
        case "log_loss":
            of_truth = pl.when(label).then(probability).when(label.not_()).then(1 - probability)
            expr = (-of_truth.log()).clip(0, CLIP) / CLIP
        case "brier":
            expr = (probability - label.cast(pl.Float64)) ** 2
        case _:
            assert_never(metric)
    return expr.alias("loss")


def span(cost: CostMatrix) -> float:
    """From the cheapest to the dearest outcome of a decision, in the KPI's unit: what a cost of 1 means here."""
    return max(_values(cost)) - min(_values(cost))


def _values(cost: CostMatrix) -> tuple[float, float, float, float]:
    return cost.true_positive, cost.false_positive, cost.true_negative, cost.false_negative


def price(cost: CostMatrix) -> pl.Expr:
    """What the decision cost, in the KPI's unit; null without label. What was referred counts as its probability
    suggests: nobody gets cheaper by referring the hard ones."""
    acted = pl.coalesce(pl.col("decision"), pl.col("probability") >= cost.threshold)
    label = pl.col("label")
    return (
        pl.when(acted & label)
        .then(cost.true_positive)
        .when(acted & label.not_())
        .then(cost.false_positive)
        .when(acted.not_() & label)
        .then(cost.false_negative)
        .when(acted.not_() & label.not_())
        .then(cost.true_negative)
    )


def _cost(cost: CostMatrix) -> pl.Expr:
    return (price(cost) - min(_values(cost))) / span(cost)
