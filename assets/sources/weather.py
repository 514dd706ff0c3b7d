"""Hourly weather at the three airports of New York: one file a day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.columns import calendar_day
from pilotage.data.source import Daily, Expectation, Files, SourceSpec

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

    from pilotage.data.contract import holds

    def reading(low: float, high: float) -> pa.Column:
        return pa.Column(pl.Float64, pa.Check.in_range(low, high), nullable=True)

    before, after = (pl.col("temp").shift(step).over("origin", "day", order_by="observed_at") for step in (1, -1))
    return pa.DataFrameSchema(
        {
            "origin": pa.Column(pl.String, pa.Check.isin(["EWR", "JFK", "LGA"])),
            "observed_at": pa.Column(pl.Datetime("us", "UTC")),
            "known_at": pa.Column(pl.Datetime("us", "UTC")),
            "day": pa.Column(pl.Date),
            "temp": reading(-60.0, 130.0),
            "dewp": reading(-80.0, 100.0),
            "humid": reading(0.0, 100.0),
            "wind_dir": reading(0.0, 360.0),
            # The strongest wind ever measured outside a tornado was 253 mph; New York's record is far below 150.
            "wind_speed": reading(0.0, 150.0),
            "wind_gust": reading(0.0, 200.0),
            "precip": reading(0.0, 15.0),
            "pressure": reading(850.0, 1090.0),
            "visib": reading(0.0, 100.0),
        },
        checks=[
            holds(pl.col("dewp") <= pl.col("temp") + 0.1, otherwise="dewp: is above temp, which can't be"),
            # Real weather moves by 10 °F in an hour and stays there; what jumps and returns is the sensor.
            holds(
                ((pl.col("temp") - before).abs() < 25) | ((pl.col("temp") - after).abs() < 25),
                otherwise="temp: is 25 °F or more away from the readings before and after it",
            ),
        ],
    )


# Hours from the last reading to the end of the day, which is 4:00 or 5:00 UTC of the next one.
UNREPORTED = "date_diff('hour', max(observed_at), max(day) + INTERVAL 28 HOUR)"

EXPECTATIONS = (
    Expectation(
        name="readings",
        sql="count(*)",
        low=64,
        severity="warn",
        why="Three airports report every hour, 72 readings a day. Flights get older readings instead.",
    ),
    Expectation(name="airports", sql="count(DISTINCT origin)", low=3, severity="warn", why="EWR, JFK and LGA report."),
    Expectation(
        name="hours_unreported",
        sql=UNREPORTED,
        high=3,
        severity="warn",
        why="Hours without a reading at the end of the day: exported too early, or a station is down.",
    ),
    Expectation(
        name="temp_unknown",
        sql="avg((temp IS NULL)::INT)",
        high=0.5,
        severity="block",
        why="More than half without a temperature means that the column was lost.",
    ),
    Expectation(
        name="pressure_unknown",
        sql="avg((pressure IS NULL)::INT)",
        high=0.75,
        severity="warn",
        why="Pressure is missing while it rains, up to 14 hours a day; more means that the column was lost.",
    ),
    Expectation(
        name="mean_temp",
        sql="avg(temp)",
        learned=4,
        narrowest=20,
        severity="warn",
        why="°F. A jump against the last two months means another unit, or weather worth knowing of.",
    ),
    Expectation(
        name="mean_wind",
        sql="avg(wind_speed)",
        learned=5,
        narrowest=10,
        severity="warn",
        why="mph. Far from the last two months means another unit, or a storm.",
    ),
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
    expectations=EXPECTATIONS,
)
