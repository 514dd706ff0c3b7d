"""A parcel service: some depots are late, heavy parcels are later, and one depot is new at the end.

Nothing is random but the seed: every number in these tests can be looked up. Labels come two hours after the event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.features.build import build_features
from pilotage.features.view import FeatureView
from pilotage.spec import (
    CostMatrix,
    Fallback,
    Feature,
    Gate,
    HashSplit,
    Kpi,
    Label,
    LightGBM,
    ModelSpec,
    RequestField,
    TimeSplit,
)
from pilotage.training.dataset import set_columns
from pilotage.training.records import TrainingSet

START = datetime(2024, 3, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")


def parcel_spec(**changes: Any) -> ModelSpec:
    """The model of the timed parcels; anything can be changed."""
    declared: dict[str, Any] = {
        "name": "parcel_late",
        "title": "Late parcels",
        "objective": "Tell which parcels will be late.",
        "owner": "team:parcels",
        "risk": "minimal",
        "intended_use": "Tests.",
        "limitations": (),
        "kpi": Kpi(
            name="Cost",
            unit="EUR",
            cost=CostMatrix(true_positive=1, false_positive=1, true_negative=0, false_negative=3),
        ),
        "source": "parcels",
        "entity": ("parcel_id",),
        "event_time": "sent_at",
        "predicts_at": pl.col("sent_at"),
        "request": (
            RequestField(name="parcel_id", dtype=pl.Int64, description="Number.", example=1),
            RequestField(name="depot", dtype=pl.String, description="Depot.", example="north", nullable=True),
            RequestField(name="weight", dtype=pl.Float64, description="Kilograms.", example=2.5, nullable=True),
            RequestField(name="sent_at", dtype=UTC_TIME, description="Sent.", example="2024-03-01T08:00:00Z"),
        ),
        "label": Label(name="late", expr=pl.col("late"), known_at="delivered_at", description="Was late."),
        "features": (
            Feature(name="depot", expr=pl.col("depot"), description="Depot"),
            Feature(name="weight", expr=pl.col("weight"), description="Weight"),
            Feature(name="hour", expr=pl.col("sent_at").dt.hour().cast(pl.Int64), description="Hour"),
        ),
        "split": TimeSplit(
            calibration=timedelta(days=6), holdout=timedelta(days=8), embargo=timedelta(days=1), folds=2
        ),
        "trainer": LightGBM(
            rounds=20,
            params={"num_leaves": 7, "min_data_in_leaf": 10, "feature_fraction": 0.7, "learning_rate": 0.2},
            calibration="sigmoid",
        ),
        "gate": Gate(at_least={"auc": 0.6}, at_most={"calibration_error": 0.3}),
        "fallback": Fallback(rule=pl.when(pl.col("weight") > 5).then(0.5).otherwise(0.3), reason="Heavy is late."),
        "slices": ("depot", "hour"),
    }
    return ModelSpec(**(declared | changes))


def untimed_spec(**changes: Any) -> ModelSpec:
    """The same without a time."""
    untimed: dict[str, Any] = {
        "name": "parcel_lost",
        "event_time": None,
        "predicts_at": None,
        "label": Label(name="late", expr=pl.col("late"), known_at=None, description="Was late."),
        "split": HashSplit(calibration=0.2, holdout=0.3, folds=3),
        "slices": ("depot",),
    }
    return parcel_spec(**(untimed | changes))


def parcels(days: int = 40, per_day: int = 60, *, seed: int = 0) -> pl.DataFrame:
    """Validated rows: ``per_day`` parcels a day, from 1 March 2024 on."""
    random = np.random.default_rng(seed)
    rows = days * per_day
    minutes = np.sort(random.integers(0, 24 * 60, size=(days, per_day)), axis=1) + 24 * 60 * np.arange(days)[:, None]
    sent = [START + timedelta(minutes=int(minute)) for minute in minutes.ravel()]
    depot = random.choice(["north", "south", "east", None], size=rows, p=[0.4, 0.3, 0.25, 0.05])
    weight = np.round(random.gamma(2.0, 2.0, size=rows), 2)
    hour = np.array([moment.hour for moment in sent])
    logit = -1.6 + 1.2 * (depot == "south") + 0.25 * weight + 0.8 * (hour > 16)
    late = random.random(rows) < 1 / (1 + np.exp(-logit))
    frame = pl.DataFrame(
        {
            "parcel_id": np.arange(rows),
            "depot": depot.tolist(),
            "weight": weight,
            "sent_at": pl.Series(sent, dtype=UTC_TIME),
            "late": late,
        }
    )
    return frame.with_columns(
        delivered_at=pl.col("sent_at") + pl.duration(hours=2),
        weight=pl.when(pl.col("parcel_id") % 23 == 0).then(None).otherwise("weight"),
        day=pl.col("sent_at").dt.date(),
    )


def publish(lake: Lake, spec: ModelSpec, rows: pl.DataFrame) -> None:
    """Validated rows → features, by the real room."""
    if spec.event_time:
        lake.replace_days("validated/parcels", rows, sorted(rows["day"].unique()), note={})
    else:
        lake.replace("validated/parcels", rows.drop("day"), note={})
    build_features(spec, lake=lake, days=None, run_id="test")


def as_training_set(spec: ModelSpec, rows: pl.DataFrame, folder: Path) -> TrainingSet:
    """A training set of these validated rows, without a lake."""
    timed = {"event_time": pl.col("sent_at"), "label_known_at": pl.col("delivered_at")} if spec.event_time else {}
    frame = rows.with_columns(label=spec.label.expr, **timed).filter(pl.col("label").is_not_null())
    frame = FeatureView(spec).offline(frame, lambda *_: pl.LazyFrame()).select(set_columns(spec))
    return store_set(spec, frame, folder)


def store_set(spec: ModelSpec, frame: pl.DataFrame, folder: Path) -> TrainingSet:
    """Writes a frame as a training set, and says so."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training_set.parquet"
    frame.write_parquet(path)
    days = frame["event_time"].dt.date() if spec.event_time else None
    return TrainingSet(
        model=spec.name,
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=frame.height,
        positives=int(frame["label"].sum()),
        first=days[0] if days is not None else None,
        last=days[-1] if days is not None else None,
        lake_versions={f"features/{spec.name}": 0},
        feature_fingerprint=FeatureView(spec).fingerprint,
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def told() -> tuple[list[str], Callable[[str], None]]:
    """What a progress callback heard, and the callback."""
    heard: list[str] = []
    return heard, heard.append
