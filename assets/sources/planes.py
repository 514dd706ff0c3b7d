"""The register of aircraft. One file; a newer one replaces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import Files, SourceSpec

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

    return pa.DataFrameSchema({"tailnum": pa.Column(pl.String), "seats": pa.Column(pl.Int64, pa.Check.ge(1))})


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
)
