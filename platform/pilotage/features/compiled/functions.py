"""Functions of one row's values: nulls, limits, rounding, times, text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from pilotage.features.compiled import arithmetic, operators, zones
from pilotage.features.compiled.values import (
    BOOLEAN,
    FLOAT,
    INTEGERS,
    TEXT,
    Value,
    is_duration,
    is_micros,
)

if TYPE_CHECKING:
    from pilotage.features.compiled.compiler import Compiler

_CLOCK = {"Hour": "{minutes} // 60 % 24", "Minute": "{minutes} % 60", "Second": "{micros} // 1000000 % 60"}
_CALENDAR = {"Year": ".year", "Month": ".month", "Day": ".day", "OrdinalDay": ".timetuple().tm_yday"}
_TOTALS = {
    "TotalDays": 86_400_000_000,
    "TotalHours": 3_600_000_000,
    "TotalMinutes": 60_000_000,
    "TotalSeconds": 1_000_000,
    "TotalMilliseconds": 1_000,
    "TotalMicroseconds": 1,
}
_FLOATS: dict[str, Callable[[float], float]] = {
    "Floor": arithmetic.floor,
    "Ceil": arithmetic.ceil,
    "Exp": arithmetic.exp,
    "Log1p": arithmetic.log1p,
}
_E = 2.718281828459045
_MOST_DECIMALS = 22
"""Up to here a power of ten is a double; how Polars gets at a larger one shows in the last bit."""


def function(compiler: Compiler, tree: Any, inputs: Any, dtype: pl.DataType) -> Value:
    """Adds a function's step whose result has a type."""
    name, options = _named(tree)
    if not isinstance(inputs, list):
        raise NotImplementedError
    operands = [compiler.compile(each) for each in inputs]
    if name == "Boolean":
        return _boolean(compiler, options, operands)
    if name == "TemporalExpr":
        return _temporal(compiler, options, operands, dtype)
    if name == "StringExpr":
        return _text(compiler, options, operands, dtype)
    if name in ("FillNull", "Coalesce"):
        return _first_known(compiler, [compiler.as_type(each, dtype) for each in operands], dtype)
    if name == "Clip":
        return _clip(compiler, options, operands, dtype)
    if name in ("MinHorizontal", "MaxHorizontal"):
        return _extreme(compiler, [compiler.as_type(each, dtype) for each in operands], dtype, name)
    if name == "Shift":
        return _unshifted(compiler, *operands)
    if operands[0].scalar or operands[0].dtype != dtype:
        raise NotImplementedError
    if name in ("Abs", "Negate"):
        return _signed(compiler, name, operands[0])
    if dtype in INTEGERS and name in ("Floor", "Ceil", "Round"):
        return operands[0]
    return _of_float(compiler, name, options, operands)


def _of_float(compiler: Compiler, name: str, options: Any, operands: list[Value]) -> Value:
    value = operands[0]
    if value.dtype != FLOAT:
        raise NotImplementedError
    if name in _FLOATS and len(operands) == 1:
        return compiler.call(_FLOATS[name], [value], FLOAT)
    if name == "Pow" and options == "Sqrt":
        return compiler.call(arithmetic.sqrt, [value], FLOAT)
    if name == "Log" and compiler.value_of(operands[1]) == _E:
        return compiler.call(arithmetic.log, [value], FLOAT)
    if name == "Round" and options["mode"] == "HalfToEven" and (decimals := options["decimals"]) <= _MOST_DECIMALS:
        return compiler.call(arithmetic.rint_to(decimals) if decimals else arithmetic.rint, [value], FLOAT)
    raise NotImplementedError


def _named(tree: Any) -> tuple[str, Any]:
    """``"Abs"`` and ``{"Round": {…}}`` are both functions."""
    if isinstance(tree, str):
        return tree, None
    if isinstance(tree, dict) and len(tree) == 1:
        ((name, options),) = tree.items()
        return name, options
    raise NotImplementedError


