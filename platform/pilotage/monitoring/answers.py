"""Who said what about each request, and what was true: the frame that everything about performance is measured on.

Grain: one row per prediction and version that said something, also as a shadow. Reads and joins; measures nothing.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.labels import SLACK, label_source, source_rows
from pilotage.monitoring.log_frames import feature_column, request_column
from pilotage.monitoring.outcomes import agreed
from pilotage.monitoring.predictions import read_log, read_outcomes, read_shadows
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

RULE, NOTHING, SHADOW = "rule", "nothing", "shadow"
"""Stages of answers that no version gave, and of those that nobody was told."""
STAGES = ("champion", "canary", "previous_champion", SHADOW, RULE, NOTHING)
REASON = "no_label_reason"
_DAY, _PROMPT = timedelta(days=1), timedelta(days=7)
_READ = (
    "prediction_id",
    "entity",
    "at",
    "moment",
    "version",
    "routed_version",
    "drawn_by",
    "stage",
    "answered_by",
    "probability",
    "decision",
    "referred",
)


def local_day(spec: ModelSpec) -> pl.Expr:
    """Day of the prediction moment (without one: of the answer) in the model's time zone."""
    return pl.coalesce("moment", "at").dt.convert_time_zone(spec.time_zone).dt.date()


def windows_lag(spec: ModelSpec) -> timedelta:
    """How long before the newest day windows end that labels are needed for: none where labels come within a week,
    which leaves most of a window's days labelled; else as many whole days as labels take."""
    take = spec.outcomes.within
    return timedelta(days=math.ceil(take / _DAY)) if take > _PROMPT else timedelta(0)


def slice_column(spec: ModelSpec, name: str) -> str:
    """The log's column of a name in ``spec.slices``."""
    return request_column(name) if name in spec.request_types() else feature_column(name)


def data_clock(spec: ModelSpec, *, settings: Settings, lake: Lake, wall: datetime | None = None) -> datetime:
    """How late it is in the data: the newest prediction moment or known truth, and never later than the wall clock.

    History that is replayed has its own time; where requests come as things happen, it is about now. Only the newest
    two days of the log and of the outcomes are read for it.
    """
    wall = wall or datetime.now(UTC)
    newest: list[datetime] = []
    days = lake.days(f"predictions/{spec.name}")
    since = datetime.combine(days[-1] - timedelta(days=1), datetime.min.time(), UTC) if days else None
    log = read_log(settings, spec.name, lake=lake, since=since, columns=("at", "moment"))
    told = read_outcomes(settings, spec.name, lake=lake, since=since)
    for times in (log.select(pl.coalesce("moment", "at")).to_series(), told["known_at"]):
        latest = times.filter(times <= wall).max()
        if isinstance(latest, datetime):
            newest.append(latest)
    return max(newest, default=wall)


def read_answers(
    spec: ModelSpec,
    *,
    settings: Settings,
    lake: Lake,
    first: date,
    last: date,
    known_by: datetime | None = None,
    everything: bool = False,
    reasons: bool = True,
) -> pl.DataFrame:
    """The answers of some days, with the truth as far as it was known.

    Args:
        spec: The model.
        settings: Where the segments are.
        lake: Where the log and the outcomes are.
        first: First local day of prediction moments.
        last: Last one, inclusive.
        known_by: Leaves out truth that became known later (UTC).
        everything: Whether every column of the log is read, and not only those that metrics and slices need.
        reasons: Whether to look up why the unlabelled ones have no label.

    Returns:
        ``_READ``'s columns and those of ``spec.slices``, ordered by time, with ``day``; ``stage`` is one of ``STAGES``;
        ``label``, ``label_known_at`` and ``contested`` as in ``outcomes.agreed``; and ``no_label_reason``.
    """
    since = datetime.combine(first, datetime.min.time(), UTC) - SLACK
    columns = None if everything else [*_READ, *_there(spec, settings, lake, since)]
    log = read_log(settings, spec.name, lake=lake, since=since, columns=columns, spec=spec)
    log = log.with_columns(local_day(spec).alias("day")).filter(pl.col("day").is_between(first, last))
    outcomes = read_outcomes(settings, spec.name, lake=lake, since=since)
    truth = agreed(log.select("prediction_id", "entity", "moment"), outcomes, known_by=known_by)
    log = (
        log.join(truth, on="prediction_id", how="left", maintain_order="left")
        .with_columns(pl.col("contested").fill_null(value=False))
        .with_columns(
            stage=pl.when(pl.col("answered_by").is_in([RULE, NOTHING]))
            .then("answered_by")
            .otherwise(pl.coalesce("stage", "answered_by"))
        )
    )
    log = _with_reasons(log, spec, settings, lake) if reasons else log.with_columns(_no_reason())
    shadows = read_shadows(settings, spec.name, lake=lake, since=since)
    beside = _beside(log, shadows)
    return pl.concat([log, beside], how="diagonal").sort("at", "prediction_id", maintain_order=True)


def given(answers: pl.DataFrame) -> pl.DataFrame:
    """What applications were told: one row per prediction."""
    return answers.filter(pl.col("stage") != SHADOW)


def _there(spec: ModelSpec, settings: Settings, lake: Lake, since: datetime) -> list[str]:
    """Columns of the slices that the log has; one of a version that came later may not be there yet."""
    wanted = [slice_column(spec, name) for name in spec.slices]
    table = f"predictions/{spec.name}"
    if lake.exists(table) and set(wanted) <= set(lake.schema(table)):
        return wanted
    found = read_log(settings, spec.name, lake=lake, since=since, spec=spec).columns
    return [column for column in wanted if column in found]


def _beside(log: pl.DataFrame, shadows: pl.DataFrame) -> pl.DataFrame:
    """What shadows said of the same requests: the row of the answer that was given, with theirs in it."""
    theirs = shadows.filter(pl.col("error").is_null()).select(
        "prediction_id", "version", "probability", "decision", "referred"
    )
    kept = log.drop(
        "version", "probability", "decision", "referred", "stage", "answered_by", "latency_us", strict=False
    )
    return kept.join(theirs, on="prediction_id", how="inner", maintain_order="left").with_columns(
        stage=pl.lit(SHADOW), answered_by=pl.lit("model")
    )


def _with_reasons(log: pl.DataFrame, spec: ModelSpec, settings: Settings, lake: Lake) -> pl.DataFrame:
    """``no_label_reason`` of those that have no label and that the source knows."""
    about = label_source(spec)
    waiting = log.filter(pl.col("label").is_null() & ~pl.col("contested"))
    if about is None or about.no_label_reason is None or waiting.is_empty():
        return log.with_columns(_no_reason())
    oldest = waiting.select(pl.coalesce("moment", "at").min()).item()
    rows = source_rows(
        waiting["entity"],
        spec,
        table=about.table,
        on=about.on,
        columns={REASON: about.no_label_reason.cast(pl.String())},
        lake=lake,
        settings=settings,
        first=(oldest - SLACK).date(),
    )
    if REASON not in rows.columns:
        return log.with_columns(_no_reason())
    return log.join(rows, on="entity", how="left", maintain_order="left").with_columns(
        pl.when(pl.col("label").is_null() & ~pl.col("contested")).then(REASON).alias(REASON)
    )


def _no_reason() -> pl.Expr:
    return pl.lit(None, dtype=pl.String()).alias(REASON)
