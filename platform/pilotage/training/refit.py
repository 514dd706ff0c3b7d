"""The judged candidate once more, fitted on every row: what is released, when the gate let the candidate pass.

To be judged, a candidate gives up its newest days; to be good tomorrow, a model needs just those. On the flights of
2013 that was worth more than anything else that was tried (docs/the-year-2013.md). So the recipe is judged on days that
it did not see, and carried out again with them. Nothing is chosen here: parameters, rounds, weights and calibrator are
the judged candidate's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pilotage.features.build import LABEL
from pilotage.runtime.bundle import EXPECTED, read_bundle, write_bundle
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.facts import training_facts
from pilotage.training.fit import fit
from pilotage.training.learning_data import effective, narrowed, weights
from pilotage.training.records import Candidate, TrainingSet
from pilotage.training.split import Parts, effective_split, split
from pilotage.training.train import REFERENCE_ROWS

REFIT_OF = "refit_of"
"""Training fact of a bundle that was fitted once more: SHA-256 of the judged one's manifest."""
FOLDER = Path("refitted", "bundle")
"""In the run's folder, beside the judged ``bundle``. The registry keeps a bundle under its own folder's name."""


def refit(
    spec: ModelSpec,
    training_set: TrainingSet,
    candidate: Candidate,
    *,
    config: TrainConfig,
    directory: Path,
    threads: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """Fits a candidate's recipe on all rows of its training set, holdout included.

    Args:
        spec: The model.
        training_set: What the candidate was trained on.
        candidate: Judged, and passed.
        config: As for ``train``.
        directory: The run's folder; ``refitted/bundle/`` in it is replaced.
        threads: OpenMP threads; they do not change the bytes.
        progress: Called with short sentences.

    Returns:
        The candidate with the bundle to release. Its ``parts`` have one part, ``train``.

    Raises:
        BundleCorrupt: The judged bundle is not what its record says.
        TrainingError: The training set was changed.
    """
    chosen = effective(config, candidate.policy)
    judged = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)
    frame = read_set(training_set)
    how = effective_split(spec, chosen.split)
    parts = split(spec, frame, how, calibrated=judged.scorer.calibrator.kind != "none")
    everything = Parts(
        rows={"train": np.arange(frame.height), **dict.fromkeys(("calibration", "holdout"), np.empty(0, np.int64))},
        begins={name: begin for name, begin in parts.begins.items() if name == "train"},
    )
    kept = narrowed(spec, frame, everything, chosen.data)
    rows = kept.rows["train"]
    counted = weights(spec, frame, chosen.data)
    features = frame.select([feature.name for feature in spec.features])
    progress(f"Fits {candidate.rounds} rounds on all {len(rows):,} rows")
    fitted = fit(
        spec,
        features[rows],
        frame[LABEL].to_numpy()[rows],
        params=candidate.params,
        rounds=candidate.rounds,
        seed=chosen.seed,
        threads=threads,
        weights=None if counted is None else counted[rows],
        progress=progress,
    )
    bundle = directory / FOLDER
    # A step that is tried again finds the folder of its first attempt.
    shutil.rmtree(bundle, ignore_errors=True)
    sha256 = write_bundle(
        bundle,
        spec=spec,
        model_text=fitted.text,
        calibrator=judged.scorer.calibrator,
        categories=fitted.categories,
        reference=features[rows].sample(min(REFERENCE_ROWS, len(rows)), seed=chosen.seed, shuffle=True),
        golden=judged.golden.drop(EXPECTED),
        training=training_facts(
            spec,
            training_set,
            frame,
            parts=kept,
            split=how,
            config=config,
            params=candidate.params,
            rounds=candidate.rounds,
            threads=threads,
            calibration=judged.scorer.calibrator.kind,
        )
        | {REFIT_OF: candidate.bundle_sha256},
        fingerprint=training_set.feature_fingerprint,
    )
    progress(f"Bundle {sha256[:12]} is the judged {candidate.bundle_sha256[:12]}, fitted on its holdout too")
    total = sum(fitted.gain.values())
    return replace(
        candidate,
        bundle=str(bundle),
        bundle_sha256=sha256,
        parts={"train": len(rows)},
        boundaries=dict(kept.begins),
        importance={name: gain / total for name, gain in sorted(fitted.gain.items(), key=lambda item: -item[1])},
    )
