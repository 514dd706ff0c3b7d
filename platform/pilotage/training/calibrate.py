"""Fits the calibrator on the calibration part. How it is applied is the bundle's business (``runtime.scorer``)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pilotage.errors import TrainingError
from pilotage.runtime.scorer import Calibrator, CalibratorKind

SLOPE_SD = 0.25
INTERCEPT_SD = 0.1
"""How far from "already calibrated" (slope 1, intercept 0) a sigmoid is expected to be, as standard deviations on the
logit. On 11 month ends of 2013 this beat both plain Platt scaling and none (docs/adr/0003)."""
_CENTRE = np.array([1.0, 0.0])
"""Slope and intercept of "already calibrated"."""
_EDGE = 1e-12
_SINGULAR = 1e12
"""Condition number from which on two parameters count as one."""


def fit_calibrator(
    kind: CalibratorKind, raw: np.ndarray, labels: np.ndarray, *, clusters: np.ndarray | None = None
) -> Calibrator:
    """Learns how to turn the model's probabilities into ones that can be taken at their word.

    Args:
        kind: ``isotonic`` (Zadrozny and Elkan 2002, Laplace-bounded so that no answer is 0 or 1), ``sigmoid`` (Platt
            1999 on the logit, with a prior, see ``SLOPE_SD``) or ``none``.
        raw: The model's probabilities on rows that it was not trained on; shape (rows,).
        labels: The truth; shape (rows,), Boolean.
        clusters: A number for each row; rows of one cluster (a day) are not independent evidence, and count as such.

    Raises:
        TrainingError: The rows have one class only.
    """
    if kind == "none":
        return Calibrator("none")
    if labels.all() or not labels.any():
        raise TrainingError(
            f"{len(labels)} calibration rows have one class only.",
            fix="Give a longer calibration part, or calibration: none.",
        )
    return _isotonic(raw, labels) if kind == "isotonic" else _sigmoid(raw, labels, clusters)


def _isotonic(raw: np.ndarray, labels: np.ndarray) -> Calibrator:
    from sklearn.isotonic import IsotonicRegression

    # A step of 0 or 1 would make a single miss cost an infinite log loss.
    least = 1.0 / (len(labels) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(raw, labels.astype(np.float64))
    return Calibrator("isotonic", fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist())


def _sigmoid(raw: np.ndarray, labels: np.ndarray, clusters: np.ndarray | None) -> Calibrator:
    """Platt scaling whose evidence counts by its independent clusters, against a prior at slope 1 and intercept 0.

    The days of a calibration part share their weather: 8,000 flights of 10 days are nearer to 10 observations of the
    level than to 8,000. The design effect (sandwich variance over naive variance, Liang and Zeger 1986) says how
    near, and the likelihood is tempered by it.
    """
    clipped = np.clip(raw, _EDGE, 1 - _EDGE)
    design = np.stack([np.log(clipped) - np.log1p(-clipped), np.ones(len(raw))], axis=1)
    truth = labels.astype(np.float64)
    prior = np.diag([SLOPE_SD**-2, INTERCEPT_SD**-2])
    effect = 1.0 if clusters is None else _design_effect(design, truth, clusters)
    slope, intercept = _fitted(design, truth, weight=1.0 / effect, prior=prior)
    # A slope below 0 would turn the ranking round.
    if slope <= 0:
        raise TrainingError(
            f"The model ranks the calibration part backwards (slope {slope:.3f}).",
            fix="Look at the features and labels of the calibration days; the model knows nothing about them.",
            slope=float(slope),
        )
    return Calibrator("sigmoid", [float(slope)], [float(intercept)])


def _fitted(design: np.ndarray, truth: np.ndarray, *, weight: float, prior: np.ndarray) -> np.ndarray:
    """Slope and intercept where the penalised loss is least.

    Full Newton steps mostly settle, and then give the same bits whatever else is tried; where they jump to and fro, as
    for scores far from the level of the labels, halved ones settle at the only minimum there is.
    """
    for halving in (False, True):
        with np.errstate(over="ignore", invalid="ignore"):  # A step that jumps too far ends in exp(1000).
            found = _newton(design, truth, weight=weight, prior=prior, halving=halving)
        if found is not None:
            return found
    raise TrainingError("The calibrator does not settle.", fix="Give a longer calibration part, or calibration: none.")


def _newton(
    design: np.ndarray, truth: np.ndarray, *, weight: float, prior: np.ndarray, halving: bool
) -> np.ndarray | None:
    found = _CENTRE.copy()
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-design @ found))
        gradient = design.T @ (p - truth) * weight + prior @ (found - _CENTRE)
        hessian = (design * (p * (1 - p))[:, None]).T @ design * weight + prior
        step = np.linalg.solve(hessian, gradient)
        if halving:
            step = _halved(step, found, lambda at: _loss(design, truth, at, weight=weight, prior=prior))
        found = found - step
        if not np.isfinite(found).all():
            return None
        if np.abs(step).max() < 1e-10:
            return found
    return None


def _halved(step: np.ndarray, found: np.ndarray, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """The step, as often halved as it takes for the loss not to rise by more than it is rounded."""
    most = loss(found) * (1 + 1e-12)
    while np.abs(step).max() >= 1e-10 and not loss(found - step) <= most:
        step = step / 2
    return step


def _loss(design: np.ndarray, truth: np.ndarray, at: np.ndarray, *, weight: float, prior: np.ndarray) -> float:
    """What is least at the fit: tempered log loss, summed, and the penalty of the prior."""
    logit, off = design @ at, at - _CENTRE
    return float((np.logaddexp(0.0, logit) - truth * logit).sum() * weight + off @ prior @ off / 2)


def _design_effect(design: np.ndarray, truth: np.ndarray, clusters: np.ndarray) -> float:
    """How many rows carry the evidence of one independent row, at least 1."""
    groups, member = np.unique(clusters, return_inverse=True)
    if len(groups) < 2:
        # One day says nothing about how days differ: trust the prior.
        return float(len(truth))
    # A little ridge keeps the plain fit finite when the classes can be told apart by a line.
    found = _fitted(design, truth, weight=1.0, prior=np.eye(2) * 1e-3)
    p = 1.0 / (1.0 + np.exp(-design @ found))
    information = (design * (p * (1 - p))[:, None]).T @ design
    scores = np.zeros((len(groups), 2))
    np.add.at(scores, member, design * (truth - p)[:, None])
    meat = scores.T @ scores * (len(groups) / (len(groups) - 1))
    if np.linalg.cond(information) < _SINGULAR:
        return max(1.0, float(np.trace(np.linalg.solve(information, meat)) / 2))
    # Scores that are all the same tell slope from intercept nowhere: the level is all that there is evidence of.
    return max(1.0, float(np.trace(np.linalg.pinv(information, rcond=1 / _SINGULAR, hermitian=True) @ meat)))