def _boolean(compiler: Compiler, tree: Any, operands: list[Value]) -> Value:
    name, options = _named(tree)
    value = operands[0]
    match name:
        case "IsNull":
            return compiler.emit(f"{value.name} is None", BOOLEAN, nullable=False)
        case "IsNotNull":
            return compiler.emit(f"{value.name} is not None", BOOLEAN, nullable=False)
        case "Not" if value.dtype == BOOLEAN:
            return compiler.apply(f"not {value.name}", [value], BOOLEAN)
        case "IsNan" if value.dtype == FLOAT:
            return compiler.apply(f"{value.name} != {value.name}", [value], BOOLEAN)
        case "IsNotNan" if value.dtype == FLOAT:
            return compiler.apply(f"{value.name} == {value.name}", [value], BOOLEAN)
        case "IsFinite" if value.dtype == FLOAT:
            return compiler.apply(f"{value.name} - {value.name} == 0", [value], BOOLEAN)
        case "IsInfinite" if value.dtype == FLOAT:
            return compiler.apply(
                f"({value.name} == {value.name} and {value.name} - {value.name} != 0)", [value], BOOLEAN
            )
        case "IsBetween":
            return _is_between(compiler, operands, options)
        case "AllHorizontal" | "AnyHorizontal":
            if any(each.dtype != BOOLEAN for each in operands):
                raise NotImplementedError
            for each in operands[1:]:
                value = operators.logic(compiler, "And" if name == "AllHorizontal" else "Or", value, each)
            return value
        case "IsIn":
            return _is_in(compiler, value, operands[1], options)
    raise NotImplementedError


def _is_between(compiler: Compiler, operands: list[Value], options: Any) -> Value:
    value, *bounds = operands
    if any(bound.scalar and compiler.value_of(bound) is None for bound in bounds):
        # Null in every row, also where the other bound alone would say no.
        raise NotImplementedError
    low = "Gt" if options["closed"] in ("None", "Right") else "GtEq"
    high = "Lt" if options["closed"] in ("None", "Left") else "LtEq"
    above, below = (
        operators.binary(compiler, op, value, bound, BOOLEAN) for op, bound in zip((low, high), bounds, strict=True)
    )
    return operators.logic(compiler, "And", above, below)


def _is_in(compiler: Compiler, value: Value, listed: Value, options: Any) -> Value:
    if value.scalar or not isinstance(listed.dtype, pl.List) or options["nulls_equal"]:
        raise NotImplementedError
    if listed.dtype.inner != value.dtype or value.dtype not in (TEXT, BOOLEAN, FLOAT, pl.Int64()):
        raise NotImplementedError
    members = {member for member in compiler.value_of(listed) if member is not None}
    # NaN equals NaN here, and in no set of Python's.
    text = f"{value.name} in {compiler.constant(frozenset(members))}"
    if any(isinstance(member, float) and math.isnan(member) for member in members):
        text = f"({text} or {value.name} != {value.name})"
    return compiler.apply(text, [value], BOOLEAN)


def _unshifted(compiler: Compiler, value: Value, rows: Value) -> Value:
    """What ``plain.py`` makes a column of is one here, whatever it holds."""
    if compiler.value_of(rows) != 0:
        raise NotImplementedError
    return Value(value.name, value.dtype, value.nullable)


def _first_known(compiler: Compiler, values: list[Value], dtype: pl.DataType) -> Value:
    result = values[-1]
    for value in reversed(values[:-1]):
        if value.nullable:
            text = f"{result.name} if {value.name} is None else {value.name}"
            result = compiler.emit(text, dtype, nullable=result.nullable)
        else:
            result = value
    return result


def _clip(compiler: Compiler, options: Any, operands: list[Value], dtype: pl.DataType) -> Value:
    """Below the minimum it is the minimum, even where that is above the maximum; a limit that is null is none."""
    value = operands[0]
    if value.scalar or value.dtype != dtype or not (dtype == FLOAT or dtype in INTEGERS):
        raise NotImplementedError
    limits = [compiler.as_type(each, dtype) for each in operands[1:]]
    if not all(limit.scalar and compiler.value_of(limit) is not None for limit in limits):
        raise NotImplementedError
    x = value.name
    if options["has_min"] and options["has_max"]:
        low, high = (limit.name for limit in limits)
        return compiler.apply(f"({low} if {x} < {low} else {high} if {x} > {high} else {x})", [value], dtype)
    limit, sign = limits[0].name, "<" if options["has_min"] else ">"
    return compiler.apply(f"({limit} if {x} {sign} {limit} else {x})", [value], dtype)


def _extreme(compiler: Compiler, values: list[Value], dtype: pl.DataType, name: str) -> Value:
    if not (dtype == FLOAT or dtype in INTEGERS) or any(value.scalar for value in values):
        raise NotImplementedError
    choose = compiler.constant(arithmetic.least if name == "MinHorizontal" else arithmetic.greatest)
    result = values[0]
    for value in values[1:]:
        result = compiler.emit(f"{choose}({result.name}, {value.name})", dtype, nullable=True)
    return result


