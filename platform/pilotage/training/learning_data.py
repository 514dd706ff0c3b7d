"""Which rows of the training part a run learns from, and how much each counts. The newest rows stay as they are:
calibration and holdout are the same for every policy, so that candidates can be compared on them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import EVENT_TIME
from pilotage.spec import ModelSpec
from pilotage.training.config import DataConfig, TrainConfig, VariantConfig
from pilotage.training.split import Parts


def narrowed(spec: ModelSpec, frame: pl.DataFrame, parts: Parts, data: DataConfig) -> Parts:
    """The parts, without rows to train on that are older than ``data`` allows.

    Raises:
        TrainingError: None is left.
    """
    begins = _begins(spec, frame, data)
    if begins is None:
        return parts
    rows = parts.rows["train"]
    kept = rows[(frame[EVENT_TIME].gather(rows) >= begins).to_numpy()]
    if len(kept) == 0:
        raise TrainingError(
            f"No row of {spec.name} to train on is from {begins:%Y-%m-%d} or later: calibration and holdout take "
            "what is newer.",
            fix="Learn from an earlier day on, or wait for more data.",
            learn_from=begins.isoformat(),
        )
    return replace(
        parts,
        rows={**parts.rows, "train": kept},
        begins={**parts.begins, "train": max(begins, parts.begins["train"])},
    )


def _begins(spec: ModelSpec, frame: pl.DataFrame, data: DataConfig) -> datetime | None:
    """First moment that is trained on, a local midnight, UTC; ``None`` for all there is."""
    days = []
    if spec.event_time is not None and data.learn_from is not None:
        days.append(data.learn_from)
    if spec.event_time is not None and data.window_days is not None:
        newest = frame.select(pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date().max()).item()
        days.append(newest - timedelta(days=data.window_days) + timedelta(days=1))
    return datetime.combine(max(days), clock.min, ZoneInfo(spec.time_zone)).astimezone(UTC) if days else None


def weights(spec: ModelSpec, frame: pl.DataFrame, data: DataConfig) -> np.ndarray | None:
    """How much each row of a training set counts: half as much for every half-life that it is older than the newest.

    Returns:
        Shape (rows,), 0..1; ``None`` if all count the same.
    """
    if data.half_life_days is None or spec.event_time is None:
        return None
    age = (
        frame.select((pl.col(EVENT_TIME).max() - pl.col(EVENT_TIME)).dt.total_seconds() / 86_400).to_series().to_numpy()
    )
    counted: np.ndarray = 0.5 ** (age / data.half_life_days)
    return counted


def as_variant(config: TrainConfig, variant: VariantConfig) -> TrainConfig:
    """The configuration of one of several candidates, as if it were the only one."""
    data = config.data.model_copy(update=variant.model_dump(exclude={"name"}))
    return config.model_copy(update={"data": data, "variants": []})


def effective(config: TrainConfig, policy: str) -> TrainConfig:
    """The configuration that a candidate was trained with.

    Args:
        config: The run's.
        policy: Name of the variant; empty for a run with one candidate.
    """
    chosen = next((variant for variant in config.variants if variant.name == policy), None)
    return config if chosen is None else as_variant(config, chosen)


def judged_from(spec: ModelSpec, holdout: pl.DataFrame, share: float) -> datetime:
    """First moment of the holdout's newer part, which judges; the older part chooses among candidates.

    Args:
        spec: The model.
        holdout: With event times.
        share: Of the days, the older ones, that choose.

    Raises:
        TrainingError: The holdout has fewer than two days.
    """
    zone = ZoneInfo(spec.time_zone)
    days = holdout[EVENT_TIME].dt.convert_time_zone(spec.time_zone).dt.date().unique().sort().to_list()
    if len(days) < 2:
        raise TrainingError(
            f"The holdout of {spec.name} has {len(days)} day(s): it can't both choose and judge.",
            fix="Give a longer holdout, or one policy of training data.",
        )
    first = days[min(max(round(len(days) * share), 1), len(days) - 1)]
    return datetime.combine(first, clock.min, zone).astimezone(UTC)
