"""What a request must look like. Strict: nothing is guessed, coerced or ignored, and what is wrong is named."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
import polars as pl

from pilotage.errors import InvalidRequest
from pilotage.spec import RequestField

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})?")
_TIMES = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z(?:\n|\Z))++")
"""Several of them, one a line, that all end in Z."""
_INT64 = range(-(2**63), 2**63)
_YEARS = range(1900, 2200)
"""Years of a time field. At the ends of what ``datetime`` can hold no feature can be computed, and none is meant."""
_LONGEST_TEXT = 1_000
"""Characters of a text field; longer ones are an attack or a mistake."""
_UTC_FIX = "Send UTC, such as 2013-02-28T10:15:00Z."
_UNCONVERTED = (msgspec.ValidationError, UnicodeEncodeError, OverflowError, RecursionError)
"""What converting a request raises for values that must be looked at more closely."""
_N = TypeVar("_N", int, float)


class Contract:
    """The request of one model, compiled from its fields."""

    def __init__(self, fields: Sequence[RequestField]) -> None:
        self.fields = {field.name: field for field in fields}
        self.schema = pl.Schema({field.name: field.dtype for field in fields})
        self._checks = {field.name: _check_of(field) for field in fields}
        self._shape = _shape_of(fields)
        self._shapes: Any = list[self._shape]  # type: ignore[name-defined]
        self._times = [slot for slot, field in enumerate(fields) if field.dtype.is_temporal()]
        self._texts = [slot for slot, field in enumerate(fields) if field.dtype == pl.String() and not field.one_of]
        self._ordered = tuple(fields)

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        """Checks decoded JSON objects, and gives them as a typed frame, one row per object.

        A nullable field may be null or left out.

        Raises:
            InvalidRequest: The first thing that is wrong, with ``field``, ``value`` and, for several rows, ``row``.
        """
        checked = []
        for index, row in enumerate(rows):
            try:
                checked.append(self.row(row))
            except InvalidRequest as error:
                if len(rows) == 1:
                    raise
                details = {**error.details, "row": index}
                raise InvalidRequest(f"Row {index}: {error.message}", fix=error.fix, **details) from None
        return pl.DataFrame(checked, schema=self.schema, orient="row")

    def check_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Checks typed rows (a lake table, a notebook's frame), and gives the request's columns of them.

        Raises:
            InvalidRequest: As in ``frame``.
        """
        for name, dtype in self.schema.items():
            if name not in frame.columns:
                raise InvalidRequest(f"{name} is missing.", fix=f"Give {_wanted(self.fields[name])}.", field=name)
            if frame.schema[name] != dtype:
                raise InvalidRequest(
                    f"{name} is {frame.schema[name]}, not {dtype}.", fix="Cast the column.", field=name
                )
        frame = frame.select(self.schema.names())
        for name, field in self.fields.items():
            wrong = frame.select(_is_wrong(field)).to_series().arg_true()
            if len(wrong):
                row = int(wrong[0])
                raise _invalid(field, frame[name][row], "does not fit", f"Give {_wanted(field)}.", row=row)
        return frame

    def row(self, row: Mapping[str, Any]) -> list[Any]:
        """Checks one decoded JSON object, and gives its values in the order of the fields; times are in UTC.

        Raises:
            InvalidRequest: The first thing that is wrong, with ``field`` and ``value``.
        """
        # A third of the time of the checks below, which say what is wrong; a property test holds them together.
        try:
            values = list(msgspec.structs.astuple(msgspec.convert(row, self._shape)))
        except _UNCONVERTED:
            return self.explained(row)
        for slot in self._texts:
            if values[slot] is not None and not values[slot].isascii():
                return self.explained(row)
        for slot in self._times:
            if values[slot] is not None:
                values[slot] = _time(self._ordered[slot], values[slot])
            elif not self._ordered[slot].nullable:
                return self.explained(row)
        return values

    def columns(self, rows: Sequence[Any]) -> tuple[list[list[Any]], dict[int, InvalidRequest]]:
        """``row`` of several: by field the values of those that keep the contract, and by place what is wrong with each
        of the others."""
        if (columns := self._all_well(rows)) is not None:
            return columns, {}
        checked: list[list[Any]] = []
        errors: dict[int, InvalidRequest] = {}
        for place, row in enumerate(rows):
            try:
                checked.append(self.row(row))
            except InvalidRequest as error:
                errors[place] = error
        return _transposed(checked, len(self._ordered)), errors

    def _all_well(self, rows: Sequence[Any]) -> list[list[Any]] | None:
        """The values of rows by field; ``None`` if one of them must be looked at more closely."""
        try:
            converted = msgspec.convert(rows, self._shapes)
        except _UNCONVERTED:
            return None
        columns = _transposed(list(map(msgspec.structs.astuple, converted)), len(self._ordered))
        for slot in self._texts:
            if not "".join(filter(None, columns[slot])).isascii():
                return None
        for slot in self._times:
            moments = _plain_times(columns[slot]) or _times(self._ordered[slot], columns[slot])
            if moments is None:
                return None
            columns[slot] = moments
        return columns

    def explained(self, row: Any) -> list[Any]:
        """``row`` by checks that can say what is wrong."""
        if not isinstance(row, Mapping):
            raise InvalidRequest(
                f"The request is {_json_name(row)}, not an object.", fix="Send one JSON object of fields."
            )
        if unknown := row.keys() - self.fields.keys():
            name = sorted(map(str, unknown))[0][:100]
            raise InvalidRequest(f"There is no field {name!r}.", fix=f"Use only: {', '.join(self.fields)}.", field=name)
        return [check(row) for check in self._checks.values()]


