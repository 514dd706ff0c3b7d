"""Whether groups of people are treated alike: rates of selection, true and false positives by protected column.

Rates and their differences are fairlearn's; intervals are by bootstrap over days (or answers), vectorised. The groups
come from the validated rows of the lake, by entity: protected columns are never in a request, a feature or the log.
Measures; what is fair is for people to say, and ``Fairness`` holds what they said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.answers import given
from pilotage.monitoring.labels import source_rows
from pilotage.monitoring.performance import blocks
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.training.metrics import Resamples, percentile_interval
from pilotage.training.records import Interval

Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate", "referral_rate"]
RATES: tuple[Rate, ...] = ("selection_rate", "true_positive_rate", "false_positive_rate", "referral_rate")
"""What was decided; of the labelled positives, and negatives, what was decided; and what was left to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRate:
    """A rate of one group."""

    column: str
    group: str
    rate: Rate
    rows: int
    """Answers, or labelled positives or negatives, that it is of."""
    value: Interval | None
    """0..1; ``None`` where there are fewer rows than ``Fairness.min_group``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """How far apart the groups of one column are in one rate."""

    column: str
    rate: Rate
    highest: str
    lowest: str
    value: Interval
    """Highest minus lowest group, of those that are large enough. The interval is of these two."""
    limit: float

    @property
    def unfair(self) -> bool:
        """Whether the difference is beyond the limit, and chance does not explain it."""
        return self.value.low > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessReport:
    """What was decided about groups."""

    answers: int
    labelled: int
    without_group: int
    """Answers about entities that the validated table does not know."""
    rates: list[GroupRate]
    differences: list[GroupDifference]
    """One for each column and rate with two groups or more that are large enough."""

    @property
    def unfair(self) -> list[GroupDifference]:
        return [each for each in self.differences if each.unfair]


def with_groups(answers: pl.DataFrame, spec: ModelSpec, *, settings: Settings, lake: Lake) -> pl.DataFrame:
    """The answers that were given, with ``group_<column>`` of each protected column, as text; null where not known."""
    told = given(answers)
    columns = {f"group_{name}": pl.col(name).cast(pl.String()) for name in spec.protected}
    groups = source_rows(
        told["entity"],
        spec,
        table=f"validated/{spec.source}",
        on={name: name for name in spec.entity},
        columns=columns,
        lake=lake,
        settings=settings,
    )
    missing = [pl.lit(None, dtype=pl.String()).alias(name) for name in columns if name not in groups.columns]
    return told.join(groups.with_columns(missing), on="entity", how="left", maintain_order="left")


def fairness(
    grouped: pl.DataFrame, spec: ModelSpec, *, resamples: int = 400, confidence: float = 0.95, seed: int = 0
) -> FairnessReport:
    """Rates by group, and how far apart groups are.

    What was referred to a person counts, as in the cost, by what its probability suggests, and its share is told too.

    Args:
        grouped: From ``with_groups``.
        spec: The model.
        resamples: Bootstrap resamples.
        confidence: Of the intervals.
        seed: The same seed gives the same intervals.
    """
    threshold = spec.kpi.cost.threshold
    usable = grouped.filter(pl.col("probability").is_not_null()).with_columns(
        pl.coalesce("decision", pl.col("probability") >= threshold).alias("_acted")
    )
    rates: list[GroupRate] = []
    differences: list[GroupDifference] = []
    for column in spec.protected:
        rows = usable.filter(pl.col(f"group_{column}").is_not_null())
        for rate in RATES:
            parts = _population(rows, rate)
            measured, gap = _of_rate(parts, column, rate, spec, resamples=resamples, confidence=confidence, seed=seed)
            rates += measured
            differences += [gap] if gap is not None else []
    known = [pl.col(f"group_{column}").is_null() for column in spec.protected]
    return FairnessReport(
        answers=usable.height,
        labelled=usable.height - usable["label"].null_count(),
        without_group=usable.filter(pl.all_horizontal(known)).height if known else 0,
        rates=rates,
        differences=differences,
    )


def _population(rows: pl.DataFrame, rate: Rate) -> pl.DataFrame:
    """The rows that a rate is of, with what is counted as ``_hit``."""
    match rate:
        case "true_positive_rate":
            return rows.filter(pl.col("label")).with_columns(_hit=pl.col("_acted"))
        case "false_positive_rate":
            return rows.filter(pl.col("label").not_()).with_columns(_hit=pl.col("_acted"))
        case "referral_rate":
            return rows.with_columns(_hit=pl.col("referred"))
        case _:
            return rows.with_columns(_hit=pl.col("_acted"))


def _of_rate(
    rows: pl.DataFrame,
    column: str,
    rate: Rate,
    spec: ModelSpec,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[list[GroupRate], GroupDifference | None]:
    if rows.is_empty():
        return [], None
    groups = rows[f"group_{column}"]
    sizes = dict(groups.value_counts().sort(groups.name).iter_rows())
    large = [group for group, size in sizes.items() if size >= spec.fairness.min_group]
    if not large:
        return [GroupRate(column=column, group=g, rate=rate, rows=n, value=None) for g, n in sizes.items()], None
    compared = rows.filter(groups.is_in(large))
    values = _by_group(compared, f"group_{column}")
    drawn = _drawn(compared, f"group_{column}", large, resamples=resamples, seed=seed)
    told = [
        GroupRate(
            column=column,
            group=group,
            rate=rate,
            rows=size,
            value=percentile_interval(values[group], drawn[group], confidence) if group in values else None,
        )
        for group, size in sizes.items()
    ]
    if len(large) < 2:
        return told, None
    highest = max(large, key=lambda group: (values[group], group))
    lowest = min(large, key=lambda group: (values[group], group))
    if highest == lowest:  # All the same: any two will do.
        highest, lowest = large[0], large[1]
    gap = GroupDifference(
        column=column,
        rate=rate,
        highest=highest,
        lowest=lowest,
        value=percentile_interval(values[highest] - values[lowest], drawn[highest] - drawn[lowest], confidence),
        limit=spec.fairness.max_difference,
    )
    return told, gap


def _by_group(rows: pl.DataFrame, column: str) -> dict[str, float]:
    """Group → share of hits, by fairlearn (of rows that are all of one label, each of its rates is this share)."""
    from fairlearn.metrics import MetricFrame, selection_rate

    hits = rows["_hit"].cast(pl.Int64).to_numpy()
    measured = MetricFrame(metrics=selection_rate, y_true=hits, y_pred=hits, sensitive_features=rows[column].to_numpy())
    return {str(group): float(value) for group, value in measured.by_group.items()}


def _drawn(rows: pl.DataFrame, column: str, groups: list[str], *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Group → its rate in each resample; NaN where a resample has none of it."""
    weights = Resamples.draw(blocks(rows)[0], rows.height, count=resamples, seed=seed)
    hit = rows["_hit"].cast(pl.Float64).to_numpy()
    found = {}
    for group in groups:
        inside = (rows[column] == group).cast(pl.Float64).to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            found[group] = weights.sums(hit * inside) / weights.sums(inside)
    return found
