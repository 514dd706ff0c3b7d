"""Expressions as features are made of, at random, and rows of values for them: with all that computers get wrong."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import strategies as st

COLUMNS: dict[str, pl.DataType] = {
    "x": pl.Float64(),
    "y": pl.Float64(),
    "i": pl.Int64(),
    "j": pl.Int64(),
    "small": pl.Int32(),
    "single": pl.Float32(),
    "p": pl.Boolean(),
    "q": pl.Boolean(),
    "s": pl.String(),
    "z": pl.String(),
    "at": pl.Datetime("us", "UTC"),
    "then": pl.Datetime("us", "UTC"),
    "day": pl.Date(),
}
ZONES = ("America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/London")
MINUTE = timedelta(minutes=1)


def since_1970(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# Values, with the ones that computers get wrong.

odd_floats = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, 1e-310, 1e300, -1e300, 2.0**53, math.inf, -math.inf, math.nan]
odd_floats += [2.0**63, -(2.0**63), 49.0, 2.675, 0.1]
odd_integers = [0, 1, -1, 7, -7, 127, 128, 2**31, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63)]
floats = st.one_of(st.none(), st.sampled_from(odd_floats), st.floats(), st.floats(-1000, 1000))
integers = st.one_of(st.none(), st.sampled_from(odd_integers), st.integers(-(2**63), 2**63 - 1), st.integers(-50, 50))
flags = st.sampled_from([True, False, None])
texts = st.one_of(
    st.none(), st.sampled_from(["", "a", "A", "ab", "é", "İ", "x\x00y", "😀"]), st.text("abX é", max_size=4)
)
# Around the hours in which clocks change, and anywhere from 1900 on.
changes = [
    datetime(2013, 3, 10, 7, tzinfo=UTC),
    datetime(2013, 11, 3, 6, tzinfo=UTC),
    datetime(2024, 3, 31, 1, tzinfo=UTC),
]
moments = st.one_of(
    st.none(),
    st.integers(since_1970(datetime(1900, 1, 1, tzinfo=UTC)), since_1970(datetime(2199, 12, 31, tzinfo=UTC))),
    st.builds(
        lambda change, us: since_1970(change) + us,
        st.sampled_from(changes),
        st.one_of(st.integers(-2, 2), st.integers(-7_200_000_000, 7_200_000_000)),
    ),
)  # fmt: skip
days = st.one_of(st.none(), st.integers(-25_000, 80_000))
singles = st.one_of(st.none(), st.floats(width=32))
rows = st.tuples(
    floats, floats, integers, integers, st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), singles,
    flags, flags, texts, texts, moments, moments, days,
)  # fmt: skip
frames = st.lists(rows, min_size=2, max_size=6)

# Expressions by what they give. Each grows from columns and literals to a small depth.


def grown(depth: int) -> dict[str, st.SearchStrategy[pl.Expr]]:
    if depth == 0:
        return {
            "float": st.sampled_from([pl.col("x"), pl.col("y"), pl.col("single").cast(pl.Float64)]),
            "integer": st.sampled_from([pl.col("i"), pl.col("j"), pl.col("small").cast(pl.Int64)]),
            "flag": st.sampled_from([pl.col("p"), pl.col("q")]),
            "text": st.sampled_from([pl.col("s"), pl.col("z")]),
            "time": st.sampled_from([pl.col("at"), pl.col("then")]),
            "span": st.just(pl.col("at") - pl.col("then")),
        }
    under = grown(depth - 1)
    float_, integer, flag, text, time, span = (
        under[kind] for kind in ("float", "integer", "flag", "text", "time", "span")
    )
    number = st.one_of(float_, integer)
    float_literal = st.sampled_from([value for value in odd_floats if math.isfinite(value)])
    whole_literal = st.sampled_from([0, 1, -1, 2, 7, 60, 1000, 2**40])
    typed_null = st.sampled_from([pl.lit(None, pl.Float64), pl.lit(None, pl.Int64)])
    zoned = st.builds(lambda t, zone: t.dt.convert_time_zone(zone), time, st.sampled_from(ZONES))
    clock = st.one_of(time, zoned)
    arithmetic = st.sampled_from(["add", "sub", "mul", "truediv", "floordiv", "mod"])
    whole_arithmetic = st.sampled_from(["add", "sub", "mul", "floordiv", "mod"])
    compared = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "eq_missing", "ne_missing"])
    return {
        "float": st.one_of(
            float_,
            st.builds(binary, arithmetic, float_, st.one_of(number, float_literal, whole_literal)),
            st.builds(binary, arithmetic, integer, st.one_of(float_, float_literal)),
            st.builds(flipped, arithmetic, float_, st.one_of(float_literal, whole_literal)),
            st.builds(lambda a, b: a / b, integer, st.one_of(integer, whole_literal)),
            st.builds(
                call, float_, st.sampled_from(["abs", "floor", "ceil", "sqrt", "log", "log1p", "exp", "__neg__"])
            ),
            st.builds(lambda e, d: e.round(d), float_, st.one_of(st.integers(0, 4), st.integers(0, 330))),
            st.builds(lambda e, a, b: e.clip(min(a, b), max(a, b)), float_, float_literal, float_literal),
            st.builds(lambda e, a: e.clip(a), float_, st.one_of(float_literal, whole_literal)),
            st.builds(lambda e, a: e.clip(upper_bound=a), float_, float_literal),
            st.builds(lambda e, a: e.fill_null(a), float_, st.one_of(float_, integer, float_literal, whole_literal)),
            st.builds(lambda e, a: e.fill_nan(a), float_, st.one_of(st.none(), float_literal)),
            st.builds(pl.coalesce, float_, number, number),
            st.builds(pl.coalesce, float_, float_literal),
            st.builds(binary, arithmetic, float_, st.builds(choose, flag, float_literal, float_literal)),
            st.builds(pl.min_horizontal, float_, float_, number),
            st.builds(pl.max_horizontal, float_, float_, number),
            st.builds(
                choose,
                flag,
                st.one_of(float_, float_literal),
                st.one_of(number, float_literal, whole_literal, st.none()),
            ),
            st.builds(lambda e: e.cast(pl.Float64), st.one_of(integer, flag)),
        ),
        "integer": st.one_of(
            integer,
            st.builds(binary, whole_arithmetic, integer, st.one_of(integer, whole_literal)),
            st.builds(flipped, whole_arithmetic, integer, whole_literal),
            st.builds(call, integer, st.sampled_from(["abs", "__neg__", "floor", "ceil", "round"])),
            st.builds(lambda e, strict: e.cast(pl.Int64, strict=strict), float_, st.booleans()),
            st.builds(
                lambda e, dtype, strict: e.cast(dtype, strict=strict).cast(pl.Int64),
                integer,
                st.sampled_from([pl.Int8, pl.Int16, pl.Int32]),
                st.booleans(),
            ),
            st.builds(lambda e: e.cast(pl.Int16, wrap_numerical=True).cast(pl.Int64), integer),
            st.builds(lambda e: e.cast(pl.Int64), st.one_of(flag, time)),
            st.builds(lambda e, a, b: e.clip(min(a, b), max(a, b)), integer, whole_literal, whole_literal),
            st.builds(lambda e, a: e.fill_null(a), integer, st.one_of(integer, whole_literal)),
            st.builds(pl.min_horizontal, integer, integer),
            st.builds(pl.max_horizontal, integer, integer),
            st.builds(choose, flag, st.one_of(integer, whole_literal), st.one_of(integer, st.none())),
            st.builds(
                lambda e, part: getattr(e.dt, part)().cast(pl.Int64),
                clock,
                st.sampled_from(["hour", "minute", "second", "weekday", "day", "month", "year", "ordinal_day"]),
            ),
            st.builds(lambda e, k: e.dt.hour() * 3 + k, clock, st.integers(0, 100)).map(lambda e: e.cast(pl.Int64)),
            st.builds(
                lambda e, unit: getattr(e.dt, f"total_{unit}")(),
                span,
                st.sampled_from(["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"]),
            ),
            st.just(pl.col("day").dt.weekday().cast(pl.Int64)),
            st.just(pl.col("day").dt.year().cast(pl.Int64)),
            st.builds(lambda e: e.str.len_chars().cast(pl.Int64), text),
            st.builds(lambda e: (e.str.len_chars() - 2).cast(pl.Int64), text),
        ),
        "flag": st.one_of(
            flag,
            st.builds(binary, compared, number, st.one_of(number, float_literal, whole_literal)),
            st.builds(binary, compared, st.one_of(float_literal, whole_literal).map(pl.lit), number),
            st.builds(binary, compared, text, st.one_of(text, st.sampled_from(["", "a", "é"]).map(pl.lit))),
            st.builds(binary, compared, time, time),
            st.builds(lambda e, k: e.dt.hour() >= k, clock, st.integers(-3, 30)),
            st.builds(lambda e: e > pl.lit(datetime(2013, 3, 10, 7, tzinfo=UTC)), time),
            st.builds(lambda e, op: getattr(e, op)(timedelta(hours=1)), span, st.sampled_from(["gt", "le", "eq"])),
            st.builds(
                binary,
                st.sampled_from(["and_", "or_", "xor", "eq", "lt"]),
                flag,
                st.one_of(flag, st.sampled_from([pl.lit(True), pl.lit(None, pl.Boolean)])),
            ),
            st.builds(lambda e: ~e, flag),
            st.builds(call, st.one_of(number, flag, text, time), st.sampled_from(["is_null", "is_not_null"])),
            st.builds(call, float_, st.sampled_from(["is_nan", "is_not_nan", "is_finite", "is_infinite"])),
            st.builds(pl.Expr.is_in, float_, listed(odd_floats, pl.Float64())),
            st.builds(pl.Expr.is_in, integer, listed(odd_integers, pl.Int64())),
            st.builds(pl.Expr.is_in, text, st.lists(st.sampled_from(["", "a", "é"]), min_size=1, max_size=3)),
            st.builds(
                lambda e, a, b, closed: e.is_between(a, b, closed=closed),
                number,
                st.one_of(number, whole_literal, typed_null),
                st.one_of(number, float_literal, typed_null),
                st.sampled_from(["both", "left", "right", "none"]),
            ),
            st.builds(pl.all_horizontal, flag, flag, flag),
            st.builds(pl.any_horizontal, flag, flag, flag),
            st.builds(lambda e: e.cast(pl.Boolean), number),
            st.builds(
                lambda e, name, k: getattr(e.str, name)(k),
                text,
                st.sampled_from(["starts_with", "ends_with"]),
                st.sampled_from(["", "a", "é"]),
            ),
            st.builds(lambda e, k: e.str.contains(k, literal=True), text, st.sampled_from(["", "a", "."])),
        ),
        "text": st.one_of(
            text,
            st.builds(lambda e: e.str.to_lowercase(), text),
            st.builds(lambda e: e.fill_null("none"), text),
            st.builds(choose, flag, text, st.one_of(text, st.just(pl.lit("k")))),
            st.builds(lambda e: e.cast(pl.String), integer),
        ),
        "time": st.one_of(
            time,
            st.builds(lambda t, minutes: t - pl.duration(minutes=minutes), time, st.integers(-(10**7), 10**7)),
            st.builds(lambda t: t + timedelta(hours=2), time),
            st.builds(choose, flag, time, time),
            st.builds(lambda a, b: a.fill_null(b), time, time),
        ),
        "span": st.one_of(
            span, st.builds(lambda a, b: a - b, time, time), st.builds(lambda a: a + timedelta(hours=2), span)
        ),
    }


def binary(op: str, a: pl.Expr, b: Any) -> pl.Expr:
    result: pl.Expr = getattr(a, op)(b)
    return result


def flipped(op: str, a: pl.Expr, b: Any) -> pl.Expr:
    result: pl.Expr = getattr(pl.lit(b), op)(a)
    return result


def choose(predicate: pl.Expr, chosen: Any, other: Any) -> pl.Expr:
    return pl.when(predicate).then(chosen).otherwise(other)


def call(expr: pl.Expr, name: str) -> pl.Expr:
    result: pl.Expr = getattr(expr, name)()
    return result


def listed(values: list[Any], dtype: pl.DataType) -> st.SearchStrategy[pl.Series]:
    lists = st.lists(st.sampled_from([*values, None]), max_size=3)
    return lists.map(lambda members: pl.Series(members, dtype=dtype).implode())


GROWN = grown(3)
expressions = st.one_of(GROWN["float"], GROWN["integer"], GROWN["flag"], GROWN["text"])
