"""What monitoring keeps in the lake: ``performance/<model>``, and what is contested in ``quarantine/<model>_outcomes``.

A run reads the last days and measures only those of which more is known than before, so that it costs the same on the
last day of a year as on the first. What is measured is ``performance.py``'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.answers import data_clock, local_day, read_answers, windows_lag
from pilotage.monitoring.estimated import EstimateRecord, estimate_records
from pilotage.monitoring.labels import SLACK
from pilotage.monitoring.log_frames import DAY
from pilotage.monitoring.outcomes import contested
from pilotage.monitoring.performance import WINDOWS, DayPerformance, performance
from pilotage.monitoring.predictions import read_log, read_outcomes
from pilotage.monitoring.side_by_side import SideBySide, side_by_side
from pilotage.release.champions import states
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training.metrics import METRICS
from pilotage.training.records import Interval

SCHEMA: dict[str, pl.DataType] = {
    DAY: pl.Date(),
    "days": pl.Int64(),
    "version": pl.Int64(),
    "stage": pl.String(),
    "slice_column": pl.String(),
    "slice_value": pl.String(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "unit": pl.String(),
    "answers": pl.Int64(),
    "labelled": pl.Int64(),
    "positives": pl.Int64(),
    "contested": pl.Int64(),
    "unlabelled": pl.Int64(),
    "abstentions": pl.Float64(),
    "estimated": pl.Float64(),
    "estimated_low": pl.Float64(),
    "estimated_high": pl.Float64(),
}
"""One row per ``DayPerformance`` and metric; null where there is no such number (nothing labelled, one class, no
bound)."""
_SAME = 1e-6
"""Squared errors of a day that differ by less are the same, summed in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceReport:
    """What one look at a model's answers found."""

    now: datetime
    """Of the data."""
    champion: int | None
    """Its version: by the ledger, else by its newest answer. ``None`` before the first."""
    measured: list[date]
    """Days measured in this run: the newest, and those of which more is known than before."""
    answers: int
    """Read: those of the longest window, shadows included."""
    found: list[DayPerformance]
    beside: list[SideBySide]
    estimates: list[EstimateRecord]
    """Of this champion's answers, on the days of the longest window whose truth is known."""
    table: pl.DataFrame
    """``performance/<model>`` of the days of the longest window."""

    def window(self, days: int) -> DayPerformance | None:
        """What the champion answered in the window of so many days, and none before it; ``None`` if that is nothing."""
        there = (p for p in self.found if p.days == days and p.slice_column is None)
        return next((p for p in there if (p.stage, p.version) == ("champion", self.champion)), None)


def update_performance(
    spec: ModelSpec, *, settings: Settings, lake: Lake, run_id: str, now: datetime | None = None
) -> PerformanceReport:
    """Measures what is new, and keeps it.

    Args:
        spec: The model.
        settings: Where the log is.
        lake: Where the moved log is, and ``performance/<model>`` is written.
        run_id: Goes into the commit's note.
        now: Of the data (UTC); ``None`` for its newest moment.
    """
    now = now or data_clock(spec, settings=settings, lake=lake)
    state = states(settings=settings).get(spec.name)
    last: date = pl.select(pl.lit(now).dt.convert_time_zone(spec.time_zone).dt.date()).item()
    first = last - windows_lag(spec) - timedelta(days=max(WINDOWS) - 1)
    answers = read_answers(spec, settings=settings, lake=lake, first=first, last=last, known_by=now)
    before = read_performance(lake, spec.name, first=first, last=last)
    measured = _news(answers, before)
    end = measured[-1] - windows_lag(spec) if measured else None
    found = performance(answers, spec, days=measured, end=end) if measured else []
    fresh = performance_rows(found)
    if measured:
        written = sorted({*measured, *fresh[DAY]})
        # Windows that ended with a day that is measured again stay as they were: they are what was known then.
        single, windows = pl.col("days") == 1, pl.col("days") > 1
        again = pl.col(DAY).is_in(pl.Series(measured, dtype=pl.Date()).implode())
        kept = before.filter(
            pl.col(DAY).is_in(pl.Series(written, dtype=pl.Date()).implode()),
            (single & ~again) | (windows & (pl.col(DAY) != end)),
        )
        rows = pl.concat([fresh, kept], how="vertical")
        lake.replace_days(f"performance/{spec.name}", rows, written, note={"run_id": run_id})
        before = pl.concat([before.filter(~pl.col(DAY).is_in(rows[DAY].implode())), rows]).sort(DAY)
    version = state.champion.version if state and state.champion else _newest_champion(answers)
    of_version = settled_days(before, spec).filter(pl.col("version").eq_missing(version))
    return PerformanceReport(
        now=now,
        champion=version,
        measured=measured,
        answers=answers.height,
        found=found,
        beside=side_by_side(answers, spec),
        estimates=estimate_records(of_version),
        table=before,
    )


