"""Engine reports as Dagster metadata: what people look for in the UI, under the names that the UI knows."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[None]
else:
    # Where there are checks as well, Dagster 1.13.27 knows a result by the bare class alone.
    Materialized = dg.MaterializeResult
"""What a step returns whose data is in the lake: no value for an IO manager."""

DAY = timedelta(days=1)
RANGES = 6
"""Ranges of days that one line tells."""


def column_schema(schema: Mapping[str, object], descriptions: Mapping[str, str] | None = None) -> dg.TableSchema:
    """Column → type as the UI's column list."""
    told = descriptions or {}
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type=str(dtype), description=told.get(name)) for name, dtype in schema.items()]
    )


def table(rows: Iterable[Mapping[str, Any]], *, limit: int = 50) -> dg.TableMetadataValue:
    """Rows as a table in the UI; values that JSON lacks become text."""
    shown = [{key: _cell(value) for key, value in row.items()} for row in list(rows)[:limit]]
    columns = list(dict.fromkeys(key for row in shown for key in row)) or ["(nothing)"]
    records = [dg.TableRecord({key: row.get(key) for key in columns}) for row in shown]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, type=_type(name, shown)) for name in columns])
    return dg.MetadataValue.table(records, schema=schema)


def span(days: Iterable[date]) -> str:
    """``2013-01-01 … 2013-02-28 (59)``; with gaps ``2013-01-01, 2013-01-03 … 2013-01-05 (4)``, six ranges at most."""
    told = sorted(days)
    if not told:
        return "none"
    starts = [day for before, day in zip([None, *told], told, strict=False) if before is None or day - before > DAY]
    ends = [day for day, after in zip(told, [*told[1:], None], strict=False) if after is None or after - day > DAY]
    ranges = [str(first) if first == last else f"{first} … {last}" for first, last in zip(starts, ends, strict=True)]
    if len(ranges) > RANGES:
        ranges = [*ranges[: RANGES - 2], "…", ranges[-1]]
    return ", ".join(ranges) + (f" ({len(told)})" if len(told) > 1 else "")


def picture(name: str, png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG in the page itself: it needs no server, and stays what it was."""
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # Six digits tell what there is to tell, and the table stays narrow enough to read.
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(str(item) for item in value)
    return str(value)


def _type(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    value = next((row[name] for row in rows if row.get(name) is not None), "")
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "string")