def _transposed(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _shape_of(fields: Sequence[RequestField]) -> type[msgspec.Struct]:
    """What a request of the right types and ranges can be converted to; times, and odd texts, must be looked at."""
    declared: list[tuple[str, Any, Any]] = []
    for slot, field in enumerate(fields):
        kind = _kind_of(field)
        wanted = kind | None if field.nullable and kind is not Any else kind
        declared.append((f"f{slot}", wanted, None if field.nullable else msgspec.NODEFAULT))
    names = {f"f{slot}": field.name for slot, field in enumerate(fields)}
    return msgspec.defstruct(
        "Request", declared, rename=names, forbid_unknown_fields=True, kw_only=True, frozen=True, gc=False
    )


def _kind_of(field: RequestField) -> Any:
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum
    if field.dtype == pl.Int64():
        least, greatest = math.ceil(max(low, _INT64[0])), math.floor(min(high, _INT64[-1]))
        if least > greatest:
            least, greatest = 1, 0  # No integer is in the range, and bounds must be integers of 64 bits.
        return Annotated[int, msgspec.Meta(ge=least, le=greatest)]
    if field.dtype == pl.Float64():
        # Neither NaN nor an infinity is within these.
        finite = sys.float_info.max
        return Annotated[float, msgspec.Meta(ge=max(low, -finite), le=min(high, finite))]
    if field.dtype == pl.String():
        return Literal[field.one_of] if field.one_of else Annotated[str, msgspec.Meta(max_length=_LONGEST_TEXT)]
    return bool if field.dtype == pl.Boolean() else Any


def _check_of(field: RequestField) -> Callable[[Mapping[str, Any]], Any]:
    parse = {
        pl.String(): _text,
        pl.Int64(): _integer,
        pl.Float64(): _number,
        pl.Boolean(): _boolean,
        pl.Datetime("us", "UTC"): _time,
    }[field.dtype]

    def check(row: Mapping[str, Any]) -> Any:
        value = row.get(field.name)
        if value is None:
            if field.nullable:
                return None
            if field.name not in row:
                raise InvalidRequest(
                    f"{field.name} is missing.", fix=f"Send {_wanted(field)}.", field=field.name
                ) from None
            raise _invalid(field, value, "is not allowed", f"Send {_wanted(field)}.")
        return parse(field, value)

    return check


def _text(field: RequestField, value: Any) -> str:
    if not isinstance(value, str):
        _wrong_type(field, value)
    if field.one_of and value not in field.one_of:
        raise _invalid(field, value, "is none of the allowed values", f"Use one of: {', '.join(field.one_of)}.")
    if len(value) > _LONGEST_TEXT:
        raise _invalid(field, value[:40], "is too long", f"Send at most {_LONGEST_TEXT} characters.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _invalid(field, value, "is no Unicode text", "Send no lone surrogates.") from None
    return value


def _integer(field: RequestField, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong_type(field, value)
    if value not in _INT64:
        raise _invalid(field, value, "does not fit 64 bits", f"Send {_wanted(field)}.")
    return _in_range(field, value)


def _number(field: RequestField, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _wrong_type(field, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _invalid(field, value, "is not a finite number", f"Send {_wanted(field)}.")
    return _in_range(field, number)


def _in_range(field: RequestField, value: _N) -> _N:
    if (field.minimum is not None and value < field.minimum) or (field.maximum is not None and value > field.maximum):
        raise _invalid(field, value, "is out of range", f"Send {_wanted(field)}.")
    return value


def _boolean(field: RequestField, value: Any) -> bool:
    if not isinstance(value, bool):
        _wrong_type(field, value)
    return value


def _time(field: RequestField, value: Any) -> datetime:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value) if _TIME.fullmatch(value) else _no_time(field, value)
        except ValueError:
            _no_time(field, value)
    else:
        _wrong_type(field, value)
    if moment.tzinfo is not UTC:
        offset = moment.utcoffset()
        if offset is None:
            raise _invalid(field, value, "has no time zone", _UTC_FIX)
        if offset != timedelta(0):
            raise _invalid(field, value, "is not in UTC", _UTC_FIX)
        moment = moment.replace(tzinfo=UTC)
    if moment.year not in _YEARS:
        raise _invalid(field, value, "is out of range", f"Send a year from {_YEARS[0]} to {_YEARS[-1]}.")
    return moment


def _plain_times(values: list[Any]) -> list[datetime] | None:
    """``_time`` of texts that end in Z, in a third of the time; ``None`` if some must be looked at one by one."""
    try:
        if _TIMES.fullmatch("\n".join(values)) is None:
            return None
        # Texts of several lines are none to it.
        moments = list(map(datetime.fromisoformat, values))
    except (TypeError, ValueError):
        return None
    return moments if min(moments).year in _YEARS and max(moments).year in _YEARS else None


def _times(field: RequestField, values: list[Any]) -> list[datetime | None] | None:
    """``_time`` of each value; ``None`` if one is wrong."""
    if not field.nullable and None in values:
        return None
    try:
        return [None if value is None else _time(field, value) for value in values]
    except InvalidRequest:
        return None


def _no_time(field: RequestField, value: Any) -> NoReturn:
    raise _invalid(field, value, "is no time", _UTC_FIX)


def _wrong_type(field: RequestField, value: Any) -> NoReturn:
    raise _invalid(field, value, f"is {_json_name(value)}", f"Send {_wanted(field)}.")


def _invalid(field: RequestField, value: Any, what: str, fix: str, **more: object) -> InvalidRequest:
    try:
        shown = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits.
        shown = "a huge number"
    shown = shown if len(shown) <= 100 else shown[:97] + "…"
    return InvalidRequest(f"{field.name}={shown} {what}.", fix=fix, field=field.name, value=shown, **more)


def _wanted(field: RequestField) -> str:
    """What a field wants, in words: ``an integer from 0 to 1439``."""
    if field.one_of:
        return f"one of {', '.join(field.one_of)}"
    words = {
        pl.String(): "a text",
        pl.Int64(): "an integer",
        pl.Float64(): "a finite number",
        pl.Boolean(): "true or false",
        pl.Datetime("us", "UTC"): "a time in UTC (2013-02-28T10:15:00Z)",
    }[field.dtype]
    low, high = (None if limit is None else f"{limit:g}" for limit in (field.minimum, field.maximum))
    if low and high:
        words += f" from {low} to {high}"
    elif low or high:
        words += f" of at least {low}" if low else f" of at most {high}"
    return words + (" or null" if field.nullable else "")


def _json_name(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _is_wrong(field: RequestField) -> pl.Expr:
    column = pl.col(field.name)
    wrong = pl.lit(value=False) if field.nullable else column.is_null()
    if field.dtype == pl.Float64:
        wrong |= column.is_finite().not_().fill_null(value=False)
    if field.dtype.is_temporal():
        wrong |= column.dt.year().is_between(_YEARS[0], _YEARS[-1]).not_().fill_null(value=False)
    if field.minimum is not None:
        wrong |= (column < field.minimum).fill_null(value=False)
    if field.maximum is not None:
        wrong |= (column > field.maximum).fill_null(value=False)
    if field.one_of:
        wrong |= column.is_in(list(field.one_of)).not_().fill_null(value=False)
    return wrong
