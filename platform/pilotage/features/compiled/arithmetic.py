"""What generated code calls: steps for which Python's own operators give other results than Polars.

Every function takes and gives plain values, none of them null. The formulas are those of Polars' kernels
(``polars-compute``); the property tests hold them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from functools import lru_cache

_INFINITY = math.inf
_NAN = math.nan
_UNIX_DAY = date(1970, 1, 1).toordinal()
_DAY_US = 86_400_000_000
FIRST_US = (date.min.toordinal() - _UNIX_DAY) * _DAY_US
"""The first microsecond of the year 1."""
LAST_US = (date.max.toordinal() - _UNIX_DAY + 1) * _DAY_US - 1
"""The last one of the year 9999."""
_WHOLE = 2.0**52
"""Floats from here on have no fraction."""


def wrap(low: int, high: int) -> Callable[[int], int]:
    """Two's complement overflow into an integer type's range."""
    span = high - low + 1

    def wrapped(value: int) -> int:
        return (value - low) % span + low

    return wrapped


def divide(a: float, b: float) -> float:
    """IEEE 754 division, where Python raises for a zero."""
    if b:
        return a / b
    if not a or math.isnan(a):
        return _NAN
    return math.copysign(_INFINITY, a) * math.copysign(1.0, b)


def floor(x: float) -> float:
    """The same float type, and the sign of zero kept."""
    if not -_WHOLE < x < _WHOLE:  # Whole, infinite, or no number.
        return x
    return math.copysign(float(math.floor(x)), x)


def ceil(x: float) -> float:
    """See ``floor``."""
    if not -_WHOLE < x < _WHOLE:
        return x
    return math.copysign(float(math.ceil(x)), x)


def rint(x: float) -> float:
    """To the nearest whole number, halves to the even one."""
    if not -_WHOLE < x < _WHOLE:
        return x
    return math.copysign(float(round(x)), x)


def rint_to(decimals: int) -> Callable[[float], float]:
    """Rounds to decimals as Polars does: scaled, rounded, and scaled back."""
    scale = 10.0**decimals

    def rounded(x: float) -> float:
        result = rint(x * scale) / scale
        return result if -_INFINITY < result < _INFINITY else x

    return rounded


def floor_divide(a: float, b: float) -> float:
    return floor(divide(a, b))


def modulo(a: float, b: float) -> float:
    return a - b * floor(divide(a, b))


def truncate(low: int, high: int) -> Callable[[float], int]:
    """Float to integer; raises ``OverflowError`` for what does not fit, infinities and NaN among it."""

    def truncated(x: float) -> int:
        if not -_INFINITY < x < _INFINITY:
            raise OverflowError
        whole = int(x)
        if not low <= whole <= high:
            raise OverflowError
        return whole

    return truncated


def truncate_or_null(low: int, high: int) -> Callable[[float], int | None]:
    """``truncate`` with null for what does not fit."""

    def truncated(x: float) -> int | None:
        if not -_INFINITY < x < _INFINITY:
            return None
        whole = int(x)
        return whole if low <= whole <= high else None

    return truncated


def checked(low: int, high: int) -> Callable[[int], int]:
    """An integer as it is; raises ``OverflowError`` for one that does not fit."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise OverflowError
        return value

    return check


def sqrt(x: float) -> float:
    return math.sqrt(x) if x >= 0 else _NAN


def log(x: float) -> float:
    if x > 0:
        return math.log(x)
    return -_INFINITY if x == 0 else _NAN


def log1p(x: float) -> float:
    if x > -1:
        return math.log1p(x)
    return -_INFINITY if x == -1 else _NAN


def exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return _INFINITY


def least(a: float | None, b: float | None) -> float | None:
    """Of two, nulls and NaN aside; of two that are equal the second, which tells the zeros apart."""
    if a is None or b is None:
        return b if a is None else a
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return a if a < b else b


def greatest(a: float | None, b: float | None) -> float | None:
    """See ``least``."""
    if a is None or b is None:
        return b if a is None else a
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return a if a > b else b


def far(micros: int) -> int:
    """A time outside the years 1 to 9999: Polars decides what it is on clock and calendar."""
    raise OverflowError(micros)


@lru_cache(maxsize=4096)
def date_of(day: int) -> date:
    """Raises ``ValueError`` or ``OverflowError`` outside the years 1 to 9999."""
    return date.fromordinal(day + _UNIX_DAY)


def ascii_lower(text: str) -> str:
    """Raises ``ValueError`` for text whose letters depend on the version of Unicode."""
    if not text.isascii():
        raise ValueError
    return text.lower()
