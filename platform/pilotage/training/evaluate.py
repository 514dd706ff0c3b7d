"""What a candidate shows on its holdout, measured through the bundle that would be served. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.runtime.bundle import TOLERANCE, Bundle, read_bundle
from pilotage.runtime.predictor import Predictor
from pilotage.spec import ModelSpec
from pilotage.training.baselines import baselines
from pilotage.training.compare import compare
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.fairness import fairness_of
from pilotage.training.learning_data import effective, narrowed
from pilotage.training.metrics import all_metrics, reliability, with_intervals
from pilotage.training.plots import draw_plots
from pilotage.training.records import Candidate, Comparison, Evaluation, Slice, TrainingSet
from pilotage.training.slices import by_column, by_month, draw
from pilotage.training.split import effective_split, split
from pilotage.training.train import local_days

_TIMED_PREDICTIONS = 200


def evaluate(
    spec: ModelSpec,
    training_set: TrainingSet,
    candidate: Candidate,
    *,
    champion_bundle: Path | None,
    champion_version: int | None,
    config: TrainConfig,
    directory: Path,
    groups: pl.DataFrame | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measures a candidate on its holdout, beside the baselines and the champion.

    Args:
        spec: The model.
        training_set: What the candidate was trained on.
        candidate: From ``train``, with the same configuration.
        champion_bundle: Folder of the champion's bundle; ``None`` if there is no champion.
        champion_version: Its version.
        config: As for ``train``.
        directory: Folder for ``plots/``.
        groups: From ``groups_of``; without them fairness is not measured, and the gate of a model that names protected
            columns is not met.
        progress: Called with short sentences.

    Raises:
        BundleCorrupt: A bundle is not what its manifest says.
        TrainingError: The configuration is another than the training's, the bundle computes other features than it
            was trained on, or a baseline answers something that is no probability.
    """
    config.check(spec)
    config = effective(config, candidate.policy)
    frame = read_set(training_set)
    calibrated = (config.calibration or spec.trainer.calibration) != "none"
    parts = narrowed(
        spec, frame, split(spec, frame, effective_split(spec, config.split), calibrated=calibrated), config.data
    )
    if (sizes := {name: len(rows) for name, rows in parts.rows.items()}) != candidate.parts:
        raise TrainingError(
            f"The candidate was trained on parts of {candidate.parts} rows, this configuration makes {sizes}.",
            fix="Evaluate with the configuration that it was trained with.",
        )
    holdout = frame[parts.rows["holdout"]]
    if candidate.judged_from is not None:
        # What chose it among others would flatter it.
        holdout = holdout.filter(pl.col(EVENT_TIME) >= candidate.judged_from)
    labels = holdout[LABEL].to_numpy()
    clusters = local_days(spec, holdout)
    bundle = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)
    bundle.scorer.threads = candidate.threads
    predicted = _served(spec, bundle, holdout)
    resamples, unit = draw(clusters, len(labels), config=config.evaluation, seed=config.seed)
    confidence, cost = config.evaluation.confidence, spec.kpi.cost
    metrics = with_intervals(labels, predicted, cost, resamples, confidence=confidence)
    told = ", ".join(
        f"{name} {value.value:.4f} ({value.low:.4f} to {value.high:.4f})" for name, value in metrics.items()
    )
    progress(f"Holdout of {len(labels):,} rows, resampled by {unit}: {told}")
    rate = float(frame[LABEL].gather(parts.rows["train"]).mean() or 0.0)  # type: ignore[arg-type]
    beaten = {name: all_metrics(labels, answers, cost) for name, answers in baselines(spec, holdout, rate=rate).items()}
    slices = by_column(spec, holdout, predicted, clusters, config=config.evaluation, seed=config.seed)
    months = [
        *_fold_months(spec, frame, candidate, config),
        *by_month(spec, "holdout", holdout, predicted, clusters, config=config.evaluation, seed=config.seed),
    ]
    progress(f"Measured {len(slices)} slices and {len(months)} months")
    alike = None
    if groups is not None:
        alike = fairness_of(spec, holdout, predicted, clusters, groups, config=config.evaluation, seed=config.seed)
        progress(f"Compared groups of {', '.join(spec.protected)}: {len(alike.unfair)} beyond the limit")
    versus: Comparison | None = None
    if champion_bundle is not None and champion_version is not None:
        versus = compare(
            spec,
            holdout,
            predicted,
            clusters,
            champion_bundle=champion_bundle,
            champion_version=champion_version,
            threads=candidate.threads,
            config=config,
            progress=progress,
        )
    evaluation = Evaluation(
        model=spec.name,
        rows=len(labels),
        positives=int(labels.sum()),
        threshold=cost.threshold,
        metrics=metrics,
        baselines=beaten,
        slices=slices,
        months=months,
        importance=candidate.importance,
        reliability=reliability(labels, predicted, resamples, confidence=confidence),
        latency_ms=_latency_ms(bundle),
        bundle_mb=sum(path.stat().st_size for path in Path(candidate.bundle).iterdir()) / 1e6,
        versus_champion=versus,
        at_least={str(metric): bound for metric, bound in config.evaluation.at_least.items()},
        at_most={str(metric): bound for metric, bound in config.evaluation.at_most.items()},
        better_by=config.evaluation.better_by,
        fairness=alike,
        bundle_sha256=candidate.bundle_sha256,
    )
    progress("Draws the pictures")
    plots = draw_plots(spec, evaluation, labels, predicted, directory=directory / "plots")
    return replace(evaluation, plots=plots)


