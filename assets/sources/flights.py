"""Flights that left New York (EWR, JFK, LGA), as the airlines' export job lands them: one file a day."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.columns import calendar_day, joined, minute_of_day, minutes
from pilotage.data.source import Daily, Expectation, Files, SourceSpec

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
            joined("day", "carrier", "flight", "origin", separator="/").alias("flight_id"),
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

    from pilotage.data.contract import holds

    known = pl.col("arr_delay").is_not_null()
    hours = pl.col("air_time") / 60
    return pa.DataFrameSchema(
        {
            "flight_id": pa.Column(pl.String),
            "day": pa.Column(pl.Date),
            # Any code: an airline that we don't know is news (see the expectations), not an error.
            "carrier": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z0-9]{2}$")),
            "flight": pa.Column(pl.Int64, pa.Check.in_range(1, 9999)),
            "tailnum": pa.Column(pl.String, nullable=True),
            "origin": pa.Column(pl.String, pa.Check.isin(["EWR", "JFK", "LGA"])),
            "dest": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z]{3}$")),
            "sched_dep_at": pa.Column(pl.Datetime("us", "UTC")),
            "dep_at": pa.Column(pl.Datetime("us", "UTC"), nullable=True),
            "dep_delay": pa.Column(pl.Int64, pa.Check.in_range(-180, 2880), nullable=True),
            "sched_arr_minute": pa.Column(pl.Int64, pa.Check.in_range(0, 1439)),
            "arr_delay": pa.Column(pl.Int64, pa.Check.in_range(-240, 2880), nullable=True),
            "air_time": pa.Column(pl.Int64, pa.Check.in_range(1, 1200), nullable=True),
            "distance": pa.Column(pl.Int64, pa.Check.in_range(1, 10_000)),
            "cancelled": pa.Column(pl.Boolean),
            "late": pa.Column(pl.Boolean, nullable=True),
            "arr_known_at": pa.Column(pl.Datetime("us", "UTC"), nullable=True),
        },
        checks=[
            holds(
                pl.col("sched_dep_at").dt.convert_time_zone("America/New_York").dt.date() == pl.col("day"),
                otherwise="sched_dep_at: is on another day in New York",
            ),
            holds(
                pl.col("cancelled") == pl.col("dep_delay").is_null(),
                otherwise="dep_delay: a flight has one if it left, and none if it was cancelled",
            ),
            holds(~(pl.col("cancelled") & known), otherwise="arr_delay: a cancelled flight has not arrived"),
            holds(known == pl.col("air_time").is_not_null(), otherwise="air_time: is known only with the arrival"),
            holds(pl.col("distance") / hours < 800, otherwise="air_time: is too short for the distance (over 800 mph)"),
        ],
    )


KNOWN_CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")

# Hours from the last departure to the end of the day, which is 4:00 or 5:00 UTC of the next one.
UNREPORTED = "date_diff('hour', max(sched_dep_at), max(day) + INTERVAL 28 HOUR)"

EXPECTATIONS = (
    Expectation(
        name="departures",
        sql="count(*)",
        low=300,
        severity="block",
        why="The quietest day of a year has over 600; fewer than half of that means that the file was cut.",
    ),
    Expectation(
        name="departures_usual",
        sql="count(*)",
        learned=4,
        narrowest=320,
        severity="warn",
        why="Saturdays have 250 fewer than other days; a difference beyond that is a holiday or a loss.",
    ),
    Expectation(
        name="hours_unreported",
        sql=UNREPORTED,
        high=6,
        severity="block",
        why="The last flights leave at midnight: a day that ends earlier was exported too early.",
    ),
    Expectation(name="origins", sql="count(DISTINCT origin)", low=3, severity="warn", why="EWR, JFK and LGA report."),
    Expectation(
        name="labelled_of_departed",
        sql="avg((arr_delay IS NOT NULL)::INT) FILTER (NOT cancelled)",
        low=0.8,
        severity="block",
        why="Flights that left have landed by now: without their arrival there is no label.",
    ),
    Expectation(
        name="labelled",
        sql="avg((arr_delay IS NOT NULL)::INT)",
        learned=6,
        narrowest=0.15,
        severity="warn",
        why="Cancelled flights have no label. Where many lack it, the rest is no fair picture of the day.",
    ),
    Expectation(
        name="cancelled",
        sql="avg(cancelled::INT)",
        learned=6,
        narrowest=0.15,
        severity="warn",
        why="A storm, a strike, or an export that lost departures.",
    ),
    Expectation(
        name="late",
        sql="avg(late::INT)",
        learned=5,
        narrowest=0.35,
        severity="warn",
        why="What the model learns. Far from the last two months means disruption, or another definition.",
    ),
    Expectation(
        name="mean_departure_delay",
        sql="avg(dep_delay)",
        learned=8,
        narrowest=40,
        severity="warn",
        why="Minutes. Far from the last two months means disruption, or another unit.",
    ),
    Expectation(
        name="aircraft_unknown",
        sql="avg((tailnum IS NULL)::INT) FILTER (NOT cancelled)",
        high=0.01,
        severity="warn",
        why="A flight that left has an aircraft; without it its last leg is unknown.",
    ),
    Expectation(
        name="unknown_carriers",
        sql=f"count(*) FILTER (carrier NOT IN {KNOWN_CARRIERS})",
        high=0,
        severity="warn",
        why="An airline that the models have never seen. They answer as for a missing value.",
    ),
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
    expectations=EXPECTATIONS,
)
