"""The numbers of each batch, measured by one DuckDB query, and their history in ``profile/<source>``.

Only measuring and remembering: bands are learned in ``bands.py``, judging is in ``expectations.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from math import isfinite
from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.bands import Band, Measured
from pilotage.data.source import Expectation, SourceSpec
from pilotage.errors import ExpectationFailed

if TYPE_CHECKING:
    import duckdb

    from pilotage.data.lake import Lake


LOOKBACK = timedelta(days=366)
"""How far back a band looks for days that it can learn from."""


def measure(spec: SourceSpec, rows: pl.DataFrame, batch: pl.Series, batches: Sequence[date | None]) -> list[Measured]:
    """Evaluates every expectation's SQL on every batch, in one pass over the rows.

    Args:
        rows: Rows that passed the contract. In SQL, a time is a TIMESTAMP in UTC.
        batch: Each row's batch.
        batches: The batches asked for. One without rows is measured too (``count(*)`` is 0 there), but what is null
            for want of rows is left out of its values.

    Returns:
        One record for each of ``batches``, in their order. NaN and infinity are no numbers, but named as such.

    Raises:
        ExpectationFailed: The SQL of an expectation can't be evaluated.
    """
    if not spec.expectations:
        return [Measured(day=day, values={}) for day in batches]
    import duckdb

    times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    plain = rows.with_columns(pl.col(times).dt.replace_time_zone(None), batch.alias("_batch"))
    table = plain.to_arrow(compat_level=pl.CompatLevel.newest())  # Strings as they are, not copied.
    numbers = ", ".join(_number(item) for item in spec.expectations)
    with duckdb.connect() as connection:
        connection.register("validated", table)
        try:
            grouped = connection.execute(f"SELECT _batch, {numbers} FROM validated GROUP BY _batch")  # noqa: S608
            found = {day: values for day, *values in grouped.fetchall()}
            nothing = connection.execute(f"SELECT {numbers} FROM validated WHERE false").fetchall()[0]  # noqa: S608
        except duckdb.Error as error:
            raise _culprit(connection, spec, error) from error
    names = [item.name for item in spec.expectations]
    empty = {name: value for name, value in zip(names, nothing, strict=True) if value is not None and isfinite(value)}
    return [
        _measured(day, dict(zip(names, found[day], strict=True)))
        if day in found
        else Measured(day=day, values=empty, empty=True)
        for day in batches
    ]


def past(lake: Lake, spec: SourceSpec, batches: Sequence[date | None]) -> list[Measured]:
    """What earlier runs measured on other days that the bands of these may learn from, oldest first."""
    table = f"profile/{spec.name}"
    days = [day for day in batches if day is not None]
    if not days or not any(item.learned for item in spec.expectations) or not lake.exists(table):
        return []
    rows = lake.scan(table, first=days[0] - LOOKBACK, last=days[-1]).filter(~pl.col("day").is_in(days))
    frame = rows.sort("day").collect()
    known = [item.name for item in spec.expectations if item.name in frame.columns]
    return [
        Measured(
            day=row["day"],
            values={name: row[name] for name in known},
            passed=row["passed"],
            unmet=frozenset(row["unmet"]),
            # Of a refused day that was judged before this was noted, nobody knows.
            empty=not row["passed"] and row.get("empty") is not False,
        )
        for row in frame.iter_rows(named=True)
    ]


def as_frame(spec: SourceSpec, batches: Iterable[Measured], bands: Iterable[dict[str, Band]]) -> pl.DataFrame:
    """Rows of ``profile/<source>``: one for each batch, with each number and its band."""
    schema: dict[str, pl.DataType] = {
        "day": pl.Date(),
        "passed": pl.Boolean(),
        "unmet": pl.List(pl.String()),
        "empty": pl.Boolean(),
    }
    for item in spec.expectations:
        schema |= {item.name: pl.Float64(), f"{item.name}_low": pl.Float64(), f"{item.name}_high": pl.Float64()}
    rows = []
    for batch, own in zip(batches, bands, strict=True):
        row: dict[str, object] = {
            "day": batch.day,
            "passed": batch.passed,
            "unmet": sorted(batch.unmet),
            "empty": batch.empty,
        }
        for name, band in own.items():
            row |= {name: batch.values[name], f"{name}_low": band.low, f"{name}_high": band.high}
        rows.append(row)
    return pl.DataFrame(rows, schema=schema)


def _measured(day: date | None, values: dict[str, float | None]) -> Measured:
    odd = {name for name, value in values.items() if value is not None and not isfinite(value)}
    return Measured(day=day, values=values | dict.fromkeys(odd), not_finite=frozenset(odd))


def _number(item: Expectation) -> str:
    return f'CAST(({item.sql}) AS DOUBLE) AS "{item.name}"'


def _culprit(connection: duckdb.DuckDBPyConnection, spec: SourceSpec, error: Exception) -> ExpectationFailed:
    """Names the one expectation whose SQL fails; the query of all of them only says that something does."""
    for item in spec.expectations:
        try:
            connection.execute(f"SELECT _batch, {_number(item)} FROM validated GROUP BY _batch")  # noqa: S608
        except Exception as own:
            return ExpectationFailed(
                f"Expectation {item.name} of {spec.name} can't be evaluated: {own}",
                fix=f"Correct its SQL in assets/sources/{spec.name}.py: {item.sql}",
                source=spec.name,
                expectation=item.name,
            )
    return ExpectationFailed(
        f"The expectations of {spec.name} can't be evaluated together: {error}",
        fix="Look at the message of DuckDB.",
        source=spec.name,
    )
