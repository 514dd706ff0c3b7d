"""What the model should expect to lose beside the reference, by its own probabilities (``monitoring.estimated``, which
names the paper). Assumes that they can be taken at their word.

Changes of the inputs show here before any label is known. A change of the truth behind unchanged inputs does not: the
model goes on saying what it said, and only labels tell.
"""

from __future__ import annotations

import math

import polars as pl

from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.measures import Floats
from pilotage.monitoring.drift.records import ExpectedLoss, Thresholds
from pilotage.monitoring.estimated import expected_losses
from pilotage.spec import CostMatrix

COST = "expected_cost"
"""Column: what each answer is expected to cost, by its own probability (null: null)."""
MEANS = (COST,)
"""Columns whose sums are kept beside the counts."""
LEAST = 0.05
"""Rise of the expected cost, as a share of the span of the cost matrix' best answers, that is worth a word."""


def expected_cost(prediction: str, cost: CostMatrix) -> pl.Expr:
    """The column ``COST``."""
    return expected_losses(pl.col(prediction), cost)["expected_cost"].alias(COST)


def expected_loss(
    reference: Days, window: Days, thresholds: Thresholds, *, declared_rise: float
) -> ExpectedLoss | None:
    """Compares the means of the window with the reference's; ``None`` where there are no predictions.

    Args:
        reference: Days of the reference, with sums.
        window: Days of the window, with sums.
        thresholds: What was learned of an ordinary year.
        declared_rise: Rise of the expected cost a row from which it counts, where nothing was learned.
    """
    before, now = _means(reference), _means(window)
    if COST not in before or COST not in now:
        return None
    change = now[COST] - before[COST]
    null = thresholds.expected_cost
    # What half of the ordinary years reach (the median of a Gumbel distribution): it qualifies an alarm, no more.
    limit = declared_rise if null is None else max(0.0, null.location - null.scale * math.log(math.log(2)))
    return ExpectedLoss(
        cost=now[COST],
        reference_cost=before[COST],
        cost_change=change,
        threshold=limit,
        suffers=change > limit,
    )


def _means(days: Days) -> dict[str, float]:
    sums: dict[str, Floats] = {name: each.sum(axis=0) for name, each in days.sums.items()}
    return {name: float(each[0] / each[1]) for name, each in sums.items() if each[1] > 0}
