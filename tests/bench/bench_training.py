"""Training on the real year against bare LightGBM doing the same fits: ``python -m tests.bench.bench_training``.

Prints seconds, CPU seconds (which a busy machine changes less) and rows per second of each step, the ratio of ``train``
to four bare fits on the same rows, and what a bootstrap of 300 resamples costs as the holdout grows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, planes, weather
from pilotage.data.lake import Lake
from pilotage.features.build import build_features
from pilotage.runtime.scorer import encode
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble, read_set
from pilotage.training.evaluate import evaluate
from pilotage.training.fit import levels, lightgbm
from pilotage.training.metrics import Resamples, with_intervals
from pilotage.training.records import TrainingSet
from pilotage.training.split import folds, split
from pilotage.training.train import train
from tests.bench.bench_features import _publish as publish

THREADS = min(2, os.cpu_count() or 1)
Made = TypeVar("Made")


def main() -> None:
    lightgbm()  # Its import is not what is measured.
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(f"{folder}/lake")
        for source in (flights.SOURCE, weather.SOURCE, planes.SOURCE, airports.SOURCE):
            publish(lake, source, 1)
        build_features(MODEL, lake=lake, days=None, run_id="bench")
        config, run = TrainConfig(), Path(folder) / "run"
        print(f"{'step':<34}{'s':>8}{'CPU s':>8}{'rows/CPU s':>12}")
        made, _ = timed("assemble", 0, lambda: assemble(MODEL, lake=lake, config=config, directory=run))
        rows = made.rows
        candidate, ours = timed(
            "train: 3 folds, fit, bundle",
            rows,
            lambda: train(MODEL, made, config=config, directory=run, threads=THREADS),
        )
        _, theirs = timed("bare LightGBM: 4 fits", rows, lambda: bare(made))
        timed(
            "evaluate, with pictures",
            candidate.parts["holdout"],
            lambda: evaluate(
                MODEL, made, candidate, champion_bundle=None, champion_version=None, config=config, directory=run
            ),
        )
        print(f"train / bare: wall {ours[0] / theirs[0]:.2f}, CPU {ours[1] / theirs[1]:.2f}")
    random = np.random.default_rng(0)
    for size in (12_500, 50_000, 200_000):
        predicted = random.random(size)
        labels = random.random(size) < predicted
        days = np.arange(size) * 14 // size
        timed(
            f"300 resamples of {size:,}",
            size,
            lambda labels=labels, predicted=predicted, days=days: with_intervals(  # type: ignore[misc]
                labels,
                predicted,
                MODEL.kpi.cost,
                Resamples.draw(days, len(labels), count=300, seed=0),
                confidence=0.95,
            ),
        )


def bare(made: TrainingSet) -> None:
    """The same rows, folds and parameters, with nothing around them."""
    lgb = lightgbm()
    frame = read_set(made)
    columns = [feature.name for feature in MODEL.features]
    labels = frame["label"].to_numpy()
    parts = split(MODEL, frame, MODEL.split)
    cuts = [
        (fold.train, fold.test)
        for fold in folds(MODEL, frame, parts.rows["train"], MODEL.split, count=MODEL.split.folds)
    ]
    for chosen, judged in [*cuts, (parts.rows["train"], parts.rows["holdout"])]:
        features = frame[chosen].select(columns)
        categories = levels(MODEL, features)
        data = lgb.Dataset(
            encode(features, columns, categories),
            labels[chosen].astype(np.float64),
            feature_name=columns,
            categorical_feature=list(categories),
        )
        fixed = {"objective": "binary", "verbosity": -1, "deterministic": True, "force_row_wise": True, "seed": 1}
        booster = lgb.train({**fixed, **MODEL.trainer.params, "num_threads": THREADS}, data, MODEL.trainer.rounds)
        booster.predict(encode(frame[judged].select(columns), columns, categories), num_threads=THREADS)


def timed(name: str, rows: int, work: Callable[[], Made]) -> tuple[Made, tuple[float, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = f"{rows / cpu:>12,.0f}" if rows else ""
    print(f"{name:<34}{wall:>8.2f}{cpu:>8.2f}{rate}", flush=True)
    return made, (wall, cpu)


if __name__ == "__main__":
    pl.Config.set_verbose(False)
    main()
