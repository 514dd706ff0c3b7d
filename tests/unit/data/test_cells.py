"""Cells become what they are declared as, or are kept as text for the quarantine."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.data.cells import UNPARSED, from_records, guess, typed

TIME = pl.Datetime("us", "UTC")


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("12", pl.Int64(), 12),
        ("12.0", pl.Int64(), 12),
        ("1e3", pl.Int64(), 1000),
        ("-3", pl.Int64(), -3),
        ("9223372036854775807", pl.Int64(), 2**63 - 1),
        ("1.5", pl.Float64(), 1.5),
        ("true", pl.Boolean(), True),
        ("FALSE", pl.Boolean(), False),
        ("2013-02-28", pl.Date(), date(2013, 2, 28)),
        ("2013-02-28T10:15:00Z", TIME, datetime(2013, 2, 28, 10, 15, tzinfo=UTC)),
        ("2013-02-28T12:15:00.5+02:00", TIME, datetime(2013, 2, 28, 10, 15, 0, 500_000, tzinfo=UTC)),
        ("2013-02-28 10:15:00", TIME, datetime(2013, 2, 28, 10, 15, tzinfo=UTC)),
        ("2013-02-28 10:15:00", pl.Datetime("us"), datetime(2013, 2, 28, 10, 15)),
    ],
)
def test_a_text_is_read_as_its_type(text: str, dtype: pl.DataType, value: object) -> None:
    frame, retyped = typed(pl.DataFrame({"x": [text, None]}), {"x": dtype})
    assert frame.schema["x"] == dtype
    assert frame.rows() == [(value, []), (None, [])]
    assert retyped == []


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("abc", pl.Int64()),
        ("12.5", pl.Int64()),
        ("9223372036854775808", pl.Int64()),
        ("NaN", pl.Int64()),
        ("NaN", pl.Float64()),
        ("1e999", pl.Float64()),
        ("-inf", pl.Float64()),
        ("2013-02-30", pl.Date()),
        ("2013-02-28T25:00:00Z", TIME),
        ("perhaps", pl.Boolean()),
    ],
)
def test_a_text_that_is_not_its_type_is_null_and_kept(text: str, dtype: pl.DataType) -> None:
    frame, _ = typed(pl.DataFrame({"x": [text], "y": ["fine"]}), {"x": dtype, "y": pl.String()})
    assert frame.rows() == [(None, "fine", [f"x={text}"])]


def test_all_bad_cells_of_a_row_are_kept() -> None:
    given_rows = pl.DataFrame({"x": ["a", "1"], "y": ["b", "c"]})
    frame, _ = typed(given_rows, {"x": pl.Int64(), "y": pl.Float64()})
    assert frame[UNPARSED].to_list() == [["x=a", "y=b"], ["y=c"]]


def test_a_number_that_is_not_finite_is_no_number_in_typed_formats_either() -> None:
    frame, _ = typed(pl.DataFrame({"x": [1.0, float("nan"), None]}), {"x": pl.Float64()})
    assert frame.rows() == [(1.0, []), (None, ["x=NaN"]), (None, [])]


def test_a_column_that_mostly_can_not_be_read_is_retyped() -> None:
    frame = pl.DataFrame({"x": ["1.5"] * 8 + ["1", "2"]})
    _, retyped = typed(frame, {"x": pl.Int64()})
    assert [str(change) for change in retyped] == ["x is retyped from Int64 to Float64"]


def test_a_few_bad_cells_are_no_retyped_column() -> None:
    _, few = typed(pl.DataFrame({"x": ["a"] * 4 + ["1"] * 6}), {"x": pl.Int64()})
    _, tiny = typed(pl.DataFrame({"x": ["a"]}), {"x": pl.Int64()})
    assert few == tiny == []


def test_numbers_where_text_is_declared_are_retyped() -> None:
    _, retyped = typed(pl.DataFrame({"x": list(range(10))}), {"x": pl.String()})
    assert [str(change) for change in retyped] == ["x is retyped from String to Int64"]


def test_narrower_types_are_widened() -> None:
    frame, _ = typed(
        pl.DataFrame({"x": pl.Series([1, 2], dtype=pl.Int16), "c": pl.Series(["a", "b"], dtype=pl.Categorical)}),
        {"x": pl.Int64(), "c": pl.String()},
    )
    assert frame.rows() == [(1, "a", []), (2, "b", [])]


def test_a_column_that_was_not_delivered_is_null() -> None:
    frame, _ = typed(pl.DataFrame({"x": [1]}), {"x": pl.Int64(), "optional": pl.Float64()})
    assert frame.rows() == [(1, None, [])]


@pytest.mark.parametrize(
    ("values", "dtype", "read"),
    [
        ([1, 2.0, "3", "x", None, True], pl.Int64(), [1, 2, 3, None, None, None]),
        ([datetime(2013, 1, 1, tzinfo=UTC), "2013-01-02T00:00:00Z"], TIME, None),
        ([{"a": 1}, "b"], pl.String(), ['{"a": 1}', "b"]),
    ],
)
def test_python_values_of_several_types_are_read_one_by_one(
    values: list[Any], dtype: pl.DataType, read: list[object] | None
) -> None:
    frame, _ = from_records([{"x": value} for value in values], {"x": dtype})
    expected = read or [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)]
    assert frame["x"].to_list() == expected


@pytest.mark.parametrize(
    ("texts", "name"),
    [(["1"], "Int64"), (["1.5"], "Float64"), (["2013-01-01"], "Date"), (["a"], "String"), (["true"], "Boolean")],
)
def test_the_new_type_is_guessed(texts: list[str], name: str) -> None:
    assert guess(pl.Series(texts)) == name


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))))
def test_every_integer_survives_its_text(values: list[int | None]) -> None:
    texts = pl.DataFrame({"x": [None if value is None else str(value) for value in values]}, schema={"x": pl.String})
    frame, retyped = typed(texts, {"x": pl.Int64()})
    assert frame["x"].to_list() == values
    assert not retyped


@given(st.lists(st.text(max_size=8), max_size=20))
def test_no_text_is_lost_whatever_it_is(texts: list[str]) -> None:
    frame, _ = typed(pl.DataFrame({"x": texts}, schema={"x": pl.String}), {"x": pl.Int64()})
    for text, value, unparsed in zip(texts, frame["x"], frame[UNPARSED], strict=True):
        assert (value is not None) != (f"x={text}" in unparsed.to_list())
