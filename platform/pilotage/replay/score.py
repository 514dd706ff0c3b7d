"""How a season went: the metrics of its predictions and, in hindsight, whether each promotion helped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from pilotage.replay.history import History
from pilotage.replay.season import Season
from pilotage.training.metrics import Resamples, all_metrics

HINDSIGHT = timedelta(days=28)
"""How long after a promotion it is looked at whether it helped."""
_RESAMPLES = 1_000
_CONFIDENCE = 0.95
_EDGE = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One promotion in hindsight: both versions on the predictions of the next 28 days (fewer at the end)."""

    day: date
    version: int
    replaced: int
    rows: int
    log_loss: float
    """Promoted minus replaced; above 0 it was worse."""
    low: float
    high: float
    """Interval of that difference, days resampled."""
    expected_cost: float
    """Promoted minus replaced, per prediction."""

    @property
    def worse(self) -> bool:
        """The promoted version lost more than the one it replaced would have."""
        return self.log_loss > 0

    @property
    def harmful(self) -> bool:
        """... and by more than the days' own differences explain."""
        return self.low > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A season's result."""

    policy: str
    rows: int
    """Predictions with an outcome."""
    metrics: dict[str, float]
    months: dict[str, dict[str, float]]
    """``2013-03`` → metric → value, and ``rows``."""
    trainings: int
    """Without the first champion's, which all have."""
    promotions: list[Promotion]


def score(season: Season, first: date, last: date) -> Score:
    """Measures a season over its replayed days, every prediction by the outcome that it came to have."""
    history = season.history
    rows = history.between(first, last)
    rows = rows[history.known_at[rows] < np.iinfo(np.int64).max]
    month = history.rows["replay_day"].dt.strftime("%Y-%m").to_numpy()[rows]
    return Score(
        policy=season.policy.name,
        rows=len(rows),
        metrics=_metrics(season, rows),
        months={
            str(name): {**_metrics(season, rows[month == name]), "rows": float((month == name).sum())}
            for name in np.unique(month)
        },
        trainings=len(season.trained) - 1,
        promotions=hindsight(season, last),
    )


def hindsight(season: Season, last: date) -> list[Promotion]:
    """Every promotion, looked at with what became known later. Those without a later day are left out."""
    by_number = {version.number: version for version in season.trained}
    found = []
    for event in season.events:
        if event.did != "promoted" or event.version is None or event.replaced is None:
            continue
        until = min(event.day + HINDSIGHT, last)
        if until <= event.day:
            continue
        rows = _outcomes(season.history, event.day + timedelta(days=1), until)
        frame = season.history.rows[rows]
        pair = (event.version, event.replaced)
        ours, theirs = (_losses(by_number[number].bundle.score(frame), season, rows) for number in pair)
        days = season.history.replay_days[rows]
        resamples = Resamples.draw(days if len(np.unique(days)) > 1 else None, len(rows), count=_RESAMPLES, seed=1)
        gap = ours["log_loss"] - theirs["log_loss"]
        drawn = resamples.sums(gap) / resamples.sums(np.ones(len(rows)))
        low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
        found.append(
            Promotion(
                day=event.day,
                version=event.version,
                replaced=event.replaced,
                rows=len(rows),
                log_loss=float(gap.mean()),
                low=float(low),
                high=float(high),
                expected_cost=float((ours["cost"] - theirs["cost"]).mean()),
            )
        )
    return found


def _losses(probabilities: np.ndarray, season: Season, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Log loss (nats) and cost of each answer."""
    labels, cost = season.history.labels[rows], season.history.spec.kpi.cost
    of_truth = np.clip(np.where(labels, probabilities, 1 - probabilities), _EDGE, 1)
    acting = probabilities >= cost.threshold
    if_true = np.where(acting, cost.true_positive, cost.false_negative)
    if_false = np.where(acting, cost.false_positive, cost.true_negative)
    return {"log_loss": -np.log(of_truth), "cost": np.where(labels, if_true, if_false)}


def _outcomes(history: History, first: date, last: date) -> np.ndarray:
    rows = history.between(first, last)
    known: np.ndarray = rows[history.known_at[rows] < np.iinfo(np.int64).max]
    return known


def _metrics(season: Season, rows: np.ndarray) -> dict[str, float]:
    found = all_metrics(season.history.labels[rows], season.probabilities[rows], season.history.spec.kpi.cost)
    return {str(name): value for name, value in found.items()}
