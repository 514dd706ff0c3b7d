"""Whether what the steps of a training hand on is of one training: each step may be run alone, after another's."""

from __future__ import annotations

from pilotage.errors import TrainingError
from pilotage.training.records import Candidate, Evaluation, TrainingSet


def check_one_work(training_set: TrainingSet, candidate: Candidate, evaluation: Evaluation | None = None) -> None:
    """Refuses a candidate of another training set, and an evaluation of another candidate.

    Raises:
        TrainingError: They are not of one training.
    """
    if candidate.training_set_sha256 != training_set.sha256:
        raise _mixed(candidate, f"was not trained on the training set {training_set.sha256[:12]} that is there now")
    if evaluation is not None and evaluation.bundle_sha256 != candidate.bundle_sha256:
        raise _mixed(candidate, "is not the one that the evaluation is about")


def _mixed(candidate: Candidate, what: str) -> TrainingError:
    model = candidate.model
    return TrainingError(
        f"The candidate {candidate.bundle_sha256[:12]} of {model} {what}: another run has made one of them since.",
        fix=f"Run train_{model} as a whole, or materialize everything from training_set on in one run.",
        model=model,
    )