def _served(spec: ModelSpec, bundle: Bundle, holdout: pl.DataFrame) -> np.ndarray:
    """The holdout's probabilities by the serving path, when that agrees with the features that were trained on."""
    predicted = bundle.score(holdout)
    trained = bundle.scorer.score(holdout.select([feature.name for feature in spec.features]))
    # Written so that a NaN fails.
    same = np.abs(predicted - trained) <= TOLERANCE
    if not same.all():
        row = int(np.argmin(same))
        raise TrainingError(
            f"{spec.name}: {int((~same).sum()):,} of {len(same):,} holdout rows get another answer from the bundle's "
            f"features ({predicted[row]!r}) than from the table's ({trained[row]!r}, row {row}).",
            fix="Build the features again: the table holds other values than their expressions give.",
            row=row,
        )
    return predicted


def _fold_months(spec: ModelSpec, frame: pl.DataFrame, candidate: Candidate, config: TrainConfig) -> list[Slice]:
    """Months of the out-of-fold predictions."""
    if not candidate.out_of_fold:
        return []
    told = pl.read_parquet(candidate.out_of_fold)
    rows = frame[told["row"].to_numpy()]
    return by_month(
        spec,
        "cross-validation",
        rows,
        told["predicted"].to_numpy(),
        local_days(spec, rows),
        config=config.evaluation,
        seed=config.seed,
    )


class _KnownState:
    """As-of columns that are there already. The online store's look-up is not the model's to answer for."""

    through: datetime | None = None

    def __init__(self, row: pl.DataFrame) -> None:
        self._row = row

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        """The requests with those columns that they do not have."""
        extra = [column for column in bundle.state_types() if column not in requests.columns]
        return requests.hstack(self._row.select(extra))


def _latency_ms(bundle: Bundle) -> float:
    """Median of one prediction: contract check, features, score; milliseconds of CPU, which no other load changes."""
    bundle.scorer.threads = 1
    predictor = Predictor(bundle, version=0)
    predictor.warm()
    requests = bundle.golden.select([field.name for field in bundle.request])
    taken = []
    for number in range(_TIMED_PREDICTIONS):
        row = number % requests.height
        state = _KnownState(bundle.golden[row])
        began = time.process_time()
        predictor.predict(requests[row], state)
        taken.append(time.process_time() - began)
    return float(np.median(taken) * 1000)
