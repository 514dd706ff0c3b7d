"""The rows that are not published, each with all its reasons and where it came from. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from pilotage.data.contract import CheckedRows
from pilotage.data.source import SourceSpec


def quarantined(
    spec: SourceSpec, checked: CheckedRows, refused: Mapping[date | None, str], origin: pl.DataFrame
) -> pl.DataFrame:
    """Rows that break the contract, and every row of a refused batch.

    Args:
        refused: Batch → why.
        origin: Of each row, what ingestion noted: the file it came from, and its hash.

    Returns:
        The prepared columns, the file's name and SHA-256, ``reasons``, and for a daily source the ``day`` whose file
        held the row (a row that says another day has that among its reasons).
    """
    refusals = pl.DataFrame(
        [(batch, f"batch: {reason}") for batch, reason in refused.items()],
        schema={"batch": pl.Date, "refusal": pl.String},
        orient="row",
    )
    reasons = (
        pl.DataFrame([checked.batch, checked.reasons.alias("own")])
        .join(refusals, on="batch", how="left", nulls_equal=True, maintain_order="left")
        .select(
            pl.col("own")
            .fill_null(pl.lit([], dtype=pl.List(pl.String)))
            .list.concat(pl.concat_list("refusal").list.drop_nulls())
            .alias("reasons")
        )
        .to_series()
    )
    day = [checked.batch.alias("day")] if spec.daily else []
    return checked.rows.with_columns(*day, *origin.iter_columns(), reasons).filter(pl.col("reasons").list.len() > 0)
