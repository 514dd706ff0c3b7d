"""A small trained model to test with: a spec, its bundle, and the records of a training run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.features.view import FeatureView
from pilotage.release.records import Provenance
from pilotage.runtime.bundle import write_bundle
from pilotage.runtime.scorer import Calibrator, encode
from pilotage.spec import (
    CostMatrix,
    Fallback,
    Feature,
    Gate,
    HashSplit,
    Kpi,
    Label,
    Latest,
    ModelSpec,
    RequestField,
    TimeSplit,
)
from pilotage.training.records import (
    Candidate,
    Criterion,
    Evaluation,
    Interval,
    Slice,
    TrainingSet,
    Trial,
    Verdict,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
ORDER: dict[str, Any] = {
    "order_id": "A-7",
    "amount": 640.5,
    "items": 3,
    "express": True,
    "shop": "north",
    "courier": None,
    "ordered_at": "2024-01-03T10:00:00Z",
}
"""A request to ``tiny_spec``, as an application sends it."""


def tiny_spec(name: str = "tiny", *, with_state: bool = False, **changes: Any) -> ModelSpec:
    """A model with a field of every type; ``with_state`` adds an as-of feature and with it an event time."""
    request = (
        RequestField(name="order_id", dtype=pl.String, description="Number of the order.", example="A-1"),
        RequestField(name="amount", dtype=pl.Float64, description="EUR.", example=12.5, minimum=0, maximum=1000),
        RequestField(name="items", dtype=pl.Int64, description="Pieces.", example=3, minimum=1, maximum=99),
        RequestField(name="express", dtype=pl.Boolean, description="Express delivery.", example=False),
        RequestField(name="shop", dtype=pl.String, description="Shop.", example="north", one_of=("north", "south")),
        RequestField(name="courier", dtype=pl.String, description="Courier, if known.", example="c1", nullable=True),
        RequestField(
            name="ordered_at", dtype=pl.Datetime("us", "UTC"), description="Order time.", example="2024-01-01T10:00:00Z"
        ),
    )
    features = [
        Feature(name="amount", expr=pl.col("amount"), description="Amount", unit="EUR"),
        Feature(name="per_item", expr=pl.col("amount") / pl.col("items"), description="Amount per piece", unit="EUR"),
        Feature(name="express", expr=pl.col("express"), description="Express delivery"),
        Feature(name="shop", expr=pl.col("shop"), description="Shop"),
        Feature(name="courier", expr=pl.col("courier"), description="Courier"),
        Feature(name="hour", expr=pl.col("ordered_at").dt.hour().cast(pl.Int64), description="Hour of the order"),
    ]
    asof: tuple[Latest, ...] = ()
    if with_state:
        asof = (
            Latest(
                name="stock",
                source="stock",
                on={"shop": "shop"},
                known_at="known_at",
                max_age=timedelta(days=2),
                columns={"level": pl.Int64},
            ),
        )
        features.append(Feature(name="stock_level", expr=pl.col("stock_level"), description="Pieces in stock"))
    settings: dict[str, Any] = {
        "name": name,
        "title": "Late orders",
        "objective": "Tell late orders ahead.",
        "owner": "team:tests",
        "risk": "minimal",
        "intended_use": "Tests.",
        "limitations": ("It is made up.",),
        "kpi": Kpi(
            name="Cost",
            unit="EUR",
            cost=CostMatrix(true_positive=1, false_positive=2, true_negative=0, false_negative=5),
        ),
        "source": "orders",
        "entity": ("order_id",),
        "event_time": "ordered_at" if with_state else None,
        "predicts_at": pl.col("ordered_at") if with_state else None,
        "request": request,
        "label": Label(
            name="late",
            expr=pl.col("is_late"),
            known_at="delivered_at" if with_state else None,
            description="The order came late.",
        ),
        "asof": asof,
        "features": tuple(features),
        "split": (
            TimeSplit(calibration=timedelta(days=1), holdout=timedelta(days=1), embargo=timedelta(hours=1))
            if with_state
            else HashSplit(calibration=0.2, holdout=0.2)
        ),
        "gate": Gate(at_least={"auc": 0.5}),
        "fallback": Fallback(rule=pl.when(pl.col("amount") > 500).then(0.6).otherwise(0.2), reason="Big ones wait."),
    }
    return ModelSpec(**{**settings, **changes})


def tiny_rows(spec: ModelSpec, rows: int = 200, *, seed: int = 7) -> pl.DataFrame:
    """Rows with the request, as-of and feature columns of ``tiny_spec``, and ``label``."""
    random = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "order_id": [f"A-{number}" for number in range(rows)],
            "amount": random.uniform(0, 1000, rows).round(2),
            "items": random.integers(1, 20, rows),
            "express": random.random(rows) < 0.3,
            "shop": random.choice(["north", "south"], rows),
            "courier": pl.Series(random.choice(["c1", "c2", "c3", "none"], rows)).replace({"none": None}),
            "ordered_at": [START + timedelta(minutes=37 * number) for number in range(rows)],
        },
        schema_overrides={"ordered_at": pl.Datetime("us", "UTC"), "items": pl.Int64},
    )
    if spec.asof:
        frame = frame.with_columns(pl.Series("stock_level", random.integers(0, 50, rows), dtype=pl.Int64))
    frame = frame.with_columns([feature.expr.alias(feature.name) for feature in spec.features])
    chance = 1 / (1 + np.exp(-(frame["amount"].to_numpy() / 150 - 3.5)))
    return frame.with_columns(pl.Series("label", random.random(rows) < chance))


def make_bundle(
    directory: Path,
    *,
    spec: ModelSpec | None = None,
    seed: int = 7,
    rounds: int = 8,
    training: Mapping[str, Any] | None = None,
    created: datetime = START,
) -> str:
    """Trains a small model and writes its bundle; takes about 50 ms once LightGBM is loaded.

    Returns:
        SHA-256 of the manifest. Other seeds give other bundles.
    """
    import lightgbm

    spec = spec or tiny_spec()
    rows = tiny_rows(spec, seed=seed)
    columns = [feature.name for feature in spec.features]
    categories = {
        name: sorted(rows[name].drop_nulls().unique().to_list()) for name in columns if rows[name].dtype == pl.String
    }
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": 5,
            "min_data_in_leaf": 5,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "seed": seed,
            "verbosity": -1,
        },
        lightgbm.Dataset(
            encode(rows, columns, categories),
            rows["label"].cast(pl.Int64).to_numpy(),
            categorical_feature=[columns.index(name) for name in categories],
        ),
        num_boost_round=rounds,
    )
    return write_bundle(
        directory,
        spec=spec,
        model_text=booster.model_to_string(),
        calibrator=Calibrator("sigmoid", [1.1], [0.05]),
        categories=categories,
        reference=rows.select(columns).head(50),
        golden=rows.head(10),
        training=training or {"rows": rows.height},
        created=created,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The records of a training run, as ``pilotage.release.registry.record`` takes them."""

    spec: ModelSpec
    training_set: TrainingSet
    candidate: Candidate
    evaluation: Evaluation
    verdict: Verdict
    provenance: Provenance
    config: dict[str, Any]
    card: str = "# Model card: made up"

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``record``, beside ``spec`` and ``settings``."""
        names = ("training_set", "candidate", "evaluation", "verdict", "provenance", "config", "card")
        return {name: getattr(self, name) for name in names}


def make_run(directory: Path, *, spec: ModelSpec | None = None, seed: int = 7, passed: bool = True) -> Run:
    """A training run's records, with a real bundle and a real training set in ``directory``."""
    spec = spec or tiny_spec()
    directory.mkdir(parents=True, exist_ok=True)
    bundle = directory / "bundle"
    sha256 = make_bundle(bundle, spec=spec, seed=seed)
    rows = tiny_rows(spec, seed=seed)
    path = directory / "training_set.parquet"
    rows.write_parquet(path)
    plot = directory / "reliability.png"
    # The smallest PNG there is: one transparent pixel.
    plot.write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718"
            "e3660000000049454e44ae426082"
        )
    )
    auc = Interval(value=0.8, low=0.7, high=0.9)
    return Run(
        spec=spec,
        training_set=TrainingSet(
            model=spec.name,
            path=str(path),
            sha256="ab" * 32,
            rows=rows.height,
            positives=int(rows["label"].sum()),
            first=date(2024, 1, 1),
            last=date(2024, 1, 6),
            lake_versions={"validated/orders": 3},
            feature_fingerprint=FeatureView(spec).fingerprint,
        ),
        candidate=Candidate(
            model=spec.name,
            bundle=str(bundle),
            bundle_sha256=sha256,
            params={"num_leaves": 5},
            rounds=8,
            threads=1,
            parts={"train": 120, "calibration": 40, "holdout": 40},
            boundaries={},
            cross_validation=[{"auc": 0.7}, {"auc": 0.75}],
            importance={"amount": 1.0},
            trials=[Trial(number=0, params={"num_leaves": 5}, log_loss=0.5, seconds=0.1)],
        ),
        evaluation=Evaluation(
            model=spec.name,
            rows=40,
            positives=15,
            threshold=spec.kpi.cost.threshold,
            metrics={"auc": auc},
            baselines={"constant": {"log_loss": 0.69}},
            slices=[],
            months=[Slice(column="holdout", value="2024-01", rows=40, metrics={"auc": auc})],
            importance={"amount": 1.0},
            reliability=[],
            latency_ms=0.5,
            bundle_mb=0.1,
            plots={"reliability": str(plot)},
        ),
        verdict=Verdict(
            model=spec.name,
            passed=passed,
            criteria=[
                Criterion(
                    name="auc",
                    passed=passed,
                    measured=0.8,
                    threshold=0.5 if passed else 0.95,
                    message="auc 0.80 is at least 0.50" if passed else "auc 0.80 is under 0.95",
                )
            ],
        ),
        provenance=Provenance(
            run_id=f"run-{seed}",
            run_url=f"http://127.0.0.1:3000/runs/run-{seed}",
            git_commit="abc1234",
            cause="manual",
            actor="ada@example.org",
        ),
        config={"rounds": 8},
    )
