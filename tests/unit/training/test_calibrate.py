"""Calibration: probabilities that can be taken at their word, and no more certainty than there is evidence."""

from __future__ import annotations

import numpy as np
import pytest

from pilotage.errors import TrainingError
from pilotage.training.calibrate import INTERCEPT_SD, SLOPE_SD, fit_calibrator


def overconfident(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions whose logit is twice what it should be, and the truth."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1, rows)
    return 1 / (1 + np.exp(-2 * logit)), random.random(rows) < 1 / (1 + np.exp(-logit))


def log_loss(labels: np.ndarray, p: np.ndarray) -> float:
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean())


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_an_overconfident_model_is_toned_down_and_keeps_its_ranking(kind: str) -> None:
    calibrator = fit_calibrator(kind, *overconfident(20_000))
    raw, labels = overconfident(20_000, seed=1)
    calibrated = calibrator.apply(raw)
    assert log_loss(labels, calibrated) < log_loss(labels, raw) - 0.03
    assert (np.diff(calibrated[np.argsort(raw)]) >= -1e-12).all()
    assert calibrated.min() > 0
    assert calibrated.max() < 1


def test_much_independent_evidence_outweighs_the_prior() -> None:
    calibrator = fit_calibrator("sigmoid", *overconfident(50_000))
    assert calibrator.x[0] == pytest.approx(0.5, abs=0.02)
    assert calibrator.y[0] == pytest.approx(0.0, abs=0.03)


def test_one_bad_day_among_few_does_not_move_the_level_as_its_rows_would() -> None:
    """A storm of one day is one observation of the level, not a thousand."""
    random = np.random.default_rng(2)
    days = np.repeat(np.arange(8), 1000)
    raw = random.uniform(0.1, 0.4, 8000)
    labels = random.random(8000) < np.where(days == 3, 0.85, raw)
    by_rows = fit_calibrator("sigmoid", raw, labels)
    by_days = fit_calibrator("sigmoid", raw, labels, clusters=days)
    asked = np.array([0.25])
    assert by_rows.apply(asked)[0] > 0.29
    assert abs(by_days.apply(asked)[0] - 0.25) < 0.6 * abs(by_rows.apply(asked)[0] - 0.25)


def test_a_single_day_leaves_the_model_as_it_is() -> None:
    raw, labels = overconfident(2000)
    calibrator = fit_calibrator("sigmoid", raw, labels, clusters=np.zeros(2000))
    assert calibrator.x[0] == pytest.approx(1.0, abs=0.05)
    assert calibrator.y[0] == pytest.approx(0.0, abs=0.05)


def test_classes_that_a_line_tells_apart_still_calibrate() -> None:
    raw = np.concatenate([np.full(50, 0.1), np.full(50, 0.9)])
    calibrator = fit_calibrator("sigmoid", raw, raw > 0.5, clusters=np.arange(100) % 10)
    low, high = calibrator.apply(np.array([0.1, 0.9]))
    assert 0 < low < 0.1
    assert 0.9 < high < 1


def test_certain_predictions_calibrate_too() -> None:
    raw = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 0.5])
    labels = np.array([False, True, False, True, True, False])
    applied = fit_calibrator("sigmoid", raw, labels).apply(raw)
    assert np.isfinite(applied).all()


@pytest.mark.parametrize("days", [None, 10])
@pytest.mark.parametrize(("level", "spread"), [(-3, 1.5), (-4, 2.0), (-5, 1.0), (-6, 3.0)])
def test_scores_far_from_the_level_of_the_labels_settle(level: float, spread: float, days: int | None) -> None:
    """As `is_unbalance` and `scale_pos_weight` give them: the ranking of the labels, and another level."""
    random = np.random.default_rng(0)
    logit = random.normal(0, spread, 8000)
    labels = random.random(8000) < 1 / (1 + np.exp(-(logit + level)))
    clusters = None if days is None else np.arange(8000) * days // 8000
    raw = 1 / (1 + np.exp(-logit))
    calibrator = fit_calibrator("sigmoid", raw, labels, clusters=clusters)
    calibrated = calibrator.apply(raw)
    assert calibrator.x[0] > 0
    assert log_loss(labels, calibrated) < log_loss(labels, raw)
    if clusters is None:
        # Where the penalised loss is least, it is flat: what is left over is the pull of the prior.
        slope, intercept = calibrator.x[0], calibrator.y[0]
        pull = [((calibrated - labels) * logit).sum(), (calibrated - labels).sum()]
        assert pull == pytest.approx([(1 - slope) / SLOPE_SD**2, -intercept / INTERCEPT_SD**2], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("score", [0.05, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("days", [5, 10])
def test_scores_that_are_all_the_same_calibrate(score: float, days: int) -> None:
    labels = np.random.default_rng(1).random(1000) < score
    raw = np.full(1000, score)
    applied = fit_calibrator("sigmoid", raw, labels, clusters=np.arange(1000) * days // 1000).apply(raw)
    assert applied == pytest.approx(labels.mean(), abs=0.03)


def test_where_full_steps_settle_these_are_the_bits() -> None:
    """Versions are built again, and compared byte for byte."""
    raw, labels = overconfident(2000)
    design = np.stack([np.log(raw) - np.log1p(-raw), np.ones(len(raw))], axis=1)
    prior, centre = np.diag([SLOPE_SD**-2, INTERCEPT_SD**-2]), np.array([1.0, 0.0])
    found, step = centre, centre
    while np.abs(step).max() >= 1e-10:
        p = 1.0 / (1.0 + np.exp(-design @ found))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + prior
        step = np.linalg.solve(hessian, design.T @ (p - labels) + prior @ (found - centre))
        found = found - step
    calibrator = fit_calibrator("sigmoid", raw, labels)
    assert [*calibrator.x, *calibrator.y] == found.tolist()


def test_none_changes_nothing() -> None:
    raw = np.linspace(0, 1, 11)
    assert (fit_calibrator("none", np.empty(0), np.empty(0, dtype=bool)).apply(raw) == raw).all()


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_one_class_can_not_be_calibrated_on(kind: str) -> None:
    with pytest.raises(TrainingError, match="10 calibration rows have one class only"):
        fit_calibrator(kind, np.full(10, 0.5), np.ones(10, dtype=bool))


def test_a_model_that_ranks_backwards_is_refused_not_turned_round() -> None:
    raw = np.linspace(0.01, 0.99, 5000)
    with pytest.raises(TrainingError, match="ranks the calibration part backwards"):
        fit_calibrator("sigmoid", raw, raw < 0.5)
