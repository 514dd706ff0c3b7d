"""Cross-validation within the training part: how a configuration does on rows it was not fitted on.

Predictions are the model's own, not calibrated: the calibration part comes later than most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pilotage.runtime.scorer import Calibrator, Scorer
from pilotage.spec import CostMatrix, ModelSpec, Scalar
from pilotage.training.fit import Fitted, fit
from pilotage.training.metrics import all_metrics
from pilotage.training.split import Fold


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """What came of it."""

    metrics: list[dict[str, float]]
    """One entry a fold: metric → value, and ``rows``."""
    rows: np.ndarray
    """Row numbers that were predicted, ascending."""
    predicted: np.ndarray
    """Out-of-fold probability of each of them."""


def cross_validate(
    spec: ModelSpec,
    features: pl.DataFrame,
    labels: np.ndarray,
    folds: Sequence[Fold],
    *,
    params: Mapping[str, Scalar],
    rounds: int,
    seed: int,
    threads: int,
    cost: CostMatrix,
    weights: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> CrossValidation:
    """Fits once a fold.

    Args:
        spec: The model.
        features: Feature columns of the whole training set.
        labels: Of the whole training set; shape (rows,), Boolean.
        folds: Row numbers by fold.
        params: From ``merged_params``.
        rounds: Boosting rounds.
        seed: As in ``fit``.
        threads: As in ``fit``.
        cost: For ``expected_cost``.
        weights: How much each row counts when it is trained on; shape (rows,). All count the same when they judge.
        progress: Called once a fold.
    """
    metrics: list[dict[str, float]] = []
    predicted = np.full(len(labels), np.nan)
    for number, fold in enumerate(folds, start=1):
        fitted = fit(
            spec,
            features[fold.train],
            labels[fold.train],
            params=params,
            rounds=rounds,
            seed=seed,
            threads=threads,
            weights=None if weights is None else weights[fold.train],
        )
        answers = raw_scores(spec, fitted, features[fold.test], threads=threads)
        predicted[fold.test] = answers
        measured = all_metrics(labels[fold.test], answers, cost)
        metrics.append({"rows": float(len(fold.test)), **measured})
        progress(
            f"Fold {number} of {len(folds)}: {len(fold.train):,} rows train, {len(fold.test):,} judge: "
            f"log loss {measured['log_loss']:.4f}, AUC {measured['auc']:.4f}"
        )
    rows = np.flatnonzero(~np.isnan(predicted))
    return CrossValidation(metrics=metrics, rows=rows, predicted=predicted[rows])


def raw_scores(spec: ModelSpec, fitted: Fitted, features: pl.DataFrame, *, threads: int) -> np.ndarray:
    """The model's probabilities, by the code that serves; shape (rows,)."""
    columns = [feature.name for feature in spec.features]
    return Scorer(fitted.text, Calibrator("none"), fitted.categories, columns, threads=threads).raw(features)
