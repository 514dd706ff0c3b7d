"""Airports and where they are. One file; a newer one replaces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import Expectation, Files, SourceSpec

if TYPE_CHECKING:
    import pandera.polars as pa

COLUMNS = {
    "faa": pl.String,
    "name": pl.String,
    "lat": pl.Float64,
    "lon": pl.Float64,
    "alt": pl.Int64,
    "tz": pl.Int64,
    "dst": pl.String,
    "tzone": pl.String,
}


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per airport. Degrees, feet, hours from UTC."""
    return delivered.select(*COLUMNS)


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {
            # Small fields have codes with digits, such as 04G.
            "faa": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z0-9]{3,4}$")),
            "name": pa.Column(pl.String),
            "lat": pa.Column(pl.Float64, pa.Check.in_range(-90.0, 90.0)),
            "lon": pa.Column(pl.Float64, pa.Check.in_range(-180.0, 180.0)),
            "alt": pa.Column(pl.Int64, pa.Check.in_range(-1500, 20_000)),
            "tz": pa.Column(pl.Int64, pa.Check.in_range(-12, 14)),
            "dst": pa.Column(pl.String, pa.Check.isin(["A", "U", "N"])),
            "tzone": pa.Column(pl.String, nullable=True),
        }
    )


EXPECTATIONS = (
    Expectation(
        name="airports",
        sql="count(*)",
        low=1000,
        severity="block",
        why="The register has some 1,450 airports; far fewer means that the file was cut.",
    ),
)


SOURCE = SourceSpec(
    name="airports",
    title="Airports",
    description="Airports of the United States with position and time zone. Four destinations are not among them.",
    owner="team:operations-control",
    read=Files(pattern=r"airports(_\w+)?\.csv(\.gz|\.zip)?", format="csv", null_values=("NA", "")),
    columns=COLUMNS,
    prepare=prepare,
    contract=contract,
    key=("faa",),
    expectations=EXPECTATIONS,
)
