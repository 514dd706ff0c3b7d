"""A short history to replay: sixty days of the parcel service, whose heavy parcels stop being late half way."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.policy import Guardrail, Retraining, Rollout, ShadowStage, TrainOn
from pilotage.replay.history import History
from pilotage.spec import Gate, ModelSpec, TimeSplit
from tests.unit.training.conftest import parcel_spec, parcels, publish

FIRST, LAST = date(2024, 3, 21), date(2024, 4, 29)
DAYS = 60
CHANGE = date(2024, 3, 31)
"""From here on south is punctual, and heavy parcels are as light ones."""


def spec(**changes: Any) -> ModelSpec:
    """Judged on five days, retrained on Mondays, released after a day unheard."""
    declared: dict[str, Any] = {
        "split": TimeSplit(
            calibration=timedelta(days=4), holdout=timedelta(days=5), embargo=timedelta(days=1), folds=0
        ),
        "retraining": Retraining(
            schedule="0 4 * * 1", refit=True, data=(TrainOn(policy="sliding", length=timedelta(days=14)),)
        ),
        # A world that changes at once is ranked no better than by chance for a while.
        "gate": Gate(not_worse_in=("log_loss",)),
        "rollout": Rollout(
            automatic=True,
            shadow=ShadowStage(predictions=50, at_most=timedelta(days=7)),
            canary=(),
            guardrails=(Guardrail(metric="brier", tolerance=0.02),),
        ),
    }
    return parcel_spec(**(declared | changes))


def rows(*, changes: bool = True) -> pl.DataFrame:
    """Validated rows; with ``changes`` the world is another one from ``CHANGE`` on."""
    frame = parcels(DAYS, 120, seed=3)
    if not changes:
        return frame
    random = np.random.default_rng(4)
    other = pl.Series(random.random(frame.height) < np.where(frame["depot"].fill_null("") == "north", 0.75, 0.15))
    return frame.with_columns(late=pl.when(pl.col("day") >= CHANGE).then(other).otherwise("late"))


def history(folder: Path, declared: ModelSpec | None = None, *, changes: bool = True) -> History:
    declared = declared or spec()
    lake = Lake(str(folder / "lake"))
    publish(lake, declared, rows(changes=changes))
    return History.read(declared, lake)
