"""Whether groups of people are treated alike: rates of selection, true and false positives by protected column.

Rates and their differences are fairlearn's; intervals are by bootstrap over days (or answers), vectorised. Asked of a
candidate at the gate, and of the answers that were given (``monitoring/fairness.py``). Measures; what is fair is for
people to say, and ``Fairness`` holds what they said.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import UnpublishedData
from pilotage.features.build import LABEL
from pilotage.spec import ModelSpec
from pilotage.training.config import EvaluationConfig
from pilotage.training.metrics import Resamples, percentile_interval
from pilotage.training.records import RATES, FairnessReport, GroupDifference, GroupRate, Rate

Blocks = Callable[[pl.DataFrame], "np.ndarray | None"]
"""The block of each row, which the bootstrap draws as one; ``None`` for one each."""
_DAY = "_day"
_FEWEST_DAYS = 3


def groups_of(spec: ModelSpec, lake: Lake) -> pl.DataFrame | None:
    """The protected columns of the entities that the validated table knows; ``None`` if the model names none.

    They are in no request, feature or log, so they are read where they are, by entity.

    Raises:
        UnpublishedData: There is no such table, or it lacks one of them.
    """
    if not spec.protected:
        return None
    table = f"validated/{spec.source}"
    if missing := sorted({*spec.entity, *spec.protected} - set(lake.schema(table))):
        raise UnpublishedData(
            f"{table} has no column {missing[0]}, by which {spec.name} has to treat groups alike.",
            fix="Correct protected= of the model, or the source's prepare.",
            table=table,
            columns=missing,
        )
    rows = lake.scan(table).select(*spec.entity, *spec.protected)
    return rows.unique(list(spec.entity), keep="first", maintain_order=True).collect()


def fairness_of(
    spec: ModelSpec,
    holdout: pl.DataFrame,
    predicted: np.ndarray,
    days: np.ndarray | None,
    groups: pl.DataFrame,
    *,
    config: EvaluationConfig,
    seed: int,
) -> FairnessReport:
    """How groups fare with what a candidate would have answered.

    Args:
        spec: The model.
        holdout: Rows of a training set.
        predicted: Their probabilities.
        days: Their days; ``None`` for data without a time.
        groups: From ``groups_of``.
        config: Resamples and confidence.
        seed: The same seed gives the same intervals.
    """
    named = (pl.col(name).cast(pl.String).alias(f"group_{name}") for name in spec.protected)
    known = groups.select(*spec.entity, *named)
    low, high = spec.serving.refer_between or (0.0, 0.0)
    answers = holdout.select(*spec.entity, label=pl.col(LABEL)).with_columns(
        pl.Series("probability", predicted), pl.Series(_DAY, np.zeros(len(predicted)) if days is None else days)
    )
    answers = answers.join(known, on=list(spec.entity), how="left", maintain_order="left").with_columns(
        decision=pl.col("probability") >= spec.kpi.cost.threshold,
        referred=pl.col("probability").is_between(low, high, closed="left"),
    )
    return fairness(answers, spec, blocks=_by_day, resamples=config.resamples, confidence=config.confidence, seed=seed)


def _by_day(rows: pl.DataFrame) -> np.ndarray | None:
    return rows[_DAY].to_numpy() if rows[_DAY].n_unique() >= _FEWEST_DAYS else None


def fairness(
    grouped: pl.DataFrame,
    spec: ModelSpec,
    *,
    blocks: Blocks,
    resamples: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
) -> FairnessReport:
    """Rates by group, and how far apart groups are.

    What was referred to a person counts, as in the cost, by what its probability suggests, and its share is told too.

    Args:
        grouped: Answers: ``probability``, ``decision``, ``referred``, ``label``, and ``group_<column>`` of each
            protected column as text, null where it is not known.
        spec: The model.
        blocks: Gives what the bootstrap draws of some of these rows.
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
            measured, gap = _of_rate(
                parts, column, rate, spec, blocks, resamples=resamples, confidence=confidence, seed=seed
            )
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
    blocks: Blocks,
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
    drawn = _drawn(compared, f"group_{column}", large, blocks(compared), resamples=resamples, seed=seed)
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


def _drawn(
    rows: pl.DataFrame, column: str, groups: list[str], blocks: np.ndarray | None, *, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Group → its rate in each resample; NaN where a resample has none of it."""
    weights = Resamples.draw(blocks, rows.height, count=resamples, seed=seed)
    hit = rows["_hit"].cast(pl.Float64).to_numpy()
    found = {}
    for group in groups:
        inside = (rows[column] == group).cast(pl.Float64).to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            found[group] = weights.sums(hit * inside) / weights.sums(inside)
    return found
