"""Delivered values → declared types, cell by cell. A cell that can't be read becomes null and is kept as text in the
column ``unparsed``, so that its row can be quarantined with its reason, and the file's other rows go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pilotage.data.schema_changes import SchemaChange

UNPARSED = "unparsed"
"""``List[String]``, one ``column=text`` a cell that can't be read; empty for a row that is fine."""

_MANY = 10
"""Values from which on a column that mostly can't be read counts as retyped, and not as a few bad cells."""

_EXACT = 2.0**53
"""Whole numbers up to here are exact as a Float64."""

_ISO = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")


def typed(frame: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> tuple[pl.DataFrame, list[SchemaChange]]:
    """Gives every declared column its type and adds ``unparsed``.

    Args:
        frame: Delivered rows, of any types; a declared column that it lacks becomes null.

    Returns:
        The declared columns in their order and ``unparsed``; and the columns that are retyped altogether.
    """
    out: list[pl.Series] = []
    problems: list[pl.Series] = []
    retyped: list[SchemaChange] = []
    fine = _fine(frame, columns)
    for name, dtype in columns.items():
        if name in fine:
            out.append(frame[name])
            continue
        if name not in frame.columns:
            out.append(pl.Series(name, [None], dtype=dtype).new_from_index(0, frame.height))
            continue
        given = frame[name]
        read, bad = _read(given, dtype)
        out.append(read)
        if bad is None or not bad.any():
            continue
        text = _text(given)
        present = given.len() - given.null_count()
        if present >= _MANY and bad.sum() * 2 > present:
            now = guess(text.filter(bad)) if given.dtype == pl.String else str(given.dtype)
            retyped.append(SchemaChange(kind="retyped", column=name, now=now, declared=str(dtype)))
        cell = pl.when(bad).then(pl.concat_str(pl.lit(f"{name}="), text))
        problems.append(pl.select(cell.alias(name)).to_series())
    if problems:
        unparsed = pl.DataFrame(problems).select(pl.concat_list(pl.all()).list.drop_nulls().alias(UNPARSED)).to_series()
    else:
        unparsed = pl.Series(UNPARSED, [[]], dtype=pl.List(pl.String)).new_from_index(0, frame.height)
    return pl.DataFrame([*out, unparsed]), retyped


def from_records(
    records: Sequence[Mapping[str, Any]], columns: Mapping[str, pl.DataType]
) -> tuple[pl.DataFrame, list[SchemaChange]]:
    """As ``typed``, for rows of Python values, as JSON and databases give them."""
    series = []
    for name, dtype in columns.items():
        values = [record.get(name) for record in records]
        try:
            series.append(pl.Series(name, values, dtype=dtype, strict=True))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            series.append(_mixed(name, values))
    return typed(pl.DataFrame(series), columns)


def reads_as(values: pl.Series, dtype: pl.DataType) -> bool:
    """Whether most of these values can be read as this type."""
    _, bad = _read(values, dtype)
    return bad is None or int(bad.sum()) * 2 <= values.len() - values.null_count()


def guess(text: pl.Series) -> str:
    """The narrowest type that reads all of these texts, by name."""
    for dtype in (pl.Int64(), pl.Float64(), pl.Boolean(), pl.Date(), pl.Datetime("us", "UTC")):
        _, bad = _read(text, dtype)
        if bad is None or not bad.any():
            return str(dtype)
    return "String"


def _fine(frame: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> set[str]:
    """The columns that have their type already and no number that is none, found in one pass."""
    same = {name for name, dtype in columns.items() if frame.schema.get(name) == dtype}
    floats = [name for name in same if columns[name].is_float()]
    if floats:
        finite = frame.select(pl.col(floats).is_finite().all()).row(0, named=True)
        same -= {name for name in floats if not finite[name]}
    return same


def _read(given: pl.Series, dtype: pl.DataType) -> tuple[pl.Series, pl.Series | None]:
    """The values as this type, and which of them can't be read (``None``: all can)."""
    if given.dtype == dtype and dtype.is_float():
        bad = ~given.is_finite().fill_null(True)
        return given.set(bad, None), bad
    if given.dtype in (dtype, pl.Null):
        return given.cast(dtype), None
    if isinstance(dtype, pl.Datetime) and isinstance(given.dtype, pl.Datetime):
        return _moment(given, dtype), None
    texts = _text(given)
    if dtype == pl.String and (given.dtype.is_numeric() or given.dtype.is_temporal() or given.dtype == pl.Boolean):
        return pl.Series(given.name, [None], dtype=dtype).new_from_index(0, given.len()), texts.is_not_null()
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        read = texts.str.to_datetime("%+", time_unit=dtype.time_unit, time_zone=dtype.time_zone, strict=False)
        if read.null_count() == texts.null_count():
            return read, None
    read = texts.to_frame().select(_parser(pl.col(texts.name), dtype).alias(given.name)).to_series()
    return read, read.is_null() & texts.is_not_null()


def _parser(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Text → type; null where it is none. Whole numbers may be written ``12.0``; NaN and infinity are no numbers."""
    if dtype.is_integer():
        number = text.cast(pl.Float64, strict=False)
        whole = number.is_finite() & (number == number.floor()) & (number.abs() <= _EXACT)
        return pl.coalesce(text.cast(dtype, strict=False), pl.when(whole).then(number.cast(dtype, strict=False)))
    if dtype.is_float():
        number = text.cast(dtype, strict=False)
        return pl.when(number.is_finite()).then(number)
    if dtype == pl.Boolean:
        lower = text.str.to_lowercase()
        return pl.when(lower.is_in(["true", "1"])).then(True).when(lower.is_in(["false", "0"])).then(False)
    if isinstance(dtype, pl.Datetime):
        zone = dtype.time_zone
        # A time without an offset is UTC where UTC is declared, since that is what the source then says of itself.
        ways = _ISO if zone is None else ("%+", *_ISO)
        return pl.coalesce(
            [text.str.to_datetime(way, time_unit=dtype.time_unit, time_zone=zone, strict=False) for way in ways]
        )
    return text.str.to_date("%Y-%m-%d", strict=False) if dtype == pl.Date else text.cast(dtype, strict=False)


def _moment(given: pl.Series, dtype: pl.Datetime) -> pl.Series:
    aware = getattr(given.dtype, "time_zone", None)
    if aware is None and dtype.time_zone is not None:
        given = given.dt.replace_time_zone(dtype.time_zone)
    elif aware is not None and dtype.time_zone is None:
        given = given.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return given.cast(dtype)


def _mixed(name: str, values: list[Any]) -> pl.Series:
    """Values that don't have the declared type: as the type that they all have, or as text."""
    if all(value is None or isinstance(value, bool | int | float) for value in values):
        try:
            return pl.Series(name, values, strict=True)
        except (TypeError, OverflowError):
            pass  # Integers beside floats, or beyond 64 bits.
    return pl.Series(name, [_json_text(value) for value in values], dtype=pl.String)


def _text(given: pl.Series) -> pl.Series:
    if given.dtype.is_nested():
        return pl.Series(given.name, [_json_text(value) for value in given.to_list()], dtype=pl.String)
    return given.cast(pl.String)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict | list | bool) else str(value)
