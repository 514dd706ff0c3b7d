"""Labels that are no evidence: those of days whose rate jumped, those that contradict every version, those contested.

What keeps retraining from learning (``label_quality.py``) must not take a version back either. Looked at are the very
labels that decisions about a version go by, the first words (``outcomes.label``): of a day that is corrected later the
last words are sound, and the first ones still are not. A day that is under way is judged, too: if it is only that its
on-time half is known first, it counts once the rest is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.answers import data_clock, local_day
from pilotage.monitoring.label_defects import FEWEST, INVERTED_DAYS, contradicted
from pilotage.monitoring.label_quality import source_rates
from pilotage.monitoring.label_rates import REFERENCE_DAYS, RateOfDays, daily_rates, judge_rates
from pilotage.monitoring.outcomes import agreed, label
from pilotage.monitoring.predictions import read_log, read_outcomes, read_shadows
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

DOUBT = "doubt"
"""Column: why a label does not count; null where it does, and where there is none."""
CONTESTED = "those who tell the truth disagree"
JUMPED = "the share of true labels is far from normal"
SWAPPED = "they contradict every version's ranking"


def with_doubts(
    spec: ModelSpec, answers: pl.DataFrame, *, settings: Settings, lake: Lake, accepted: date | None = None
) -> pl.DataFrame:
    """Takes away the labels that are no evidence; the column ``DOUBT`` says why.

    Args:
        spec: The model.
        answers: One row per answer: ``prediction_id``, ``entity``, ``at``, ``moment``, ``version``, ``answered_by``,
            ``probability`` and ``label``.
        settings: Where the log is.
        lake: Where the moved log and the source of the labels are.
        accepted: The champion's last day: a rate that somebody let it learn from is normal.
    """
    days = answers.with_columns(local_day(spec).alias("day"))
    known = days.filter(pl.col("label").is_not_null())
    first = known["day"].min()
    if not isinstance(first, date):
        return answers.with_columns(pl.lit(None, pl.String()).alias(DOUBT))
    told = _told(spec, first - timedelta(days=REFERENCE_DAYS), settings, lake)
    disputed = pl.col("prediction_id").is_in(told.filter("contested")["prediction_id"].implode())
    swapped = _swapped(spec, known.filter(~disputed), settings, lake)
    jumped = _jumped(spec, told, first, settings, lake, accepted)
    doubt = (
        pl.when(pl.col("label").is_null())
        .then(None)
        .when(disputed)
        .then(pl.lit(CONTESTED))
        .when(pl.col("day").is_in(list(swapped)))
        .then(pl.lit(SWAPPED))
        .when(pl.col("day").is_in(list(jumped)))
        .then(pl.lit(JUMPED))
    )
    counts = pl.when(pl.col(DOUBT).is_null()).then("label").alias("label")
    return days.with_columns(doubt.alias(DOUBT)).with_columns(counts).drop("day")


def doubts(answers: pl.DataFrame) -> list[str]:
    """What ``with_doubts`` took away, in words."""
    told = answers.drop_nulls(DOUBT).group_by(DOUBT).len().sort("len", DOUBT, descending=[True, False])
    return [f"{number:,} labels are no evidence: {why}." for why, number in told.iter_rows()]


def _told(spec: ModelSpec, since: date, settings: Settings, lake: Lake) -> pl.DataFrame:
    """One row per prediction with a truth: ``day``, ``label`` (the first word) and whether it is ``contested``."""
    begins = datetime.combine(since, datetime.min.time(), UTC)
    log = read_log(settings, spec.name, lake=lake, since=begins, columns=("prediction_id", "entity", "moment", "at"))
    outcomes = read_outcomes(settings, spec.name, lake=lake)
    disputed = agreed(log, outcomes).filter("contested").select("prediction_id", "contested")
    return (
        label(log, outcomes)
        .join(disputed, on="prediction_id", how="left")
        .select("prediction_id", local_day(spec).alias("day"), "label", pl.col("contested").fill_null(value=False))
    )


def _jumped(
    spec: ModelSpec, told: pl.DataFrame, first: date, settings: Settings, lake: Lake, accepted: date | None
) -> set[date]:
    """Days at whose rate labels can hardly be right: as the source has it now, and as it was told of predictions."""
    served = daily_rates(told.filter(~pl.col("contested")))
    now = data_clock(spec, settings=settings, lake=lake)
    source = source_rates(spec, lake, now, since=first - timedelta(days=REFERENCE_DAYS))
    histories = [served] if source is None else [source, pl.concat([source.filter(pl.col("day") < first), served])]
    return {
        day for history in histories for day in _days(judge_rates(history, newest=history.height, accepted=accepted))
    }


def _days(judged: Iterable[RateOfDays]) -> set[date]:
    """Days of the windows that are not normal. A longer one that holds a shorter one is so because of that one."""
    found: set[date] = set()
    for window in sorted((each for each in judged if not each.normal_enough), key=lambda each: each.days):
        days = {window.last - timedelta(days=back) for back in range(window.days)}
        if not days & found or window.days == 1:
            found |= days
    return found


def _swapped(spec: ModelSpec, known: pl.DataFrame, settings: Settings, lake: Lake) -> set[date]:
    """Days whose labels contradict whoever predicted: one version that ranks them rightly speaks for the labels."""
    begins = known.select(pl.col("at").min()).item()
    theirs = read_shadows(settings, spec.name, lake=lake, since=begins).select(
        "prediction_id", "version", "probability"
    )
    columns = ("day", "version", "label", "probability")
    beside = known.drop("version", "probability").join(theirs, on="prediction_id", how="inner")
    ours = known.filter(pl.col("answered_by") == "model")
    said = pl.concat([ours.select(columns), beside.select(columns)]).drop_nulls()
    by_day = {rows["day"][0]: rows for rows in said.sort("day").partition_by("day")}
    days = list(by_day)
    windows = (days[place : place + length] for length in INVERTED_DAYS for place in range(len(days) - length + 1))
    return {day for window in windows if _contradicts(spec, [by_day[day] for day in window]) for day in window}


def _contradicts(spec: ModelSpec, days: list[pl.DataFrame]) -> bool:
    enough = [rows for rows in pl.concat(days).partition_by("version") if rows.height >= FEWEST]
    return bool(enough) and all(contradicted(spec, rows) is not None for rows in enough)
