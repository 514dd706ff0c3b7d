"""Airlines by their two-character code. One file; a newer one replaces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import Expectation, Files, SourceSpec

if TYPE_CHECKING:
    import pandera.polars as pa

COLUMNS = {"carrier": pl.String, "name": pl.String}


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per airline."""
    return delivered.select(*COLUMNS)


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {"carrier": pa.Column(pl.String, pa.Check.str_matches(r"^[A-Z0-9]{2}$")), "name": pa.Column(pl.String)}
    )


EXPECTATIONS = (Expectation(name="airlines", sql="count(*)", low=1, severity="block", why="A register has entries."),)


SOURCE = SourceSpec(
    name="airlines",
    title="Airlines",
    description="Names of the airlines that fly from New York.",
    owner="team:operations-control",
    # No "NA" here: it would be a fine code of an airline.
    read=Files(pattern=r"airlines(_\w+)?\.csv(\.gz|\.zip)?", format="csv"),
    columns=COLUMNS,
    prepare=prepare,
    contract=contract,
    key=("carrier",),
    expectations=EXPECTATIONS,
)
