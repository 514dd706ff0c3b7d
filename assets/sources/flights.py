"""Flights that left New York (EWR, JFK, LGA), as the airlines' export job lands them: one file a day."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.columns import calendar_day, minute_of_day, minutes
from pilotage.data.source import Daily, Files, SourceSpec

if TYPE_CHECKING:
    import pandera.polars as pa

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per scheduled departure. Times are UTC; delays and air time are minutes, distance is miles."""
    delay, air_time = pl.col("dep_delay"), pl.col("air_time")
    return (
        delivered.with_columns(
            # `day` is the day of the file; what the rows say of themselves must agree with it.
            day=calendar_day(pl.col("year"), pl.col("month"), pl.col("delivered_day")),
            sched_dep_at=pl.col("time_hour") + minutes(pl.col("minute")),
        )
        .with_columns(dep_at=pl.col("sched_dep_at") + minutes(delay))
        .select(
            pl.format("{}/{}/{}/{}", "day", "carrier", "flight", "origin").alias("flight_id"),
            "day",
            "carrier",
            "flight",
            "tailnum",
            "origin",
            "dest",
            "sched_dep_at",
            "dep_at",
            "dep_delay",
            minute_of_day(pl.col("sched_arr_time")).alias("sched_arr_minute"),
            "arr_delay",
            "air_time",
            "distance",
            pl.col("dep_time").is_null().alias("cancelled"),
            (pl.col("arr_delay") > 15).alias("late"),
            # An hour bounds taxi and reporting: the arrival delay is not known before.
            (pl.col("dep_at") + minutes(air_time + 60)).alias("arr_known_at"),
        )
    )


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {
            "flight_id": pa.Column(pl.String),
            "day": pa.Column(pl.Date),
            "origin": pa.Column(pl.String, pa.Check.isin(["EWR", "JFK", "LGA"])),
            "sched_dep_at": pa.Column(pl.Datetime("us", "UTC")),
        }
    )


SOURCE = SourceSpec(
    name="flights",
    title="Flights from New York",
    description="Every scheduled departure of EWR, JFK and LGA with its delays, cancelled ones included.",
    owner="team:operations-control",
    read=Files(
        pattern=r"flights_(?P<day>\d{4}-\d{2}-\d{2})(_\w+)?\.csv(\.gz|\.zip)?",
        format="csv",
        null_values=("NA", ""),
    ),
    columns={
        "year": pl.Int64,
        "month": pl.Int64,
        "day": pl.Int64,
        "dep_time": pl.Int64,
        "sched_dep_time": pl.Int64,
        "dep_delay": pl.Int64,
        "arr_time": pl.Int64,
        "sched_arr_time": pl.Int64,
        "arr_delay": pl.Int64,
        "carrier": pl.String,
        "flight": pl.Int64,
        "tailnum": pl.String,
        "origin": pl.String,
        "dest": pl.String,
        "air_time": pl.Int64,
        "distance": pl.Int64,
        "hour": pl.Int64,
        "minute": pl.Int64,
        "time_hour": pl.Datetime("us", "UTC"),
    },
    prepare=prepare,
    contract=contract,
    key=("flight_id",),
    daily=Daily(column="day", first=FIRST, last=LAST),
)
