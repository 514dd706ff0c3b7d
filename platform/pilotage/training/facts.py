"""What a bundle's manifest remembers of its training: all that building it again, or comparing with it, needs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import polars as pl

from pilotage.features.build import EVENT_TIME
from pilotage.spec import HashSplit, ModelSpec, Scalar, TimeSplit
from pilotage.training.config import TrainConfig
from pilotage.training.records import Cut, TrainingSet
from pilotage.training.split import Parts


def training_facts(
    spec: ModelSpec,
    training_set: TrainingSet,
    frame: pl.DataFrame,
    *,
    parts: Parts,
    split: TimeSplit | HashSplit,
    config: TrainConfig,
    params: Mapping[str, Scalar],
    rounds: int,
    threads: int,
    calibration: str,
) -> dict[str, Any]:
    """The facts, as JSON values.

    ``cut`` says which days were read, and known by when; ``first`` and ``last`` are local days of the rows.
    ``learned_until`` is the newest event time (UTC) that the model was trained or calibrated on: a later row is new to
    it. ``boundaries`` are the first moments of the parts, UTC. Both are empty for data without a time, where ``split``
    says by which hash a row is new.
    """
    return {
        "rows": training_set.rows,
        "positives": training_set.positives,
        "first": training_set.first.isoformat() if training_set.first else None,
        "last": training_set.last.isoformat() if training_set.last else None,
        "cut": _cut(training_set.cut),
        "training_set_sha256": training_set.sha256,
        "lake_versions": dict(training_set.lake_versions),
        "feature_fingerprint": training_set.feature_fingerprint,
        "parts": {name: len(rows) for name, rows in parts.rows.items()},
        "purged": parts.purged,
        "boundaries": {name: begin.isoformat() for name, begin in parts.begins.items()},
        "learned_until": _learned_until(spec, frame, parts),
        "split": _split(split),
        "params": dict(params),
        "rounds": rounds,
        "seed": config.seed,
        "threads": threads,
        "calibration": calibration,
        "config": config.model_dump(mode="json", exclude_defaults=True),
        "libraries": {name: installed(name) for name in ("lightgbm", "numpy", "polars", "scikit-learn")},
    }


def _cut(cut: Cut | None) -> dict[str, Any] | None:
    if cut is None:
        return None
    first, last = (day and day.isoformat() for day in (cut.first, cut.last))
    known_by = cut.known_by and cut.known_by.isoformat()
    return {"first": first, "last": last, "without": [day.isoformat() for day in cut.without], "known_by": known_by}


def _learned_until(spec: ModelSpec, frame: pl.DataFrame, parts: Parts) -> str | None:
    if spec.event_time is None:
        return None
    rows = np.concatenate([parts.rows["train"], parts.rows["calibration"]])
    newest = frame[EVENT_TIME].gather(rows).max()
    return newest.isoformat() if isinstance(newest, datetime) else None


def _split(how: TimeSplit | HashSplit) -> dict[str, Any]:
    if isinstance(how, HashSplit):
        return {"kind": "hash", **how.model_dump()}
    lengths = {"calibration": how.calibration, "holdout": how.holdout, "embargo": how.embargo}
    return {
        "kind": "time",
        **{f"{name}_days": length / timedelta(days=1) for name, length in lengths.items()},
        "folds": how.folds,
    }
