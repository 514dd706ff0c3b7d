"""Expressions travel as JSON, come back the same, and never carry code."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from assets.models import load_models
from pilotage.errors import DeclarationError
from pilotage.expressions import columns_of, from_json, to_json

FRAME = pl.DataFrame({"anonymous": [1, 2, None], "python_plugin": ["udf", "b", None], "x": [0.5, -1.0, 2.0]})

EXPRESSIONS = [
    pl.col("anonymous") + 1,
    pl.col("python_plugin").is_in(["udf", "python"]),
    pl.when(pl.col("x") > 0).then(pl.lit("anonymous function")).otherwise(pl.col("python_plugin")),
    (pl.col("x") / pl.col("anonymous")).round(3).alias("plugin"),
    pl.col("python_plugin").str.len_chars().cast(pl.Float64),
]


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=str)
def test_an_expression_comes_back_with_the_same_answers_whatever_its_columns_are_called(expr: pl.Expr) -> None:
    again = from_json(to_json(expr, name="e"), name="e")
    assert_frame_equal(FRAME.select(expr.alias("r")), FRAME.select(again.alias("r")))


def test_every_expression_of_the_shipped_models_survives_the_round_trip() -> None:
    for spec in load_models().values():
        for name, expr in spec.expressions():
            text = to_json(expr, name=name)
            assert to_json(from_json(text, name=name), name=name) == text


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("x").map_batches(lambda s: s),
        pl.struct("x", "anonymous").map_batches(lambda s: s) + 1,
        pl.when(pl.col("x").map_batches(lambda s: s) > 0).then(1).otherwise(0),
    ],
)
def test_a_python_function_anywhere_in_it_is_refused_when_writing_and_when_reading(expr: pl.Expr) -> None:
    with pytest.raises(DeclarationError, match="Python function"):
        to_json(expr, name="bad")
    with pytest.raises(DeclarationError, match="Python function"):
        from_json(expr.meta.serialize(format="json"), name="bad")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_literal_that_no_text_brings_back_is_refused_when_it_is_declared_and_there_is_a_way(number: float) -> None:
    for expr in (pl.col("x").fill_null(number), pl.col("x") < pl.lit(number, pl.Float64)):
        with pytest.raises(DeclarationError, match="wind can't be read again once it is written down"):
            to_json(expr, name="wind")
    again = from_json(to_json(pl.lit(str(number)).cast(pl.Float64), name="wind"), name="wind")
    assert repr(pl.select(again).item()) == repr(number)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Column": 3}', "null"])
def test_text_that_is_no_expression_is_an_error_that_names_the_expression(text: str) -> None:
    with pytest.raises(DeclarationError, match="wind"):
        from_json(text, name="wind")


def test_the_columns_of_an_expression_are_those_it_reads() -> None:
    assert columns_of(pl.col("a") + pl.when(pl.col("b") > 1).then(2).otherwise(pl.col("c"))) == {"a", "b", "c"}
