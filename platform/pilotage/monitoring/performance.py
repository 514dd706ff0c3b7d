"""How good the answers were: per day and over windows, by version, stage and slice, with intervals.

Metrics are those of the evaluation (``training.metrics``), so the same name means the same number before and after the
release. Measures frames that ``answers.read_answers`` made; reads and writes no tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import polars as pl

from pilotage.monitoring.answers import NOTHING, STAGES, slice_column
from pilotage.monitoring.estimated import Estimated, estimate
from pilotage.spec import ModelSpec
from pilotage.training.metrics import Resamples, all_metrics, with_intervals
from pilotage.training.records import Interval
from pilotage.training.slices import MISSING, OTHER, told_apart

WINDOWS = (7, 28)
"""Days that performance is measured over, beside each single day."""
_FEWEST_DAYS = 3
"""Days from which whole days are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPerformance:
    """What one version did in one stage, on one slice, over some days."""

    day: date
    """The last one."""
    days: int
    """How many: 1, or one of ``WINDOWS``."""
    version: int | None
    """``None`` for the rule."""
    stage: str
    slice_column: str | None = None
    slice_value: str | None = None
    """``None`` for all answers."""
    answers: int
    labelled: int
    """With an undisputed label: what ``metrics`` are measured on."""
    positives: int
    contested: int
    unlabelled_for_a_reason: int
    abstentions: float
    """Share of the answers that were referred to a person, 0..1."""
    metrics: dict[str, Interval] = field(default_factory=dict)
    """Empty where nothing is labelled; no ``auc`` where all labels are the same."""
    unit: str = "day"
    """What the bootstrap drew as a whole: a ``day``, or within fewer than three days an ``hour``; ``row`` where there
    are too few of either."""
    estimated: Estimated | None = None
    """What was to be expected without labels; of all answers with a probability."""


