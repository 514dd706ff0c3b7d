"""From a training set to a candidate: split, tune, cross-validate, fit, calibrate, write the bundle. Judges nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.runtime.bundle import EXPECTED, write_bundle
from pilotage.runtime.scorer import Calibrator
from pilotage.spec import HashSplit, ModelSpec, Scalar, TimeSplit
from pilotage.training.calibrate import fit_calibrator
from pilotage.training.config import TrainConfig, TuningConfig
from pilotage.training.cross_validation import CrossValidation, cross_validate, raw_scores
from pilotage.training.dataset import read_set
from pilotage.training.facts import training_facts
from pilotage.training.fit import Fitted, fit, main_names, merged_params
from pilotage.training.learning_data import narrowed, weights
from pilotage.training.records import Candidate, TrainingSet, Trial
from pilotage.training.split import Fold, Parts, effective_split, folds, split
from pilotage.training.tuning import tune

REFERENCE_ROWS = 2000
"""Rows of training features that a bundle keeps for comparing later data with."""
GOLDEN_ROWS = 20
"""Rows with their expected answers that a bundle keeps for proving itself."""
OUT_OF_FOLD = "out_of_fold.parquet"
"""Columns ``row`` (of the training set) and ``predicted``: what cross-validation said about rows it did not see."""
_INNER_FOLDS = 3

Progress = Callable[[str], None]


def train(
    spec: ModelSpec,
    training_set: TrainingSet,
    *,
    config: TrainConfig,
    directory: Path,
    threads: int,
    progress: Progress = lambda _: None,
) -> Candidate:
    """Trains one candidate. The same set, configuration and seed give the same model bytes on one machine type.

    Args:
        spec: The model.
        training_set: From ``assemble``.
        config: What this run tries.
        directory: This run's folder; ``bundle/`` in it is replaced.
        threads: OpenMP threads; they do not change the bytes.
        progress: Called with short sentences.

    Returns:
        The candidate, calibrated, as a bundle on disk, not yet judged.

    Raises:
        ConfigError: A parameter is unknown, or the platform's.
        TrainingError: The data is too short for its parts, or nothing can be learned from it.
    """
    config.check(spec)
    frame = read_set(training_set)
    labels = frame[LABEL].to_numpy()
    features = frame.select([feature.name for feature in spec.features])
    how = effective_split(spec, config.split)
    kind = config.calibration or spec.trainer.calibration
    parts = narrowed(spec, frame, split(spec, frame, how, calibrated=kind != "none"), config.data)
    progress(f"Split: {', '.join(f'{name} {len(rows):,}' for name, rows in parts.rows.items())} rows")

    run = _Run(
        spec=spec,
        frame=frame,
        features=features,
        labels=labels,
        parts=parts,
        how=how,
        weights=weights(spec, frame, config.data),
        config=config,
        threads=threads,
        progress=progress,
    )
    params, trials = run.tuned()
    rounds = run.rounds(params)
    validated = run.cross_validated(params, rounds)
    rows = parts.rows["train"]
    progress(f"Fits {rounds} rounds on {len(rows):,} rows")
    fitted = fit(
        spec,
        features[rows],
        labels[rows],
        params=params,
        rounds=rounds,
        seed=config.seed,
        threads=threads,
        weights=run.weights_of(rows),
        progress=progress,
    )
    calibrator = run.calibrator(fitted, kind)
    bundle = directory / "bundle"
    # A step that is tried again finds the folder of its first attempt.
    shutil.rmtree(bundle, ignore_errors=True)
    sha256 = write_bundle(
        bundle,
        spec=spec,
        model_text=fitted.text,
        calibrator=calibrator,
        categories=fitted.categories,
        reference=features[rows].sample(min(REFERENCE_ROWS, len(rows)), seed=config.seed, shuffle=True),
        golden=run.golden(fitted, calibrator),
        training=training_facts(
            spec,
            training_set,
            frame,
            parts=parts,
            split=how,
            config=config,
            params=params,
            rounds=fitted.rounds,
            threads=threads,
            calibration=calibrator.kind,
        ),
        fingerprint=training_set.feature_fingerprint,
    )
    out_of_fold = directory / OUT_OF_FOLD
    pl.DataFrame({"row": validated.rows, "predicted": validated.predicted}).write_parquet(out_of_fold)
    progress(f"Bundle {sha256[:12]} with {fitted.rounds} rounds, calibrated by {calibrator.kind}")
    return Candidate(
        model=spec.name,
        bundle=str(bundle),
        bundle_sha256=sha256,
        params=dict(params),
        rounds=fitted.rounds,
        threads=threads,
        parts={name: len(numbers) for name, numbers in parts.rows.items()},
        boundaries=dict(parts.begins),
        cross_validation=validated.metrics,
        out_of_fold=str(out_of_fold),
        importance=_shares(fitted.gain),
        trials=trials,
        training_set_sha256=training_set.sha256,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the steps of one training share."""

    spec: ModelSpec
    frame: pl.DataFrame
    features: pl.DataFrame
    labels: np.ndarray
    parts: Parts
    how: TimeSplit | HashSplit
    weights: np.ndarray | None
    config: TrainConfig
    threads: int
    progress: Progress

    def tuned(self) -> tuple[dict[str, Scalar], list[Trial]]:
        """The parameters to train with, and the trials that found them."""
        start = merged_params(self.spec, self.config)
        if self.config.tuning is None:
            return start, []
        names = main_names(self.config.tuning.space, where="tuning.space")
        tuning = TuningConfig(
            trials=self.config.tuning.trials,
            timeout_seconds=self.config.tuning.timeout_seconds,
            space={names[name]: space for name, space in self.config.tuning.space.items()},
        )
        chosen = self._folds(self.how.folds or _INNER_FOLDS)
        rounds = self.config.rounds or self.spec.trainer.rounds
        self.progress(f"Tunes {', '.join(tuning.space)} in up to {tuning.trials} trials of {len(chosen)} folds")

        def objective(params: dict[str, Scalar]) -> float:
            trial = merged_params(self.spec, self.config, params)
            metrics = self._validate(chosen, trial, rounds, lambda _: None).metrics
            return float(np.average([fold["log_loss"] for fold in metrics], weights=[fold["rows"] for fold in metrics]))

        best, trials = tune(tuning, start=start, seed=self.config.seed, objective=objective, progress=self.progress)
        return merged_params(self.spec, self.config, best), trials

    def rounds(self, params: dict[str, Scalar]) -> int:
        """Boosting rounds: as declared, or where the newest fold stopped getting better."""
        limit = self.config.rounds or self.spec.trainer.rounds
        if self.config.early_stopping_rounds is None:
            return limit
        fold = self._folds(self.how.folds or _INNER_FOLDS)[-1]
        found = fit(
            self.spec,
            self.features[fold.train],
            self.labels[fold.train],
            params=params,
            rounds=limit,
            seed=self.config.seed,
            threads=self.threads,
            weights=self.weights_of(fold.train),
            valid=(self.features[fold.test], self.labels[fold.test]),
            patience=self.config.early_stopping_rounds,
            progress=self.progress,
        )
        self.progress(f"Early stopping: {found.rounds} rounds of at most {limit}")
        return found.rounds

    def weights_of(self, rows: np.ndarray) -> np.ndarray | None:
        """How much some rows count when they are trained on; ``None`` if all count the same."""
        return None if self.weights is None else self.weights[rows]

    def cross_validated(self, params: dict[str, Scalar], rounds: int) -> CrossValidation:
        """The final parameters on each fold; nothing with ``folds: 0``."""
        chosen = self._folds(self.how.folds) if self.how.folds else []
        return self._validate(chosen, params, rounds, self.progress)

    def calibrator(self, fitted: Fitted, kind: Any) -> Calibrator:
        """Fitted on the calibration part, whose days count as one piece of evidence each."""
        rows = self.parts.rows["calibration"]
        if kind == "none":
            return fit_calibrator("none", np.empty(0), np.empty(0, dtype=bool))
        raw = raw_scores(self.spec, fitted, self.features[rows], threads=self.threads)
        return fit_calibrator(kind, raw, self.labels[rows], clusters=local_days(self.spec, self.frame[rows]))

    def golden(self, fitted: Fitted, calibrator: Calibrator) -> pl.DataFrame:
        """Rows spread evenly over the holdout, with what training says about them."""
        rows = self.parts.rows["holdout"]
        chosen = rows[np.linspace(0, len(rows) - 1, min(GOLDEN_ROWS, len(rows))).astype(np.int64)]
        answers = calibrator.apply(raw_scores(self.spec, fitted, self.features[chosen], threads=self.threads))
        columns = [*self.spec.request_types(), *self.spec.state_types()]
        return self.frame[chosen].select(columns).with_columns(pl.Series(EXPECTED, answers, dtype=pl.Float64))

    def _folds(self, count: int) -> list[Fold]:
        return folds(self.spec, self.frame, self.parts.rows["train"], self.how, count=count)

    def _validate(
        self, chosen: list[Fold], params: dict[str, Scalar], rounds: int, progress: Progress
    ) -> CrossValidation:
        return cross_validate(
            self.spec,
            self.features,
            self.labels,
            chosen,
            params=params,
            rounds=rounds,
            seed=self.config.seed,
            threads=self.threads,
            cost=self.spec.kpi.cost,
            weights=self.weights,
            progress=progress,
        )


def local_days(spec: ModelSpec, frame: pl.DataFrame) -> np.ndarray | None:
    """Day number of each row in the model's time zone; ``None`` for data without a time."""
    if spec.event_time is None:
        return None
    return frame[EVENT_TIME].dt.convert_time_zone(spec.time_zone).dt.date().to_physical().to_numpy()


def _shares(gain: dict[str, float]) -> dict[str, float]:
    total = sum(gain.values())
    return {name: value / total for name, value in sorted(gain.items(), key=lambda item: -item[1])}