def _signed(compiler: Compiler, name: str, value: Value) -> Value:
    if value.dtype == FLOAT:
        function = f"{compiler.constant(abs)}({value.name})" if name == "Abs" else f"-{value.name}"
        return compiler.apply(function, [value], FLOAT)
    if value.dtype not in INTEGERS or value.dtype == pl.UInt32():
        raise NotImplementedError
    low, _ = INTEGERS[value.dtype]
    # The least integer has no counterpart, and stays as it is.
    text = f"({value.name} if {value.name} == {low} else -{value.name})"
    if name == "Abs":
        text = f"({value.name} if {value.name} >= 0 or {value.name} == {low} else -{value.name})"
    return compiler.apply(text, [value], value.dtype)


def _temporal(compiler: Compiler, tree: Any, operands: list[Value], dtype: pl.DataType) -> Value:
    name, options = _named(tree)
    value = operands[0]
    if value.scalar or len(operands) != 1:
        raise NotImplementedError
    if name in _TOTALS and is_duration(value.dtype) and not options["fractional"]:
        x, unit = value.name, _TOTALS[name]
        return compiler.apply(f"({x} // {unit} if {x} >= 0 else -(-{x} // {unit}))", [value], dtype)
    if name == "ConvertTimeZone" and is_micros(value.dtype) and is_micros(dtype):
        return Value(value.name, dtype, value.nullable)
    if name == "TimeStamp" and options == "Microseconds" and is_micros(value.dtype):
        return Value(value.name, dtype, value.nullable)
    if name in _CLOCK and is_micros(value.dtype):
        local = _local(compiler, value)
        minutes = _minutes(compiler, local) if name != "Second" else local
        return compiler.apply(_CLOCK[name].format(minutes=minutes.name, micros=local.name), [local], dtype)
    day = _day(compiler, value)
    if name == "WeekDay":
        return compiler.apply(f"({day.name} + 3) % 7 + 1", [day], dtype)
    if name in _CALENDAR:
        date = compiler.call(arithmetic.date_of, [day], pl.Date())
        return compiler.apply(f"{date.name}{_CALENDAR[name]}", [date], dtype)
    if name == "Date":
        return day
    raise NotImplementedError


def _local(compiler: Compiler, value: Value) -> Value:
    """Microseconds of the clock on the wall."""
    zone = value.dtype.time_zone if isinstance(value.dtype, pl.Datetime) else None
    if zone in (None, "UTC"):
        # Far beyond, at the ends of 64 bits, Polars has no calendar, and no clock either.
        far, x = compiler.shared(arithmetic.far), value.name
        text = f"({x} if {arithmetic.FIRST_US} <= {x} <= {arithmetic.LAST_US} else {far}({x}))"
        return compiler.apply(text, [value], value.dtype)
    return compiler.call(zones.to_local(str(zone)), [value], pl.Datetime("us"))


def _day(compiler: Compiler, value: Value) -> Value:
    """Days since 1970 on the wall's calendar."""
    if value.dtype == pl.Date():
        return value
    if not is_micros(value.dtype):
        raise NotImplementedError
    minutes = _minutes(compiler, _local(compiler, value))
    return compiler.apply(f"{minutes.name} // 1440", [minutes], pl.Date())


def _minutes(compiler: Compiler, micros: Value) -> Value:
    """Whole minutes: so small that Python divides them again in a third of the time."""
    return compiler.apply(f"{micros.name} // 60000000", [micros], pl.Int64())


def _text(compiler: Compiler, tree: Any, operands: list[Value], dtype: pl.DataType) -> Value:
    name, options = _named(tree)
    value = operands[0]
    if value.dtype != TEXT or value.scalar:
        raise NotImplementedError
    if len(operands) == 1:
        match name:
            case "LenChars":
                return compiler.call(len, [value], dtype)
            case "Lowercase":
                return compiler.call(arithmetic.ascii_lower, [value], dtype)
        raise NotImplementedError
    pattern = operands[1]
    if len(operands) != 2 or pattern.dtype != TEXT or not isinstance(compiler.value_of(pattern), str):
        raise NotImplementedError
    match name:
        case "Contains" if options["literal"]:
            return compiler.apply(f"{pattern.name} in {value.name}", [value], dtype)
        case "StartsWith":
            return compiler.apply(f"{value.name}.startswith({pattern.name})", [value], dtype)
        case "EndsWith":
            return compiler.apply(f"{value.name}.endswith({pattern.name})", [value], dtype)
    raise NotImplementedError
