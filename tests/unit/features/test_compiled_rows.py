"""A compiled feature is the same bits as Polars, for every expression that is compiled and every value there is."""

from __future__ import annotations

import inspect
import math
import struct
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.models import flight_delay, loan_approval
from pilotage.errors import DeclarationError
from pilotage.features.columns import Column
from pilotage.features.compiled import CompiledRow
from pilotage.features.compiled.compiler import Compiler
from pilotage.features.compiled.row import frame_of
from pilotage.features.compiled.zones import to_local
from pilotage.features.plain import plain
from pilotage.features.rows import RowFeatures, evaluate
from pilotage.spec import ModelSpec
from tests.unit.features.expressions import (
    COLUMNS,
    ZONES,
    expressions,
    floats,
    frames,
    integers,
    moments,
    texts,
)


def bits(value: Any) -> Any:
    """A value that equals another only if type and bits are the same; any NaN is as good as another."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("<d", value)
    return type(value), value


def outcome(compute: Any) -> Any:
    try:
        return bits(compute())
    except DeclarationError:
        return "refused"


def as_columns(compiled: CompiledRow, rows: list[tuple[Any, ...]]) -> Any:
    try:
        [made] = compiled.many([Column([row[slot] for row in rows]) for slot in range(len(COLUMNS))])
    except DeclarationError:
        return "refused"
    return [bits(value) for value in made.values]


def same_as_polars(expr: pl.Expr, values: list[tuple[Any, ...]]) -> None:
    compiled = CompiledRow({"f": expr}, COLUMNS)
    frame = frame_of(values, COLUMNS)
    one_by_one = [outcome(lambda row=row: compiled(row)[0]) for row in values]
    shown = plain({"f": expr})
    alone = [outcome(lambda n=n: evaluate(frame[n], shown)["f"].to_physical().item()) for n in range(len(values))]
    assert one_by_one == alone, (str(expr), expr.meta.serialize(format="json"))
    assert as_columns(compiled, values) == (alone if "refused" not in alone else "refused"), str(expr)
    if "refused" not in alone:
        together = evaluate(frame, shown)["f"].to_physical().to_list()
        assert one_by_one == [bits(value) for value in together], str(expr)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(expr=expressions, values=frames)
def test_any_expression_over_any_values_is_the_bits_that_polars_gives(expr: pl.Expr, values: Any) -> None:
    same_as_polars(expr, values)


# What is compiled at all: a feature that silently goes back to Polars costs a third of a millisecond a request.

x, i, p, s, at = (pl.col(name) for name in ("x", "i", "p", "s", "at"))
COMPILED = [
    x + 1,
    2 * x - i,
    x / 49,
    i / 7,
    i // 3,
    i % 3,
    x % 2.5,
    i * 60 + 3,
    -x,
    i.abs(),
    x.sqrt(),
    x.log(),
    x.log1p(),
    x.exp(),
    x.floor(),
    x.ceil(),
    x.round(2),
    x.clip(0.01, 0.99),
    i.clip(0, 5),
    x.fill_null(0.2),
    x.fill_nan(None),
    pl.coalesce("x", "y"),
    pl.min_horizontal("x", "y"),
    pl.max_horizontal("i", "j"),
    (x > 30) & (i == 1) | p.is_null(),
    ~p,
    p ^ pl.col("q"),
    x.eq_missing(1.0),
    x.is_between(0, 1),
    i.is_in([1, 2]),
    s.is_in(["a", "b"]),
    x.is_nan(),
    x.is_finite(),
    pl.all_horizontal("p", "q"),
    pl.when(x > 30).then(0.5).when(p).then(0.3).otherwise(0.15),
    pl.when(p, i == 1).then(s).otherwise(pl.lit("other")),
    x.cast(pl.Int64, strict=False),
    p.cast(pl.Int64),
    i.cast(pl.Float64),
    i.cast(pl.String),
    pl.col("small") + 1,
    at.dt.hour().cast(pl.Int64) * 60,
    at.dt.weekday(),
    at.dt.year() - i,
    at.dt.convert_time_zone("Europe/Berlin").dt.month(),
    at.dt.date().dt.day(),
    (at - pl.duration(hours=2) - pl.col("then")).dt.total_minutes(),
    at > pl.col("then"),
    s.str.len_chars(),
    s.str.to_lowercase(),
    s.str.contains("b", literal=True),
    s.str.starts_with("a"),
    pl.lit(3.5),
    pl.lit("k"),
    pl.lit(7),
    pl.col("single").cast(pl.Float64) * 2,
    x.alias("renamed"),
    x / pl.when(p).then(49.0).otherwise(50.0),
    x / pl.coalesce("y", 49.0),
    x.round(22),
]


@pytest.mark.parametrize("expr", COMPILED, ids=str)
def test_what_features_are_made_of_is_compiled(expr: pl.Expr) -> None:
    assert CompiledRow({"f": expr}, COLUMNS).left_to_polars == ()


LEFT = [
    x**2,
    s.str.slice(0, 1),
    s.str.contains("b+"),
    at.dt.truncate("1h"),
    at.dt.offset_by("1mo"),
    x.sin(),
    pl.concat_str("s", "z"),
    pl.col("single") * 3,
    pl.col("single") > 0.1,
    pl.lit(2) * 3 + x,
    pl.lit(None) > x,
    x.is_between(pl.lit(None, pl.Float64), 0.1),
    i.is_between(4, pl.lit(None, pl.Int64)),
    s.replace_strict(["a"], [1], default=None),
    x.round(23),
    x.round(400),
]


@pytest.mark.parametrize("expr", LEFT, ids=str)
def test_what_is_not_proved_is_left_to_polars_and_right(expr: pl.Expr) -> None:
    assert CompiledRow({"f": expr}, COLUMNS).left_to_polars == ("f",)
    same_as_polars(
        expr,
        [
            (0.3, 1.0, 3, 4, 5, 0.5, True, None, "ab", "b", 1_362_000_000_000_000, 0, 15_000),
            (None, math.nan, -3, None, None, None, False, True, None, "é", None, None, None),
        ],
    )


@pytest.mark.parametrize("model", [flight_delay.MODEL, loan_approval.MODEL], ids=lambda model: model.name)
def test_every_feature_moment_and_rule_of_the_shipped_models_is_compiled(model: ModelSpec) -> None:
    columns = {**model.request_types(), **model.state_types()}
    assert CompiledRow(RowFeatures.of(model).expressions, columns).left_to_polars == ()
    assert CompiledRow({"rule": model.fallback.rule.cast(pl.Float64)}, columns).left_to_polars == ()
    if model.predicts_at is not None:
        assert CompiledRow({"at": model.predicts_at}, model.request_types()).left_to_polars == ()


@pytest.mark.parametrize("model", [flight_delay.MODEL, loan_approval.MODEL], ids=lambda model: model.name)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_shipped_models_give_the_bits_that_polars_gives(model: ModelSpec, data: Any) -> None:
    columns = {**model.request_types(), **model.state_types()}
    kinds: dict[pl.DataType, st.SearchStrategy[Any]] = {
        pl.Float64(): floats, pl.Int64(): integers, pl.String(): texts, pl.Datetime("us", "UTC"): moments,
    }  # fmt: skip
    values = data.draw(st.lists(st.tuples(*(kinds[dtype] for dtype in columns.values())), min_size=2, max_size=4))
    expressions = {**RowFeatures.of(model).expressions, "rule": model.fallback.rule.cast(pl.Float64)}
    compiled = CompiledRow(expressions, columns)
    frame = frame_of(values, columns)
    together = evaluate(frame, plain(expressions)).select(expressions.keys())
    for number, row in enumerate(values):
        assert [bits(value) for value in compiled(row)] == [bits(value) for value in together.row(number)]


def test_a_mixed_set_keeps_its_order_and_computes_shared_steps_once() -> None:
    shared = at.dt.convert_time_zone("America/New_York")
    compiled = CompiledRow({"power": x**2, "hour": shared.dt.hour(), "s": s, "minute": shared.dt.minute()}, COLUMNS)
    row = [3.0, *[None] * 7, "a", None, 1_362_000_000_000_000, None, None]
    assert compiled.left_to_polars == ("power",)
    assert compiled(row) == [9.0, 16, "a", 20]


def test_a_value_that_no_type_of_pythons_can_hold_is_left_to_polars() -> None:
    # The years 148,000 and 294,000; Polars' calendar ends between them.
    for far in (2**62, 2**63 - 1, -(2**63)):
        values: list[Any] = [None] * 10 + [far, None, None]
        for part in ("year", "date", "weekday", "hour", "minute", "second"):
            series = getattr(pl.Series([far]).cast(pl.Datetime("us", "UTC")).dt, part)()
            assert CompiledRow({"f": getattr(at.dt, part)()}, COLUMNS)(values) == [series.to_physical().item()], part


def test_a_cast_that_polars_refuses_is_refused_with_the_features_name() -> None:
    compiled = CompiledRow({"speed": x.cast(pl.Int64)}, COLUMNS)
    with pytest.raises(DeclarationError, match="Feature speed can't be computed"):
        compiled([math.nan, *[None] * 12])


def test_nothing_that_stands_in_a_bundle_becomes_code() -> None:
    evil = "x'] or __import__('os').abort() #"
    compiled = CompiledRow(
        {
            "a": pl.col(evil) + 1,
            "b": pl.lit(evil),
            evil: pl.col(evil).is_in([1]),
            "c": s.str.contains(evil, literal=True),
        },
        {evil: pl.Int64(), "s": pl.String()},
    )
    assert compiled.left_to_polars == ()
    assert compiled([1, "none"]) == [2, evil, True, False]


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"Literal": {"Dyn": {"Int": 2**70}}},
        {"Column": 3},
        {"Column": "nobody"},
        {"BinaryExpr": {}},
        {"Function": {"input": []}},
        {"A": 1, "B": 2},
    ],
)
def test_a_tree_that_is_no_expression_compiles_to_nothing(tree: Any) -> None:
    compiler = Compiler(COLUMNS)
    assert compiler.attempt(tree) is None
    assert compiler.lines == []


@settings(deadline=None, max_examples=40)
@given(zone=st.sampled_from([*ZONES, "Africa/Casablanca", "Pacific/Apia", "America/St_Johns"]), at=st.lists(moments))
def test_local_time_is_the_one_of_polars(zone: str, at: list[int | None]) -> None:
    known = [moment for moment in at if moment is not None]
    series = pl.Series(known, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    local = to_local(zone)
    assert [local(moment) for moment in known] == series.dt.replace_time_zone(None).cast(pl.Int64).to_list()


def test_local_time_is_right_on_both_sides_of_every_change_of_the_clocks() -> None:
    for zone in ZONES:
        local = to_local(zone)
        starts = inspect.getclosurevars(local).nonlocals["starts"][1:]
        assert starts
        around = [moment + step for moment in starts for step in (-1, 0)]
        series = pl.Series(around).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
        assert [local(moment) for moment in around] == series.dt.replace_time_zone(None).cast(pl.Int64).to_list()


def test_a_row_alone_a_constant_column_and_a_row_among_others_give_the_same_bits() -> None:
    numbers = [n / 7 for n in range(1, 200)]
    many = pl.DataFrame({"x": numbers, "y": [49.0] * 199})
    divided = plain({"a": x / 49, "b": x / pl.col("y")})
    together = evaluate(many, divided)
    alone = [evaluate(many[n], divided).row(0) for n in range(199)]
    constant = evaluate(many.select("x", y=pl.lit(49.0)), divided)
    assert together.rows() == alone == constant.rows()
    assert together["a"].to_list() != together["b"].to_list()  # Polars multiplies by 1 / 49 for the literal.


CHOICES = [
    pl.when("p").then(49.0).otherwise(50.0),
    pl.when("p").then(49.0).otherwise(pl.col("y")),
    pl.when("p").then(pl.lit(7) * 7).when(x > 3).then(50.0),
    pl.coalesce("y", 49.0),
    (pl.col("y").fill_null(0.0) - 1.0).sqrt().fill_nan(49.0),
    pl.when("p").then(49.0).otherwise(50.0).cast(pl.Float32).cast(pl.Float64),
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_row_computes_with_what_it_chose_whatever_its_neighbours_choose(choice: pl.Expr) -> None:
    rows = [(n / 7, None if n % 2 else 50.0, n % 2 == 1) for n in range(1, 200)]
    types = {"x": pl.Float64(), "y": pl.Float64(), "p": pl.Boolean()}
    frame, expr = frame_of(rows, types), {"f": x / choice}
    together = evaluate(frame, plain(expr))["f"]
    for which in (pl.col("p"), ~pl.col("p")):
        alike = evaluate(frame.filter(which), plain(expr))["f"]
        assert alike.equals(together.filter(frame.select(which).to_series()))
    assert together.equals(pl.concat(evaluate(frame[n], plain(expr)) for n in range(len(rows)))["f"])
    compiled = CompiledRow(expr, types)
    assert together.to_list() == [compiled(row)[0] for row in rows]


@pytest.mark.parametrize("number", [pl.lit(1), pl.lit(1.5)])
@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int64, pl.Float32, pl.Float64])
def test_what_is_kept_a_column_keeps_its_type(dtype: Any, number: pl.Expr) -> None:
    frame = pl.DataFrame({"b": [1, 2], "p": [True, False]}, schema={"b": dtype, "p": pl.Boolean})
    expr = pl.col("b") * pl.when("p").then(number).otherwise(2)
    assert evaluate(frame, plain({"f": expr}))["f"].equals(frame.select(f=expr)["f"])
