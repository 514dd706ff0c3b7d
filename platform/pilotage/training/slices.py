"""Metrics of parts of the holdout: by the columns that the spec names, and by month."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.spec import CostMatrix, ModelSpec
from pilotage.training.config import EvaluationConfig
from pilotage.training.metrics import Resamples, with_intervals
from pilotage.training.records import Slice

OTHER, MISSING = "other", "missing"
_VALUES = 25
"""Distinct numbers up to which a column is told apart by value, and not by quarters."""


def by_column(
    spec: ModelSpec,
    holdout: pl.DataFrame,
    predicted: np.ndarray,
    clusters: np.ndarray | None,
    *,
    config: EvaluationConfig,
    seed: int,
) -> list[Slice]:
    """Metrics by the values of each column in ``spec.slices``; quarters, where it is a number with many values.

    Values with few rows are measured together as ``other``; no row is left out.
    """
    told = []
    for column in spec.slices:
        values = told_apart(holdout[column])
        sizes = values.value_counts(sort=True)
        few = sizes.filter(pl.col("count") < config.min_slice_rows)[values.name].to_list()
        values = values.replace(few, [OTHER] * len(few)) if len(few) > 1 else values
        told += _measure(column, values, holdout, predicted, clusters, cost=spec.kpi.cost, config=config, seed=seed)
    return told


def by_month(
    spec: ModelSpec,
    name: str,
    rows: pl.DataFrame,
    predicted: np.ndarray,
    clusters: np.ndarray | None,
    *,
    config: EvaluationConfig,
    seed: int,
) -> list[Slice]:
    """Metrics by month of event time, in the model's time zone; in order.

    Args:
        spec: The model; nothing comes of one without a time.
        name: ``column`` of the slices.
        rows: With event time and label.
        predicted: Shape (rows,).
        clusters: As in ``Resamples.draw``.
        config: Resamples and confidence.
        seed: Of the resamples.
    """
    if spec.event_time is None or rows.is_empty():
        return []
    months = rows[EVENT_TIME].dt.convert_time_zone(spec.time_zone).dt.strftime("%Y-%m")
    told = _measure(name, months, rows, predicted, clusters, cost=spec.kpi.cost, config=config, seed=seed)
    return sorted(told, key=lambda part: part.value)


def draw(clusters: np.ndarray | None, rows: int, *, config: EvaluationConfig, seed: int) -> tuple[Resamples, str]:
    """Resamples by day, or by row where there are no days or fewer than three; and which of the two."""
    if clusters is not None and len(np.unique(clusters)) >= 3:
        return Resamples.draw(clusters, rows, count=config.resamples, seed=seed), "day"
    return Resamples.draw(None, rows, count=config.resamples, seed=seed), "row"


def _measure(
    column: str,
    values: pl.Series,
    rows: pl.DataFrame,
    predicted: np.ndarray,
    clusters: np.ndarray | None,
    *,
    cost: CostMatrix,
    config: EvaluationConfig,
    seed: int,
) -> list[Slice]:
    labels = rows[LABEL].to_numpy()
    told = []
    for value, inside in _groups(values):
        if len(inside) < 2:
            # One row has no interval; it is in the whole's metrics.
            continue
        resamples, _ = draw(None if clusters is None else clusters[inside], len(inside), config=config, seed=seed)
        metrics = with_intervals(labels[inside], predicted[inside], cost, resamples, confidence=config.confidence)
        told.append(Slice(column=column, value=value, rows=len(inside), metrics=metrics))
    return told


def _groups(values: pl.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Value → row numbers, the most frequent first."""
    table = pl.DataFrame({"value": values, "row": np.arange(len(values))})
    groups = table.group_by("value").agg("row", size=pl.len()).sort(["size", "value"], descending=[True, False])
    for value, rows in groups.select("value", "row").iter_rows():
        yield str(value), np.asarray(rows)


def told_apart(column: pl.Series) -> pl.Series:
    """A column as text to tell apart by."""
    if column.dtype.is_numeric() and column.n_unique() > _VALUES:
        edges = [column.quantile(share, "linear") for share in (0.25, 0.5, 0.75)]
        numbers = sorted({edge for edge in edges if edge is not None})
        inner = (f"{low:g} to {high:g}" for low, high in pairwise(numbers))
        labels = pl.Series([f"to {numbers[0]:g}", *inner, f"over {numbers[-1]:g}"])
        places = pl.Series(np.searchsorted(numbers, column.fill_null(0).to_numpy()))
        told = pl.select(pl.when(column.is_not_null()).then(labels.gather(places))).to_series()
    elif column.dtype.is_nested():
        raise TrainingError(
            f"{column.name} is {column.dtype}, which no slice can be told apart by.", fix="Name another."
        )
    else:
        told = column.cast(pl.String)
    return told.fill_null(MISSING)
