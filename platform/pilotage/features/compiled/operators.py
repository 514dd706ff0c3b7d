"""Binary operators: arithmetic, comparison, three-valued logic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.features.compiled import arithmetic
from pilotage.features.compiled.values import (
    BOOLEAN,
    FLOAT,
    INTEGERS,
    TEXT,
    Value,
    fits,
    is_duration,
    is_micros,
)

if TYPE_CHECKING:
    from pilotage.features.compiled.compiler import Compiler

_SIGNS = {"Plus": "+", "Minus": "-", "Multiply": "*"}
_COMPARED = ("Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq")
_LOGIC = ("And", "Or", "Xor", "LogicalAnd", "LogicalOr")


def binary(compiler: Compiler, op: object, left: Value, right: Value, dtype: pl.DataType) -> Value:
    """Adds a binary step whose result has a type."""
    if left.scalar and right.scalar:
        raise NotImplementedError
    if op in _COMPARED:
        return compare(compiler, str(op), *_alike(compiler, left, right))
    if op in ("EqValidity", "NotEqValidity"):
        left, right = _alike(compiler, left, right)
        equal = _equal(left, right)
        return _same(compiler, equal, left, right, negated=op == "NotEqValidity")
    if op in _LOGIC:
        if dtype != BOOLEAN:
            raise NotImplementedError
        return logic(compiler, str(op), compiler.as_type(left, BOOLEAN), compiler.as_type(right, BOOLEAN))
    if dtype == FLOAT:
        return _float(compiler, str(op), compiler.as_type(left, FLOAT), compiler.as_type(right, FLOAT))
    if dtype in INTEGERS:
        return _integer(compiler, str(op), compiler.as_type(left, dtype), compiler.as_type(right, dtype), dtype)
    if (is_micros(dtype) or is_duration(dtype)) and op in ("Plus", "Minus"):
        return _time(compiler, _SIGNS[str(op)], left, right, dtype)
    raise NotImplementedError


def _float(compiler: Compiler, op: str, left: Value, right: Value) -> Value:
    """Float arithmetic. With a scalar on one side Polars' kernels take shortcuts that show in the last bit."""
    a, b, operands = left.name, right.name, [left, right]
    if op in _SIGNS:
        if right.scalar and (op in ("Plus", "Minus") and compiler.value_of(right) == 0):
            return compiler.as_type(left, FLOAT)
        if left.scalar and compiler.value_of(left) == 0 and op in ("Plus", "Minus"):
            return right if op == "Plus" else compiler.apply(f"-{b}", [right], FLOAT)
        return compiler.apply(f"{a} {_SIGNS[op]} {b}", operands, FLOAT)
    if op not in ("TrueDivide", "FloorDivide", "Modulus"):
        raise NotImplementedError
    if right.scalar:
        number = compiler.value_of(right)
        if number is None:
            raise NotImplementedError
        inverse = compiler.constant(arithmetic.divide(1.0, number))
        if op == "TrueDivide":
            return compiler.apply(f"{a} * {inverse}", operands, FLOAT)
        whole = compiler.call(arithmetic.floor, [compiler.apply(f"{a} * {inverse}", operands, FLOAT)], FLOAT)
        if op == "FloorDivide":
            return whole
        return compiler.apply(f"{a} - {b} * {whole.name}", operands, FLOAT)
    function = {
        "TrueDivide": arithmetic.divide,
        "FloorDivide": arithmetic.floor_divide,
        "Modulus": arithmetic.modulo,
    }[op]
    return compiler.call(function, operands, FLOAT)


def _integer(compiler: Compiler, op: str, left: Value, right: Value, dtype: pl.DataType) -> Value:
    a, b, operands = left.name, right.name, [left, right]
    low, high = INTEGERS[dtype]
    if op in _SIGNS:
        raw = compiler.apply(f"{a} {_SIGNS[op]} {b}", operands, dtype)
        return _wrapped(compiler, raw, low, high)
    if op not in ("FloorDivide", "Modulus"):
        raise NotImplementedError
    sign = "//" if op == "FloorDivide" else "%"
    by_zero = compiler.apply(f"({a} {sign} {b} if {b} else None)", operands, dtype, nullable=True)
    return _wrapped(compiler, by_zero, low, high)


def _wrapped(compiler: Compiler, raw: Value, low: int, high: int) -> Value:
    wrap = next((n for n, k in compiler.constants.items() if getattr(k, "wraps", None) == (low, high)), None)
    if wrap is None:
        wrap = compiler.constant(_Wrap(low, high))
    text = f"({raw.name} if {low} <= {raw.name} <= {high} else {wrap}({raw.name}))"
    return compiler.apply(text, [raw], raw.dtype)


