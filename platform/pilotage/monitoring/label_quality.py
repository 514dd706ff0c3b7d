"""Whether labels can be trusted: are they there in time, at a normal rate, agreed on, and not missing for a reason?

What can't be trusted is a ``LabelDefect`` with its evidence (``label_defects.py``). Those that block keep retraining
from learning what is wrong. ``label_report`` judges what others read; ``label_quality`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.features.build import EVENT_TIME, LABEL, LABEL_KNOWN_AT
from pilotage.monitoring.answers import REASON, data_clock, given, read_answers, windows_lag
from pilotage.monitoring.label_defects import NEWEST, LabelDefect, find_defects
from pilotage.monitoring.label_rates import REFERENCE_DAYS, RateOfDays, daily_rates, judge_rates
from pilotage.monitoring.labels import label_source
from pilotage.monitoring.log_frames import DAY
from pilotage.release.champions import champion
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

AGES_H = (1, 2, 3, 6, 12, 24, 36, 48, 72, 96, 120, 168, 336, 720)
"""Hours after the prediction moment at which coverage is told."""
WINDOW = 28
"""Days of predictions that are looked at, beside those that are too young for their labels (``windows_lag``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageAtAge:
    """How many predictions had their label so long after they were made."""

    hours: float
    predictions: int
    """At least so old, and without a reason to have no label."""
    labelled: float
    """Share of them whose label was known by then, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What is known of a model's labels."""

    model: str
    now: datetime
    first: date
    last: date
    predictions: int
    labelled: int
    contested: int
    reasons: dict[str, int]
    """Why predictions will have no label → how many."""
    coverage: list[CoverageAtAge]
    lag_h: dict[str, float]
    """``median``, ``p90`` and ``p99`` of the hours from the prediction moment to the truth; empty without labels."""
    days: pl.DataFrame
    """One row per day: ``day``, ``predictions``, ``labelled``, ``positives``, ``contested``, ``unlabelled`` (for a
    reason) and ``rate``."""
    rates: list[RateOfDays]
    """Of the newest days, in the source that models are trained on, or where there is none of what was served."""
    defects: list[LabelDefect]


def label_quality(spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime | None = None) -> list[LabelDefect]:
    """The defects of a model's labels now, those that block retraining first; see ``label_report``."""
    return read_label_report(spec, settings=settings, lake=lake, now=now).defects


def read_label_report(
    spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime | None = None, window: int = WINDOW
) -> LabelReport:
    """Reads the last days' predictions and the source's label counts, and judges them.

    Args:
        spec: The model.
        settings: Where the log is.
        lake: Where the moved log and the source are.
        now: Of the data (UTC); ``None`` for its newest moment.
        window: Days of predictions.
    """
    now = now or data_clock(spec, settings=settings, lake=lake)
    last = pl.select(pl.lit(now).dt.convert_time_zone(spec.time_zone).dt.date()).item()
    first = last - windows_lag(spec) - timedelta(days=window - 1)
    answers = read_answers(spec, settings=settings, lake=lake, first=first, last=last, known_by=now)
    release = champion(spec.name, settings=settings)
    learned = release.facts.get("last") if release else None
    return label_report(
        spec,
        answers,
        now=now,
        trained_on=source_rates(spec, lake, now),
        accepted=date.fromisoformat(learned) if learned else None,
    )


def source_rates(spec: ModelSpec, lake: Lake, now: datetime, *, since: date | None = None) -> pl.DataFrame | None:
    """Labels by day in the source that tells them (see ``daily_rates``), as known by now; ``None`` without days.

    Args:
        spec: The model.
        lake: Where the source is.
        now: Of the data (UTC).
        since: First day; ``None`` for as many as the newest ones are judged by.
    """
    about = label_source(spec)
    if about is None or not lake.exists(about.table) or DAY not in lake.schema(about.table):
        return None
    newest = max(lake.days(about.table), default=None)
    if newest is None:
        return None
    known = pl.col(about.known_at) <= now
    reason = pl.lit(None) if about.no_label_reason is None else about.no_label_reason
    first = newest - timedelta(days=2 * REFERENCE_DAYS)
    rows = lake.scan(about.table, first=first if since is None else min(first, since)).select(
        DAY,
        pl.when(known).then(about.expr).alias("label"),
        (reason.is_null()).alias("_awaited"),
    )
    awaited = rows.group_by(DAY).agg(pl.col("_awaited").sum().alias("awaited")).collect()
    # In every time zone a day is over twelve hours after it is in UTC.
    ended = pl.col(DAY).cast(pl.Datetime("us")).dt.replace_time_zone("UTC") + timedelta(hours=36)
    # Of a day that is still under way the on-time half is known first, and its rate is no rate.
    settled = (pl.col("labels") >= spec.outcomes.coverage * pl.col("awaited")) | (ended + spec.outcomes.within <= now)
    return daily_rates(rows).join(awaited, on=DAY, how="left").filter(settled).select("day", "labels", "positives")


def labels_since(spec: ModelSpec, lake: Lake, *, last: date | None, rows: int) -> int | None:
    """Labelled rows of ``features/<model>`` that a training set did not have, as known by now; ``None`` if there are no
    features.

    Args:
        spec: The model.
        lake: Where its features are.
        last: The set's last day, in the model's time zone; ``None`` for data without a time.
        rows: Of the set: without a time, what goes beyond them is new.
    """
    table = f"features/{spec.name}"
    if not lake.exists(table):
        return None
    labelled = lake.scan(table, first=last if DAY in lake.schema(table) else None).filter(pl.col(LABEL).is_not_null())
    if last is not None:
        known = (pl.col(LABEL_KNOWN_AT) <= datetime.now(UTC)).fill_null(value=True)
        labelled = labelled.filter(pl.col(EVENT_TIME).dt.convert_time_zone(spec.time_zone).dt.date() > last, known)
    count = int(labelled.select(pl.len()).collect().item())
    return count if last is not None else max(0, count - rows)


def label_report(
    spec: ModelSpec,
    answers: pl.DataFrame,
    *,
    now: datetime,
    trained_on: pl.DataFrame | None = None,
    accepted: date | None = None,
) -> LabelReport:
    """Judges labels.

    Args:
        spec: The model.
        answers: From ``read_answers``, known by ``now``.
        now: Of the data (UTC).
        trained_on: From ``daily_rates``: labels in the source, whether predicted or not. ``None`` to judge the rate of
            what was predicted.
        accepted: The champion's last day: a rate that somebody let it learn from is normal from then on.
    """
    told = given(answers).with_columns(_age=pl.lit(now) - pl.coalesce("moment", "at"))
    days = told.group_by("day").agg(
        pl.len().cast(pl.Int64).alias("predictions"),
        pl.col("label").count().cast(pl.Int64).alias("labelled"),
        pl.col("label").sum().cast(pl.Int64).alias("positives"),
        pl.col("contested").sum().cast(pl.Int64),
        pl.col(REASON).count().cast(pl.Int64).alias("unlabelled"),
        pl.col("_age").min().alias("_youngest"),
    )
    days = days.sort("day").with_columns(rate=pl.col("positives") / pl.col("labelled"))
    told_of = pl.col("labelled") + pl.col("unlabelled") + pl.col("contested")
    enough = told_of >= spec.outcomes.coverage * pl.col("predictions")
    settled = days.filter(enough | (pl.col("_youngest") >= spec.outcomes.within))
    served = settled.select("day", pl.col("labelled").alias("labels"), "positives")
    rates = judge_rates(served if trained_on is None else trained_on, newest=NEWEST, accepted=accepted)
    today = pl.select(pl.lit(now).dt.convert_time_zone(spec.time_zone).dt.date()).item()
    return LabelReport(
        model=spec.name,
        now=now.astimezone(UTC),
        first=min(days["day"], default=today),
        last=max(days["day"], default=today),
        predictions=told.height,
        labelled=int(days["labelled"].sum()),
        contested=int(days["contested"].sum()),
        reasons=dict(told[REASON].drop_nulls().value_counts(sort=True).iter_rows()),
        coverage=coverage(told),
        lag_h=_lags(told),
        days=days.drop("_youngest"),
        rates=rates,
        defects=find_defects(spec, answers, told=told, days=days, rates=rates),
    )


def coverage(told: pl.DataFrame, ages_h: Sequence[float] = AGES_H) -> list[CoverageAtAge]:
    """Share of the predictions that had their label at some ages; of each age, only predictions that reached it count.

    Args:
        told: One row per prediction: ``moment``, ``at``, ``label_known_at``, ``no_label_reason`` and ``_age``.
        ages_h: Hours.
    """
    waiting = told.filter(pl.col(REASON).is_null())
    took = pl.col("label_known_at") - pl.coalesce("moment", "at")
    found = []
    for hours in ages_h:
        age = timedelta(hours=hours)
        old = waiting.filter(pl.col("_age") >= age)
        if old.height:
            share = old.select((took <= age).fill_null(value=False).mean()).item()
            found.append(CoverageAtAge(hours=hours, predictions=old.height, labelled=float(share)))
    return found


def _lags(told: pl.DataFrame) -> dict[str, float]:
    hours = told.select((pl.col("label_known_at") - pl.coalesce("moment", "at")).dt.total_seconds() / 3600).to_series()
    hours = hours.drop_nulls()
    if hours.is_empty():
        return {}
    return {
        name: float(np.quantile(hours.to_numpy(), share))
        for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
