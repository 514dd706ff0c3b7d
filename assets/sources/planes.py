"""The register of aircraft. One file; a newer one replaces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import Expectation, Files, SourceSpec

if TYPE_CHECKING:
    import pandera.polars as pa

COLUMNS = {
    "tailnum": pl.String,
    "year": pl.Int64,
    "type": pl.String,
    "manufacturer": pl.String,
    "model": pl.String,
    "engines": pl.Int64,
    "seats": pl.Int64,
    "speed": pl.Int64,
    "engine": pl.String,
}


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per registration. ``year`` is the year of manufacture, ``speed`` miles an hour."""
    return delivered.select(*COLUMNS)


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {
            "tailnum": pa.Column(pl.String, pa.Check.str_matches(r"^N[0-9A-Z]{1,5}$")),
            # Unknown for some. A year such as 0 or 2103 would become an absurd age.
            "year": pa.Column(pl.Int64, pa.Check.in_range(1930, 2030), nullable=True),
            "type": pa.Column(pl.String),
            "manufacturer": pa.Column(pl.String),
            "model": pa.Column(pl.String),
            "engines": pa.Column(pl.Int64, pa.Check.in_range(1, 8)),
            "seats": pa.Column(pl.Int64, pa.Check.in_range(1, 900)),
            "speed": pa.Column(pl.Int64, pa.Check.in_range(1, 1000), nullable=True),
            "engine": pa.Column(pl.String),
        }
    )


EXPECTATIONS = (
    Expectation(
        name="aircraft",
        sql="count(*)",
        low=1000,
        severity="block",
        why="The register has some 3,300 aircraft; far fewer means that the file was cut.",
    ),
    Expectation(
        name="year_unknown",
        sql="avg((year IS NULL)::INT)",
        high=0.1,
        severity="warn",
        why="Two in a hundred aircraft have no year; many more means that the column was lost.",
    ),
)


SOURCE = SourceSpec(
    name="planes",
    title="Aircraft",
    description="Registration, make and size of the aircraft that the regulator lists. Not every aircraft that flies.",
    owner="team:operations-control",
    read=Files(pattern=r"planes(_\w+)?\.csv(\.gz|\.zip)?", format="csv", null_values=("NA", "")),
    columns=COLUMNS,
    prepare=prepare,
    contract=contract,
    key=("tailnum",),
    expectations=EXPECTATIONS,
)
