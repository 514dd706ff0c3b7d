"""A bundle for people with pandas: types that pandas can't keep are put right again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.errors import InvalidRequest
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.contract import Contract

if TYPE_CHECKING:
    import pandas as pd


def predict_frame(bundle: Bundle, rows: pd.DataFrame) -> pd.DataFrame:
    """Predicts rows with request and as-of columns.

    Args:
        bundle: An admitted bundle.
        rows: One row per thing to predict. Whole numbers with gaps may be floats, times without a zone are UTC.

    Returns:
        ``probability`` (0..1) and ``decision`` (bool; ``None`` where a person decides), with the index of ``rows``.

    Raises:
        InvalidRequest: A column is missing, or a value breaks the request's contract.
    """
    contract = Contract(bundle.request)
    frame = _typed(rows, {**contract.schema, **bundle.state_types()})
    contract.check_frame(frame)
    decision, _ = bundle.verdict(pl.col("probability"))
    answer = pl.DataFrame({"probability": bundle.score(frame)}).with_columns(decision=decision).to_pandas()
    answer.index = rows.index
    return answer


def _typed(rows: pd.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    columns = []
    for name, dtype in schema.items():
        if name not in rows.columns:
            raise InvalidRequest(f"{name} is missing.", fix=f"Give a column {name} of type {dtype}.", field=name)
        series = pl.from_pandas(rows[name].rename(name), nan_to_null=True)
        try:
            if isinstance(dtype, pl.Datetime) and series.dtype == pl.String:
                series = series.str.to_datetime(time_unit="us", time_zone="UTC")
            elif isinstance(dtype, pl.Datetime) and getattr(series.dtype, "time_zone", "UTC") is None:
                series = series.dt.replace_time_zone("UTC")
            elif dtype.is_integer() and series.dtype.is_float() and (series != series.round()).any():
                raise InvalidRequest(f"{name} has fractions.", fix="Give whole numbers.", field=name)
            columns.append(series.cast(dtype))
        except pl.exceptions.PolarsError as error:
            raise InvalidRequest(f"{name} is no {dtype}: {error}.", fix=f"Give {dtype}.", field=name) from error
    return pl.DataFrame(columns)