def performance(
    labelled: pl.DataFrame,
    spec: ModelSpec,
    *,
    days: Sequence[date] | None = None,
    windows: Sequence[int] = WINDOWS,
    end: date | None = None,
    min_slice: int = 30,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[DayPerformance]:
    """Measures each of some days, and windows.

    Args:
        labelled: From ``read_answers``, those without a label included.
        spec: The model.
        days: Which; ``None`` for all that there are.
        windows: Lengths of windows, days. Windows have no estimate: labels are there for most of their days.
        end: Last day of the windows; ``None`` for the last of the days.
        min_slice: Labelled answers below which a slice's values are measured together as ``other``.
        resamples: Bootstrap resamples.
        confidence: Of the intervals.
        seed: The same seed gives the same intervals.

    Returns:
        In the order of days, then windows; within them stages as in ``STAGES``, versions, all before slices.
    """
    wanted = sorted(labelled["day"].unique() if days is None else set(days))
    if not wanted:
        return []
    told = _slices(labelled, spec)
    how = _How(resamples=resamples, confidence=confidence, seed=seed, min_slice=min_slice)
    found: list[DayPerformance] = []
    for day in wanted:
        found += _measured(told.filter(pl.col("day") == day), spec, how, day=day, days=1)
    end = end or wanted[-1]
    for length in windows:
        rows = told.filter(pl.col("day").is_between(end - timedelta(days=length - 1), end))
        found += _measured(rows, spec, how, day=end, days=length)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    resamples: int
    confidence: float
    seed: int
    min_slice: int


def _measured(rows: pl.DataFrame, spec: ModelSpec, how: _How, *, day: date, days: int) -> Iterator[DayPerformance]:
    order = {stage: place for place, stage in enumerate(STAGES)}
    groups = rows.partition_by("stage", "version", as_dict=True, maintain_order=True)
    for key in sorted(groups, key=lambda key: (order.get(str(key[0]), len(order)), key[1] or 0)):
        group, stage, version = groups[key], str(key[0]), key[1]
        yield _one(group, spec, how, day=day, days=days, version=version, stage=stage, column=None, value=None)
        if stage == NOTHING:
            continue
        for name in spec.slices:
            for value, part in _parts(group, _slice(name), how.min_slice):
                yield _one(part, spec, how, day=day, days=days, version=version, stage=stage, column=name, value=value)


def _one(
    rows: pl.DataFrame,
    spec: ModelSpec,
    how: _How,
    *,
    day: date,
    days: int,
    version: int | None,
    stage: str,
    column: str | None,
    value: str | None,
) -> DayPerformance:
    usable = rows.filter(pl.col("label").is_not_null() & pl.col("probability").is_not_null())
    metrics, unit = measure(usable, spec, resamples=how.resamples, confidence=how.confidence, seed=how.seed)
    expected = None
    if days == 1 and column is None:
        expected = estimate(rows["probability"].drop_nulls(), spec.kpi.cost, confidence=how.confidence, seed=how.seed)
    return DayPerformance(
        day=day,
        days=days,
        version=version,
        stage=stage,
        slice_column=column,
        slice_value=value,
        answers=rows.height,
        labelled=usable.height,
        positives=int(usable["label"].sum()),
        contested=int(rows["contested"].sum()),
        unlabelled_for_a_reason=rows.height - rows["no_label_reason"].null_count(),
        abstentions=float(rows["referred"].mean() or 0.0),  # type: ignore[arg-type]
        metrics=metrics,
        unit=unit,
        estimated=expected,
    )


def measure(
    usable: pl.DataFrame, spec: ModelSpec, *, resamples: int, confidence: float, seed: int
) -> tuple[dict[str, Interval], str]:
    """Every metric of labelled answers with its block-bootstrap interval, and what was drawn as a whole.

    Answers of one day share its weather: with three days or more, days are drawn. Within fewer, hours are; then the
    interval says how sure the number is for those days, not for others like them.
    """
    if usable.is_empty():
        return {}, "row"
    labels, predicted = usable["label"].to_numpy(), usable["probability"].to_numpy()
    clusters, unit = blocks(usable)
    if clusters is None and usable.height < 2:
        alone = all_metrics(labels, predicted, spec.kpi.cost)
        return {name: Interval(value=told, low=-np.inf, high=np.inf) for name, told in alone.items()}, unit
    drawn = Resamples.draw(clusters, usable.height, count=resamples, seed=seed)
    return with_intervals(labels, predicted, spec.kpi.cost, drawn, confidence=confidence), unit


def blocks(rows: pl.DataFrame) -> tuple[np.ndarray | None, str]:
    """The block of each answer, ``None`` for one each, and what a block is. See ``measure``."""
    if rows["day"].n_unique() >= _FEWEST_DAYS:
        return rows["day"].to_physical().to_numpy(), "day"
    hours = rows.select(pl.coalesce("moment", "at").dt.truncate("1h").to_physical()).to_series()
    return (hours.to_numpy(), "hour") if hours.n_unique() >= _FEWEST_DAYS else (None, "row")


def _slices(answers: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    """The answers with the values of each slice as text; told apart over all of them, so that days agree."""
    found = {name: slice_column(spec, name) for name in spec.slices}
    return answers.with_columns(
        (told_apart(answers[column]) if column in answers.columns else pl.lit(MISSING)).alias(_slice(name))
        for name, column in found.items()
    )


def _slice(name: str) -> str:
    return f"_slice_{name}"


def _parts(rows: pl.DataFrame, column: str, fewest: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """Values of a slice with enough labelled answers, the most frequent first; all others together."""
    sizes = rows.group_by(column).agg(pl.col("label").count().alias("n"), pl.len().alias("all"))
    large = sizes.filter(pl.col("n") >= fewest).sort(["all", column], descending=[True, False])[column]
    for value in large:
        yield str(value), rows.filter(pl.col(column) == value)
    rest = rows.filter(~pl.col(column).is_in(large.implode()))
    if rest.height:
        yield OTHER, rest
