"""Drift that means something: effect sizes over whole windows, judged by what past windows of the same model did.

    bins       where a column is cut, fixed by the reference
    counting   rows → counts of days
    measures   counts → effect sizes
    learning   past days → thresholds, at a declared false-alarm rate
    incidents  days that are unlike the weeks before: told, and not learned from
    multivariate, expected   the columns together, and what the model should expect to lose
    deciding, window   a window → verdict, with explicit state
    observed, store, monitor   a model's rows, what is remembered, and all of it put together

Nothing here retrains, promotes or sends an alert; ``evidently_report.py`` draws the page for people.
"""

from __future__ import annotations

from pilotage.monitoring.drift.bins import Bins, fit_bins
from pilotage.monitoring.drift.counting import Days, count, count_days
from pilotage.monitoring.drift.deciding import decide, measure
from pilotage.monitoring.drift.incidents import Incident, find_incidents
from pilotage.monitoring.drift.learning import learn
from pilotage.monitoring.drift.measures import measures
from pilotage.monitoring.drift.monitor import DriftReport, watch
from pilotage.monitoring.drift.records import (
    ColumnDrift,
    DriftState,
    DriftVerdict,
    ExpectedLoss,
    Multivariate,
    Thresholds,
)
from pilotage.monitoring.drift.store import DriftStore
from pilotage.monitoring.drift.window import Judged, judge_window

__all__ = [
    "Bins",
    "ColumnDrift",
    "Days",
    "DriftReport",
    "DriftState",
    "DriftStore",
    "DriftVerdict",
    "ExpectedLoss",
    "Incident",
    "Judged",
    "Multivariate",
    "Thresholds",
    "count",
    "count_days",
    "decide",
    "find_incidents",
    "fit_bins",
    "judge_window",
    "learn",
    "measure",
    "measures",
    "watch",
]
