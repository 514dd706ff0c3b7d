"""Two versions on the same requests, in a replay without a service: the platform's own sequential test on their losses.

The running platform reads answers and shadows from the prediction log; here both versions' probabilities are at hand.
The losses, the bets and what they must reach are the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pilotage.policy import GuardrailMetric
from pilotage.release.losses import METRICS, loss
from pilotage.release.sequential import Paired, log_evidence
from pilotage.spec import CostMatrix, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Both versions' answers to the same requests, in one stage. All of shape (rows,)."""

    ours: np.ndarray
    """Probabilities of the version that is tried."""
    theirs: np.ndarray
    labels: np.ndarray
    """Boolean; what is not known counts as not there, see ``known``."""
    known: np.ndarray
    """Boolean: the label is known."""


def breached(spec: ModelSpec, answers: Answers) -> list[str]:
    """The guardrails of the rollout that a shadow has breached, in words; see ``release/guardrails.py``.

    Those about the service (errors, latency, fallbacks) can't be told without one.
    """
    rails = spec.rollout.guardrails
    alpha = spec.rollout.alpha / max(len(rails), 1)
    found = []
    for rail in rails:
        if not METRICS[rail.metric].of_shadows or rail.metric == "errors":
            continue
        stages = [[_game(rail.metric, answers, spec.kpi.cost)]]
        of = 1 + len(spec.rollout.canary)
        logs = log_evidence(stages, rail.tolerance, of=of)
        each = alpha
        if METRICS[rail.metric].both_ways:
            each = alpha / 2
            logs = max(logs, log_evidence(stages, -rail.tolerance, of=of, side="below"))
        if logs >= -math.log(each):
            found.append(f"{rail.metric} is worse by more than {rail.tolerance:g}")
    return found


def worse(spec: ModelSpec, stages: Sequence[Answers], *, of: int) -> list[str]:
    """In which metrics of its watch a champion is established to be worse than the one before, in words.

    Args:
        spec: The model, with its watch.
        stages: Answers by week since its promotion; it is ``ours``.
        of: Weeks of the whole watch, among which the capital is divided.
    """
    watch = spec.retraining.watch
    if watch is None:
        return []
    alpha = watch.alpha / len(watch.metrics)
    return [
        f"{metric} is worse"
        for metric in watch.metrics
        if log_evidence([[_game(metric, each, spec.kpi.cost)] for each in stages], watch.tolerance, of=of)
        >= -math.log(alpha)
    ]


def _game(metric: GuardrailMetric, answers: Answers, cost: CostMatrix) -> Paired:
    expr = loss(metric, cost=cost, limit_ms=0.0)
    rows = answers.known if METRICS[metric].labelled else np.ones(len(answers.known), dtype=bool)
    ours, theirs = (
        pl.DataFrame(
            {
                "probability": probabilities[rows],
                "decision": probabilities[rows] >= cost.threshold,
                "label": answers.labels[rows],
                "referred": np.zeros(int(rows.sum()), dtype=bool),
            }
        )
        .select(expr)
        .to_series()
        .to_numpy()
        for probabilities in (answers.ours, answers.theirs)
    )
    return Paired().add(ours, theirs)