def read_performance(lake: Lake, model: str, *, first: date | None = None, last: date | None = None) -> pl.DataFrame:
    """What was measured of some days: ``SCHEMA``'s columns, in the order of days; nothing, if nothing was."""
    table = f"performance/{model}"
    if not lake.exists(table):
        return pl.DataFrame(schema=SCHEMA)
    return (
        lake.scan(table, first=first, last=last)
        .select(pl.col(n).cast(t) for n, t in SCHEMA.items())
        .sort(DAY)
        .collect()
    )


def settled_days(table: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    """The single days of champions of which the truth is known: one row per day, version and metric."""
    told = pl.col("labelled") + pl.col("contested") + pl.col("unlabelled")
    return table.filter(
        pl.col("days") == 1,
        pl.col("stage") == "champion",
        pl.col("slice_column").is_null(),
        told >= spec.outcomes.coverage * pl.col("answers"),
    )


def performance_rows(found: Sequence[DayPerformance]) -> pl.DataFrame:
    """Measurements as rows of ``SCHEMA``."""
    rows = []
    for one in found:
        common = {
            DAY: one.day,
            "days": one.days,
            "version": one.version,
            "stage": one.stage,
            "slice_column": one.slice_column,
            "slice_value": one.slice_value,
            "unit": one.unit,
            "answers": one.answers,
            "labelled": one.labelled,
            "positives": one.positives,
            "contested": one.contested,
            "unlabelled": one.unlabelled_for_a_reason,
            "abstentions": one.abstentions,
        }
        expected = one.estimated.metrics if one.estimated is not None else {}
        for metric in METRICS:
            value, low, high = _told(one.metrics.get(metric))
            estimated, estimated_low, estimated_high = _told(expected.get(metric))
            rows.append(
                common
                | {"metric": metric, "value": value, "low": low, "high": high, "estimated": estimated}
                | {"estimated_low": estimated_low, "estimated_high": estimated_high}
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def quarantine_contested(
    spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime, run_id: str, days: int = 28
) -> int:
    """Keeps what was told about contested predictions of the last days, as far back as labels are looked at.

    Returns:
        How many predictions are contested.
    """
    table = f"quarantine/{spec.name}_outcomes"
    since = now - windows_lag(spec) - timedelta(days=days)
    columns = ("prediction_id", "entity", "moment", "at")
    log = read_log(settings, spec.name, lake=lake, since=since - SLACK, columns=columns)
    log = log.filter(pl.coalesce("moment", "at").is_between(since, now)).with_columns(local_day(spec).alias(DAY))
    told = contested(log, read_outcomes(settings, spec.name, lake=lake, since=since - SLACK), known_by=now)
    rows = told.join(log.select("prediction_id", DAY), on="prediction_id", how="left", maintain_order="left")
    looked_at = set(log[DAY].unique())
    # Days of which something was contested before, too: what is settled by now leaves.
    wanted = sorted(set(rows[DAY]) | (looked_at & set(lake.days(table))))
    if wanted:
        lake.replace_days(table, rows, wanted, note={"run_id": run_id})
    return rows["prediction_id"].n_unique()


def _newest_champion(answers: pl.DataFrame) -> int | None:
    """Version of the champion's newest answer."""
    versions = answers.filter(pl.col("stage") == "champion")["version"].drop_nulls()
    return int(versions[-1]) if len(versions) else None


def _news(answers: pl.DataFrame, before: pl.DataFrame) -> list[date]:
    """Days of which more is known than was measured, and the newest one."""
    if answers.is_empty():
        return []
    usable = pl.col("label").is_not_null() & pl.col("probability").is_not_null()
    counts = ("answers", "labelled", "contested", "unlabelled")
    now = answers.group_by(DAY).agg(
        pl.len().cast(pl.Int64).alias("answers"),
        usable.sum().cast(pl.Int64).alias("labelled"),
        pl.col("contested").sum().cast(pl.Int64),
        pl.col("no_label_reason").count().cast(pl.Int64).alias("unlabelled"),
        # Counts don't tell that one label became another; what they lose does.
        ((pl.col("probability") - pl.col("label").cast(pl.Float64)) ** 2).sum().alias("_loss"),
    )
    then = (
        before.filter((pl.col("days") == 1) & pl.col("slice_column").is_null() & (pl.col("metric") == "brier"))
        .group_by(DAY)
        .agg(pl.col(counts).sum(), (pl.col("value") * pl.col("labelled")).sum().alias("_lost"))
    )
    both = now.join(then, on=[DAY, *counts], how="inner")
    same = both.filter((pl.col("_loss") - pl.col("_lost")).abs() < _SAME)[DAY]
    return sorted({*now.filter(~pl.col(DAY).is_in(same.implode()))[DAY], now[DAY].max()})


def _told(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    if interval is None:
        return None, None, None
    return (
        interval.value,
        interval.low if math.isfinite(interval.low) else None,
        interval.high if math.isfinite(interval.high) else None,
    )
