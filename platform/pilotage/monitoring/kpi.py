"""The business number of a model, by the SQL that its spec holds: per day and over a window, beside what it should be.

Statements see one read-only view of labelled answers (``Kpi.sql`` says of what columns) and nothing else. Measures;
what to do about a missed target is a person's question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from pilotage.data.query import Views
from pilotage.errors import ConfigError
from pilotage.monitoring.answers import NOTHING, given
from pilotage.release.losses import price
from pilotage.spec import Kpi, ModelSpec

VIEW = "labelled"
COST_SQL = f"SELECT avg(cost) AS value FROM {VIEW}"  # noqa: S608
WINDOW = 28
_FEWEST_DAYS = 3
_DEVIATIONS = 1.96
"""Standard errors on each side of an interval of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiValue:
    """The KPI over some days; ``None`` where the statement gives no number."""

    day: date
    """The last one."""
    days: int
    answers: int
    """Labelled answers that it is of."""
    value: float | None
    low: float | None
    high: float | None
    """95 % by leaving out each day in turn (delete-one-block jackknife; Künsch 1989); ``None`` below three days."""
    baseline: float | None
    target: float | None

    def gain(self, kpi: Kpi) -> float | None:
        """How much better than the baseline, in the KPI's unit."""
        if self.value is None or self.baseline is None:
            return None
        return self.value - self.baseline if kpi.higher_is_better else self.baseline - self.value

    def misses_target(self, kpi: Kpi) -> bool | None:
        """Whether the target is missed by more than the days' scatter explains; ``None`` if that can't be told."""
        best = self.high if kpi.higher_is_better else self.low
        if self.target is None or best is None:
            return None
        return best < self.target if kpi.higher_is_better else best > self.target


def kpi_values(
    labelled: pl.DataFrame, spec: ModelSpec, *, days: Sequence[date] | None = None, window: int = WINDOW
) -> list[KpiValue]:
    """The KPI of each of some days, and last that of the window that ends with the last of them.

    Args:
        labelled: From ``read_answers(…, everything=True)``; shadows and those without a label are left out.
        spec: The model.
        days: Which; ``None`` for all that there are.
        window: Days.

    Raises:
        ConfigError: A statement of the spec is wrong, or gives something other than one row with a number ``value``.
    """
    rows = view(labelled, spec)
    wanted = sorted(labelled["day"].unique() if days is None else set(days))
    if not wanted:
        return []
    first = wanted[-1] - timedelta(days=window - 1)
    with Views(rows, VIEW) as views:
        each = [_value(views, rows, spec, first=day, last=day) for day in wanted]
        return [*each, _value(views, rows, spec, first=first, last=wanted[-1])]


def view(labelled: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    """The rows that statements see."""
    told = given(labelled).filter(pl.col("label").is_not_null() & (pl.col("stage") != NOTHING))
    return told.with_columns(price(spec.kpi.cost).cast(pl.Float64).alias("cost")).drop("contested", "no_label_reason")


def _value(views: Views, rows: pl.DataFrame, spec: ModelSpec, *, first: date, last: date) -> KpiValue:
    kpi = spec.kpi
    inside = rows.filter(pl.col("day").is_between(first, last))
    where = f"day BETWEEN DATE '{first}' AND DATE '{last}'"
    value = _number(views, kpi.sql or COST_SQL, where, name=f"{spec.name}: kpi.sql")
    there = inside["day"].unique().sort().to_list()
    low = high = None
    if value is not None and len(there) >= _FEWEST_DAYS:
        without = [
            _number(views, kpi.sql or COST_SQL, f"{where} AND day <> DATE '{day}'", name=f"{spec.name}: kpi.sql")
            for day in there
        ]
        left = np.array([one for one in without if one is not None])
        if len(left) == len(there):
            error = math.sqrt((len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum()))
            low, high = value - _DEVIATIONS * error, value + _DEVIATIONS * error
    return KpiValue(
        day=last,
        days=(last - first).days + 1,
        answers=inside.height,
        value=value,
        low=low,
        high=high,
        baseline=_told(views, kpi.baseline, where, name=f"{spec.name}: kpi.baseline"),
        target=_told(views, kpi.target, where, name=f"{spec.name}: kpi.target"),
    )


def _told(views: Views, what: float | str | None, where: str, *, name: str) -> float | None:
    return _number(views, what, where, name=name) if isinstance(what, str) else what


def _number(views: Views, sql: str, where: str, *, name: str) -> float | None:
    try:
        found = views.select(sql, where=where)
    except ConfigError as error:
        raise ConfigError(f"{name} can't be answered: {error.message}", fix=error.fix, sql=sql) from None
    if found.height != 1 or "value" not in found.columns:
        raise ConfigError(
            f"{name} gives {found.height} rows with the columns {', '.join(found.columns)}.",
            fix="Give one row with the column `value`: an aggregate, such as SELECT avg(cost) AS value FROM labelled.",
            sql=sql,
        )
    value = found["value"][0]
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} gives {value!r}.", fix="Give a number as `value`.", sql=sql) from None
    # The mean of nothing; no number is not a number to compare.
    return number if math.isfinite(number) else None
