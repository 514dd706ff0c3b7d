"""One window of a model, judged: incidents left out, columns measured, what it means for performance, the verdict.

The same function for a day in production, for a replayed year, and for the controls that it is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from pilotage.monitoring.drift.bins import Bins
from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.deciding import TOGETHER, decide, measure
from pilotage.monitoring.drift.expected import expected_loss
from pilotage.monitoring.drift.incidents import LONG, find_incidents
from pilotage.monitoring.drift.learning import column_weights
from pilotage.monitoring.drift.records import DriftState, DriftVerdict, Multivariate, Thresholds

UNDATED = date(1, 1, 1)
"""The one day of rows that have none."""


class Judged(NamedTuple):
    """A window with its verdict."""

    verdict: DriftVerdict
    state: DriftState
    compared: Days
    """The days of the window that were compared."""


def judge_window(
    reference: Days,
    seen: Days,
    bins: Sequence[Bins],
    thresholds: Thresholds,
    state: DriftState,
    *,
    days: Sequence[date],
    importance: Mapping[str, float],
    incident_days: int,
    declared_rise: float,
    together: Callable[[Days], Multivariate | None] | None = None,
) -> Judged:
    """Judges a window.

    Args:
        reference: Counts of the reference, incidents left out.
        seen: Counts of the window and of up to ``LONG`` days before it.
        bins: Their bins.
        thresholds: What is much.
        state: What the last decision left.
        days: Days of the window, those without rows too.
        importance: Feature → share of the champion's gain, 0..1.
        incident_days: Longest incident.
        declared_rise: Rise of the expected cost a row that counts where nothing was learned.
        together: The compared days → what a classifier says of them; ``None`` if none is asked.
    """
    recent = seen.only(seen.days[-LONG - len(days) :])
    looked_at = state.through and days and min(days[0], state.through)
    incidents = find_incidents(
        recent,
        bins,
        column_weights(bins, importance),
        at_most=incident_days,
        known=state.incidents,
        since=looked_at or None,
    )
    odd = {day for each in incidents for day in each.days}
    window = recent.only(days)
    compared = window.without(odd)
    why = f"{incidents[-1].why}; told, not compared and not learned from" if incidents else ""
    if not compared.days:
        compared = window
        why = f"{incidents[-1].why}; the window has no other days, so they are compared" if incidents else ""
    verdict, later = decide(
        measure(reference, compared, bins, thresholds, importance),
        thresholds,
        state,
        days=[] if UNDATED in compared.days else days,
        rows=int(compared.rows.sum()),
        reference_rows=int(reference.rows.sum()),
        expected=expected_loss(reference, compared, thresholds, declared_rise=declared_rise),
        multivariate=together(compared) if together else None,
        incident=sorted({day for day in state.incidents if day not in recent.days} | odd),
        incident_why=why,
        watched={*(each.name for each in bins), *([TOGETHER] if together else [])},
    )
    return Judged(verdict, later, compared)
