"""Hourly weather at the three airports of New York: one file a day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.columns import calendar_day
from pilotage.data.source import Daily, Files, SourceSpec

if TYPE_CHECKING:
    import pandera.polars as pa

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)
PUBLISHED_AFTER = timedelta(minutes=15)
"""A reading is out a quarter of an hour after it was taken."""

READINGS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per airport and hour. Times are UTC: the local parts name three hours of 3 November twice.

    Units: °F, percent, degrees, mph, inches, millibars, miles.
    """
    return delivered.select(
        "origin",
        pl.col("time_hour").alias("observed_at"),
        (pl.col("time_hour") + PUBLISHED_AFTER).alias("known_at"),
        calendar_day(pl.col("year"), pl.col("month"), pl.col("delivered_day")).alias("day"),
        *READINGS,
    )


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {
            "origin": pa.Column(pl.String, pa.Check.isin(["EWR", "JFK", "LGA"])),
            "observed_at": pa.Column(pl.Datetime("us", "UTC")),
            "day": pa.Column(pl.Date),
        }
    )


SOURCE = SourceSpec(
    name="weather",
    title="Hourly weather in New York",
    description="Hourly readings of the weather stations at EWR, JFK and LGA.",
    owner="team:operations-control",
    read=Files(
        pattern=r"weather_(?P<day>\d{4}-\d{2}-\d{2})(_\w+)?\.csv(\.gz|\.zip)?",
        format="csv",
        null_values=("NA", ""),
    ),
    columns={
        "origin": pl.String,
        "year": pl.Int64,
        "month": pl.Int64,
        "day": pl.Int64,
        "hour": pl.Int64,
        **dict.fromkeys(READINGS, pl.Float64),
        "time_hour": pl.Datetime("us", "UTC"),
    },
    prepare=prepare,
    contract=contract,
    key=("origin", "observed_at"),
    daily=Daily(column="day", first=FIRST, last=LAST),
)