class _Wrap:
    """``arithmetic.wrap`` that knows its range, so that one is made for each type."""

    def __init__(self, low: int, high: int) -> None:
        self.wraps = (low, high)
        self._wrap = arithmetic.wrap(low, high)

    def __call__(self, value: int) -> int:
        return self._wrap(value)


def _time(compiler: Compiler, sign: str, left: Value, right: Value, dtype: pl.DataType) -> Value:
    """Times and durations, all in microseconds; times of one zone only."""
    for value in (left, right):
        if not (is_duration(value.dtype) or (is_micros(value.dtype) and value.dtype in (left.dtype, dtype))):
            raise NotImplementedError
    if is_micros(left.dtype) and is_micros(right.dtype) and left.dtype != right.dtype:
        raise NotImplementedError
    raw = compiler.apply(f"{left.name} {sign} {right.name}", [left, right], dtype)
    return _wrapped(compiler, raw, *INTEGERS[pl.Int64()])


def _alike(compiler: Compiler, left: Value, right: Value) -> tuple[Value, Value]:
    """Both sides as the type in which Polars compares them."""
    if left.dtype == pl.Null() or right.dtype == pl.Null():
        raise NotImplementedError
    if left.number is not None:
        right, left = _with_number(compiler, right, left)
        return left, right
    if right.number is not None:
        return _with_number(compiler, left, right)
    if left.dtype == right.dtype or (left.dtype in INTEGERS and right.dtype in INTEGERS):
        return left, right
    return compiler.as_type(left, FLOAT), compiler.as_type(right, FLOAT)


def _with_number(compiler: Compiler, value: Value, literal: Value) -> tuple[Value, Value]:
    number = literal.number
    if isinstance(number, int) and value.dtype in INTEGERS and fits(number, value.dtype):
        return value, compiler.scalar(number, value.dtype)
    if value.dtype == FLOAT or (isinstance(number, float) and value.dtype == pl.Int64()):
        return compiler.as_type(value, FLOAT), compiler.as_type(literal, FLOAT)
    raise NotImplementedError


def compare(compiler: Compiler, op: str, left: Value, right: Value) -> Value:
    """A comparison of two values of one type; null where a side is. NaN equals NaN and is above every number."""
    a, b, operands = left.name, right.name, [left, right]
    if op in ("Eq", "NotEq"):
        text = _equal(left, right)
        return compiler.apply(text if op == "Eq" else f"not ({text})", operands, BOOLEAN)
    if op in ("Lt", "LtEq"):
        a, b, left, right = b, a, right, left
    # From here on: a > b, or a >= b.
    if left.dtype not in (FLOAT, pl.Float32()):
        return compiler.apply(f"{a} {'>' if op in ('Gt', 'Lt') else '>='} {b}", operands, BOOLEAN)
    if op in ("Gt", "Lt"):
        return compiler.apply(f"({a} > {b} or ({a} != {a} and {b} == {b}))", operands, BOOLEAN)
    return compiler.apply(f"({a} >= {b} or {a} != {a})", operands, BOOLEAN)


def _equal(left: Value, right: Value) -> str:
    a, b = left.name, right.name
    plain = left.dtype in INTEGERS or left.dtype in (BOOLEAN, TEXT, pl.Date())
    if plain or is_micros(left.dtype) or is_duration(left.dtype):
        return f"{a} == {b}"
    return f"({a} == {b} or ({a} != {a} and {b} != {b}))"


def _same(compiler: Compiler, equal: str, left: Value, right: Value, *, negated: bool) -> Value:
    """Equality in which null equals null."""
    nulls = [f"{value.name} is None" for value in (left, right) if value.nullable]
    if len(nulls) == 2:
        equal = f"({nulls[0]} and {nulls[1]}) if ({nulls[0]} or {nulls[1]}) else {equal}"
    elif nulls:
        equal = f"False if {nulls[0]} else {equal}"
    return compiler.emit(f"not ({equal})" if negated else f"({equal})", BOOLEAN, nullable=False)


def logic(compiler: Compiler, op: str, left: Value, right: Value) -> Value:
    """Kleene's logic: null is unknown, and ``False and unknown`` is false."""
    a, b = left.name, right.name
    if op == "Xor":
        return compiler.apply(f"{a} is not {b}", [left, right], BOOLEAN)
    decisive = "False" if op in ("And", "LogicalAnd") else "True"
    other = "True" if decisive == "False" else "False"
    nulls = [f"{value.name} is None" for value in (left, right) if value.nullable]
    unknown = f"None if {' or '.join(nulls)} else {other}" if nulls else other
    text = f"{decisive} if {a} is {decisive} or {b} is {decisive} else {unknown}"
    return compiler.emit(text, BOOLEAN, nullable=bool(nulls))
