"""A small daily source that every test of validation shares: readings of sensors, with each oddity for a reason.

``prepare`` works as those of the real sources do; the raw table is written as ingestion writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import pandera.polars as pa
import polars as pl

from pilotage.data.contract import holds
from pilotage.data.lake import Lake
from pilotage.data.source import Daily, Expectation, Files, SourceSpec

FIRST = date(2024, 3, 1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    return delivered.select(
        "sensor",
        "low",
        "high",
        pl.col("on").str.to_date(strict=False).alias("day"),
        (pl.col("high") * 2).alias("twice"),
    )


def contract() -> pa.DataFrameSchema:
    return pa.DataFrameSchema(
        {
            "sensor": pa.Column(pl.String, pa.Check.isin(["a", "b", "c", "d"])),
            "low": pa.Column(pl.Float64, pa.Check.in_range(-50.0, 150.0)),
            "high": pa.Column(pl.Float64, pa.Check.le(200.0), nullable=True),
            "day": pa.Column(pl.Date),
        },
        checks=[holds(pl.col("low") <= pl.col("high"), otherwise="high: is below low")],
    )


def without_day(delivered: pl.LazyFrame) -> pl.LazyFrame:
    return prepare(delivered).drop("day")


def whole_contract() -> pa.DataFrameSchema:
    return contract().remove_columns(["day"])


COUNT = Expectation(name="readings", sql="count(*)", low=2, severity="block", why="Two sensors report at least.")
MEAN = Expectation(name="mean_low", sql="avg(low)", learned=4, narrowest=5, severity="warn", why="It moves slowly.")


def source(**changes: Any) -> SourceSpec:
    return SourceSpec(
        **{
            "name": "readings",
            "title": "Readings",
            "description": "Readings of sensors.",
            "owner": "team:lab",
            "read": Files(pattern=r"readings_(?P<day>\d{4}-\d{2}-\d{2})\.csv", format="csv"),
            "columns": {"sensor": pl.String, "on": pl.String, "low": pl.Float64, "high": pl.Float64},
            "prepare": prepare,
            "contract": contract,
            "key": ("sensor", "day"),
            "daily": Daily(column="day", first=FIRST),
            "expectations": (COUNT, MEAN),
            "tolerated": 0.5,
            **changes,
        }
    )


def reference(**changes: Any) -> SourceSpec:
    """The same rows as one table without days."""
    read = Files(pattern=r"readings\.csv", format="csv")
    return source(
        **{
            "read": read,
            "daily": None,
            "prepare": without_day,
            "contract": whole_contract,
            "key": ("sensor",),
            "expectations": (COUNT,),
            **changes,
        }
    )


def row(
    sensor: str, on: date | str, low: float | None = 10.0, high: float | None = 20.0, **cells: Any
) -> dict[str, Any]:
    return {"sensor": sensor, "on": str(on), "low": low, "high": high, "unparsed": [], **cells}


def delivered(rows: Sequence[dict[str, Any]], *, file_day: date | None = FIRST) -> pl.DataFrame:
    """Rows as the raw table holds them."""
    schema = {
        "sensor": pl.String, "on": pl.String, "low": pl.Float64, "high": pl.Float64, "unparsed": pl.List(pl.String),
    }  # fmt: skip
    name = f"readings_{file_day}.csv" if file_day else "readings.csv"
    frame = pl.DataFrame(list(rows), schema=schema).with_columns(
        source_file=pl.lit(name), source_sha256=pl.lit("5e" * 32)
    )
    return frame.with_columns(day=pl.lit(file_day)) if file_day else frame


def land(lake: Lake, days: dict[date, Sequence[dict[str, Any]]]) -> None:
    """Writes days of ``raw/readings``."""
    frames = [delivered(rows, file_day=on) for on, rows in days.items()]
    lake.replace_days("raw/readings", pl.concat(frames), list(days), note={})


def ordinary(on: date, shift: float = 0.0) -> list[dict[str, Any]]:
    """A day on which all is well; the values move a little from day to day."""
    wobble = on.toordinal() % 5 - 2
    return [row(sensor, on, low=10.0 + wobble + shift, high=60.0) for sensor in ("a", "b", "c")]


def rows_of(
    lake: Lake, table: str, *, without: Sequence[str] = (), sort: Sequence[str] = ("day",)
) -> list[dict[str, Any]]:
    return lake.scan(table).drop(without).collect().sort(sort, maintain_order=True).to_dicts()


Prepare = Callable[[pl.LazyFrame], pl.LazyFrame]
