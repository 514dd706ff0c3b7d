"""One training set, several policies of what to learn from, one candidate: chosen on rows that will not judge it.

The candidate that looks best among several looks better than it is, and the more there are the more so. So the older
part of the holdout chooses, and the gate judges the chosen one alone on the newer part, which played no role in the
choice: a level that holds for one comparison holds for it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl

from pilotage.errors import TrainingError
from pilotage.features.build import EVENT_TIME, LABEL
from pilotage.runtime.bundle import read_bundle
from pilotage.spec import ModelSpec
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import read_set
from pilotage.training.learning_data import as_variant, judged_from
from pilotage.training.metrics import all_metrics, worse_by
from pilotage.training.records import Candidate, TrainingSet, Tried
from pilotage.training.split import effective_split, split
from pilotage.training.train import train


def train_candidates(
    spec: ModelSpec,
    training_set: TrainingSet,
    *,
    config: TrainConfig,
    directory: Path,
    threads: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """Trains what the run asks for: one candidate, or one for each variant, of which the best is taken.

    Args, returns and raises as ``train``; the candidate says what else was tried. A variant that can't be trained,
    such as one that would learn from too few days, is passed over; if none can, the first one's error is raised.
    """
    if not config.variants:
        return train(spec, training_set, config=config, directory=directory, threads=threads, progress=progress)
    config.check(spec)
    made: dict[str, Candidate] = {}
    failed: dict[str, TrainingError] = {}
    for number, variant in enumerate(config.variants, start=1):
        progress(f"Candidate {number} of {len(config.variants)}: {variant.name}")
        try:
            made[variant.name] = train(
                spec,
                training_set,
                config=as_variant(config, variant),
                directory=directory / f"candidate-{number}",
                threads=threads,
                progress=progress,
            )
        except TrainingError as error:
            progress(f"{variant.name} is passed over: {error.message}")
            failed[variant.name] = error
    if not made:
        raise next(iter(failed.values()))
    chosen, measured, since = _choose(spec, training_set, config, made)
    metric = spec.gate.beat_baselines_in
    tried = [
        Tried(
            policy=variant.name,
            rows=made[variant.name].parts["train"] if variant.name in made else 0,
            metric=metric,
            value=measured.get(variant.name),
            chosen=variant.name == chosen,
            problem=failed[variant.name].message if variant.name in failed else None,
        )
        for variant in config.variants
    ]
    told = ", ".join(f"{each.policy} {each.value:.4f}" for each in tried if each.value is not None)
    progress(f"Takes {chosen}" + (f" by {metric} on the older part of the holdout: {told}" if told else ""))
    return replace(made[chosen], policy=chosen, tried=tried, judged_from=since)


def _choose(
    spec: ModelSpec, training_set: TrainingSet, config: TrainConfig, made: dict[str, Candidate]
) -> tuple[str, dict[str, float], datetime | None]:
    """The policy whose candidate is best on the older part of the holdout, what each showed, and where judging begins.

    The only one there is needs no choice, and is judged on all of the holdout.
    """
    if len(made) == 1:
        return next(iter(made)), {}, None
    frame = read_set(training_set)
    calibrated = (config.calibration or spec.trainer.calibration) != "none"
    holdout = frame[split(spec, frame, effective_split(spec, config.split), calibrated=calibrated).rows["holdout"]]
    since = judged_from(spec, holdout, config.choose_on)
    rows = holdout.filter(pl.col(EVENT_TIME) < since)
    metric = spec.gate.beat_baselines_in
    measured: dict[str, float] = {}
    for name, candidate in made.items():
        bundle = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)
        bundle.scorer.threads = candidate.threads
        found = all_metrics(rows[LABEL].to_numpy(), bundle.score(rows), spec.kpi.cost)
        if metric in found:
            measured[name] = found[metric]
    if not measured:
        raise TrainingError(
            f"The {rows.height:,} rows on which a candidate of {spec.name} is chosen have no {metric}.",
            fix="Give a longer holdout.",
        )
    # Ties go to the policy that the spec names first.
    best = min(measured, key=lambda name: worse_by(metric, measured[name], 0.0))
    return best, measured, since
