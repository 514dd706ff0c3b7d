"""What stands for a value while an expression is compiled, and what is known of the types.

A value of one row is held as: integers and booleans as Python's, floats (of both widths) as Python's, text as ``str``,
times and durations as microseconds, dates as days since 1970, null as ``None``.

Whatever is not proved to give Polars' bits (a step, or a combination of types) is a ``NotImplementedError``, which
never leaves this package: it turns a feature over to Polars.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

FLOAT = pl.Float64()
BOOLEAN = pl.Boolean()
TEXT = pl.String()

INTEGERS: dict[pl.DataType, tuple[int, int]] = {
    pl.Int8(): (-(2**7), 2**7 - 1),
    pl.Int16(): (-(2**15), 2**15 - 1),
    pl.Int32(): (-(2**31), 2**31 - 1),
    pl.Int64(): (-(2**63), 2**63 - 1),
    pl.UInt32(): (0, 2**32 - 1),
}
"""Integer types that are compiled, with the least and the greatest value; UInt32 is what counting letters gives."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the generated code."""

    name: str
    """Of the variable or constant that holds it."""
    dtype: pl.DataType
    nullable: bool = True
    scalar: bool = False
    """Whether it is the same in every row. Polars computes with such a value by other formulas than with a column."""
    number: int | float | None = None
    """Of an untyped literal such as ``30``, which takes the type that its neighbour suggests."""


def is_micros(dtype: pl.DataType) -> bool:
    """Whether it is a time in microseconds."""
    return isinstance(dtype, pl.Datetime) and dtype.time_unit == "us"


def is_duration(dtype: pl.DataType) -> bool:
    """Whether it is a duration in microseconds."""
    return isinstance(dtype, pl.Duration) and dtype.time_unit == "us"


def is_known(dtype: pl.DataType) -> bool:
    """Whether values of this type can be held at all."""
    plain = dtype in INTEGERS or dtype in (FLOAT, pl.Float32(), BOOLEAN, TEXT, pl.Date(), pl.Null())
    return plain or is_micros(dtype) or is_duration(dtype)


def fits(number: int, dtype: pl.DataType) -> bool:
    """Whether an integer type can hold a number."""
    low, high = INTEGERS[dtype]
    return low <= number <= high


def widens(source: pl.DataType, target: pl.DataType) -> bool:
    """Whether every value of one integer type is one of the other."""
    (low, high), (least, greatest) = INTEGERS[source], INTEGERS[target]
    return least <= low and high <= greatest
