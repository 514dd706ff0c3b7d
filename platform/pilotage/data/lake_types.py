"""Which types a Delta table keeps exactly. What is read back is what was written, or the write is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from pilotage.errors import LakeError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_KEPT = {
    pl.String(),
    pl.Binary(),
    pl.Boolean(),
    pl.Date(),
    pl.Datetime("us"),
    pl.Datetime("us", "UTC"),
    pl.Int8(),
    pl.Int16(),
    pl.Int32(),
    pl.Int64(),
    pl.Float32(),
    pl.Float64(),
}

# Measured on deltalake 1.6: Enum and Categorical panic the writer, Time and Null raise, UInt32 comes back as Int32.
_INSTEAD = {
    pl.Enum: "pl.String",
    pl.Categorical: "pl.String",
    pl.Time: "pl.Int64 (microseconds of the day)",
    pl.Duration: "pl.Int64 (microseconds)",
    pl.Null: "the type that it would have with values",
    pl.Array: "pl.List",
    pl.Datetime: 'pl.Datetime("us", "UTC")',
}


def storable(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """The frame as Delta keeps it. Unsigned integers, which Delta has not, become ``Int64``.

    Raises:
        LakeError: A column has a type that Delta loses or can't write.
    """
    unsigned = [name for name, dtype in frame.schema.items() if dtype.is_unsigned_integer()]
    widened = frame.with_columns(pl.col(unsigned).cast(pl.Int64)) if unsigned else frame
    for column, dtype in widened.schema.items():
        if (culprit := _lost(dtype)) is not None:
            instead = next((fix for kind, fix in _INSTEAD.items() if isinstance(culprit, kind)), "another type")
            raise LakeError(
                f"{table}: column {column} is {dtype}; a Delta table has no {culprit}.",
                fix=f"Cast {column} to {instead}.",
                table=table,
                column=column,
            )
    return widened


def same_types(opened: DeltaTable, rows: pl.DataFrame, table: str) -> None:
    """Refuses a column of another type than the table's: Delta would cast ``"5"`` to 5 in silence.

    Raises:
        LakeError: It names the column and both types.
    """
    there = pl.scan_delta(opened).collect_schema()
    for column, dtype in rows.schema.items():
        if column in there and there[column] != dtype:
            raise LakeError(
                f"{table}: {column} is {dtype}, and {there[column]} in the table.",
                fix=f"Cast {column} to {there[column]}.",
                table=table,
                column=column,
            )


def other_types(there: pl.Schema, rows: pl.DataFrame) -> dict[str, pl.DataType]:
    """Columns of the rows that have another type than the table's, with their new type."""
    return {name: dtype for name, dtype in rows.schema.items() if name in there and there[name] != dtype}


def recast(rows: pl.DataFrame, types: Mapping[str, pl.DataType], table: str) -> pl.DataFrame:
    """Rows of a table with other types, where that loses nothing: 5 as 5.0, and never 5.5 as 5.

    Raises:
        LakeError: It names the column and a value that the new type can't hold.
    """
    for column, dtype in types.items():
        old = rows[column]
        try:
            new = old.cast(dtype, strict=False)
            lost = ~new.cast(old.dtype, strict=False).eq_missing(old)
        except pl.exceptions.PolarsError:
            new, lost = old, old.is_not_null()
        if lost.any():
            where = rows.filter(lost)
            days = where["day"].unique().sort().to_list() if "day" in rows.columns else []
            of_days = f" of {days[0]} to {days[-1]}" if days else ""
            raise LakeError(
                f"{table}: {column} is to be {dtype}, and {where.height:,} rows{of_days} hold {old.dtype} that "
                f"it can't hold, such as {where[column][0]!r}.",
                fix=f"Do it for all days at once, so that no older row is left; or keep {column} as {old.dtype} in "
                "`columns` of the source, and derive the other type under another name in `prepare`.",
                table=table,
                column=column,
            )
        rows = rows.with_columns(new if new.dtype == dtype else pl.lit(None, dtype).alias(column))
    return rows


def scan_folder(opened: DeltaTable, files: Sequence[str]) -> pl.LazyFrame:
    """These files of a table on local disk, with the table's columns and types.

    Not ``pl.scan_delta``: it does not find files under a path with a space in it, and takes twice as long.
    """
    schema = pl.scan_delta(opened).collect_schema()
    if not files:
        return pl.LazyFrame(schema=schema)
    partitions = opened.metadata().partition_columns
    return pl.scan_parquet(
        list(files),
        glob=False,
        schema={name: dtype for name, dtype in schema.items() if name not in partitions},
        hive_partitioning=bool(partitions),
        hive_schema={name: schema[name] for name in partitions} or None,
        missing_columns="insert",  # Days that were written before a column came do not have it.
    ).select(schema.names())


def _lost(dtype: Any) -> Any:
    """The part of a type that Delta does not keep, or ``None``."""
    if isinstance(dtype, type):
        dtype = dtype()
    if isinstance(dtype, pl.List):
        return _lost(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return next((lost for field in dtype.fields if (lost := _lost(field.dtype)) is not None), None)
    return None if dtype in _KEPT or isinstance(dtype, pl.Decimal) else dtype
