"""Pilotage's own way of looking after a model, night by night, by the functions that the running platform calls too.

1. *When*: a retraining is due every week, and when an alarm says that performance suffers.
2. *On what*: everything that is known, judged on the newest week, which the candidate did not see.
3. *Which evidence*: the platform's gate, on the rows of that week that the champion did not see either; the candidate
   must be better, not only new.
4. *What is released*: the judged recipe fitted once more on everything, that week included (``training/refit.py``).
"""

from __future__ import annotations

from datetime import timedelta

from pilotage.replay.season import Night
from pilotage.training.config import TrainConfig

EVERY = timedelta(days=7)
CONFIG = TrainConfig.from_values(
    {
        "split": {"holdout_days": 7, "folds": 0},
        "calibration": "none",
        "evaluation": {"better_by": 0.8},
    }
)


class Pilotage:
    """The platform's policy."""

    name = "pilotage"

    def __init__(self, config: TrainConfig = CONFIG, *, every: timedelta = EVERY) -> None:
        self._config = config
        self._every = every

    def decide(self, night: Night) -> None:
        """Asks, trains, judges, refits and promotes; most nights nothing of it."""
        why = self._due(night)
        if why is None:
            return
        version = night.train(why, config=self._config)
        _, verdict = night.judge(version)
        if not verdict.passed:
            night.note("refused", version, " ".join(verdict.reasons))
            return
        told = next((item.message for item in verdict.criteria if item.name == "helps"), "The gate passed it.")
        night.promote(night.refit(version), told)

    def _due(self, night: Night) -> str | None:
        last = night.season.trained[-1].day
        return f"Every {self._every.days} days." if night.day - last >= self._every else None
