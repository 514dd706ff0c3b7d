"""What every candidate must beat: the constant, the rule that serves as fallback, the last known value.

Each is a probability for the rows of the holdout; nothing here measures.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.plain import plain
from pilotage.features.rows import evaluate
from pilotage.spec import ModelSpec


def baselines(spec: ModelSpec, holdout: pl.DataFrame, *, rate: float) -> dict[str, np.ndarray]:
    """Baseline → probabilities; shape (rows,).

    Args:
        spec: The model; its fallback rule, and its last value if it declares one.
        holdout: Rows with request and as-of columns.
        rate: Share of positives in the training part: what ``constant`` always says, 0..1.

    Raises:
        TrainingError: The rule or the last value is null, or no probability, for some row.
    """
    answers = {
        "constant": np.full(holdout.height, rate),
        "rule": _evaluate(spec, holdout, "fallback.rule", spec.fallback.rule),
    }
    if spec.last_value is not None:
        answers["last_value"] = _evaluate(spec, holdout, "last_value", spec.last_value)
    return answers


def _evaluate(spec: ModelSpec, holdout: pl.DataFrame, name: str, expr: pl.Expr) -> np.ndarray:
    series = evaluate(holdout, plain({name: expr.cast(pl.Float64)}))[name]
    answers: np.ndarray = series.to_numpy()
    right = (answers >= 0) & (answers <= 1)
    if not right.all():
        row = int(np.argmin(right))
        raise TrainingError(
            f"{name} of {spec.name} answers {answers[row]} for {int((~right).sum()):,} of {holdout.height:,} rows.",
            fix="Make it a probability for every row: .fill_null(…) and .clip(0.01, 0.99).",
            baseline=name,
        )
    return answers
