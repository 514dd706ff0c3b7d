"""What an operator wants to see of the prediction log at a glance. Sums up; judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.outcomes import PATIENCE, STATUSES, resolve
from pilotage.monitoring.predictions import read_log, read_outcomes
from pilotage.settings import Settings

LABELS_TAKE = timedelta(days=60)
"""How much older than its outcome a prediction may be to be looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomesOverview:
    """What the newest outcomes amount to."""

    statuses: Mapping[str, int]
    """Status → outcomes; see ``pilotage.monitoring.outcomes.STATUSES``."""
    conflicts: tuple[Mapping[str, Any], ...]
    """The newest ones that say otherwise than what counts, with the one that counts."""
    unknown: tuple[Mapping[str, Any], ...]
    """The newest ones whose prediction never came."""


def answers_by_version(settings: Settings, model: str, *, lake: Lake, since: datetime) -> pl.DataFrame:
    """One row per version that answered (null: none did) and way of answering, the most frequent first.

    Returns:
        ``version``, ``answered_by``, ``answers``, ``referred`` (count), ``mean_probability`` (0..1), ``median_ms`` and
        ``p99_ms`` (milliseconds in the service).
    """
    columns = ("version", "answered_by", "probability", "referred", "latency_us")
    log = read_log(settings, model, lake=lake, since=since, columns=columns)
    milliseconds = pl.col("latency_us") / 1000
    return (
        log.group_by("version", "answered_by")
        .agg(
            pl.len().cast(pl.Int64).alias("answers"),
            pl.col("referred").sum().cast(pl.Int64),
            pl.col("probability").mean().alias("mean_probability"),
            milliseconds.median().alias("median_ms"),
            milliseconds.quantile(0.99, interpolation="higher").alias("p99_ms"),
        )
        .sort("answers", "version", "answered_by", descending=[True, False, False], nulls_last=True)
    )


def outcomes_overview(
    settings: Settings, model: str, *, lake: Lake, now: datetime, back: timedelta = timedelta(days=1)
) -> OutcomesOverview:
    """Looks at the outcomes that were received within the last ``PATIENCE``, and so much longer ago: those are the ones
    that may be unknown."""
    since = now - PATIENCE - back
    columns = ("prediction_id", "entity", "moment")
    predictions = read_log(settings, model, lake=lake, since=since - LABELS_TAKE, columns=columns)
    told = resolve(predictions, read_outcomes(settings, model, lake=lake, since=since), now=now)
    counts = dict(told["status"].value_counts().iter_rows())

    def newest(status: str, *columns: str) -> tuple[Mapping[str, Any], ...]:
        shown = told.filter(pl.col("status") == status).sort("received_at", descending=True).head(20)
        return tuple(shown.select("outcome_id", *columns).to_dicts())

    return OutcomesOverview(
        statuses={status: counts.get(status, 0) for status in STATUSES},
        conflicts=newest("conflicting", "against", "prediction_id", "entity", "label", "known_at", "caller"),
        unknown=newest("unknown", "prediction_id", "entity", "label", "known_at", "received_at", "caller"),
    )
