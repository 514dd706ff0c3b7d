"""Which rows break a contract, and what is said of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.contract import check_rows, holds
from pilotage.data.source import Daily
from pilotage.errors import DeclarationError
from tests.unit.data.readings import FIRST, contract, delivered, prepare, reference, row, source


def reasons(rows: list[dict[str, Any]], **changes: Any) -> list[list[str] | None]:
    return check_rows(source(**changes), delivered(rows)).reasons.to_list()


def test_a_row_in_order_has_no_reason() -> None:
    assert reasons([row("a", FIRST)]) == [None]


def test_a_row_has_every_reason_that_applies() -> None:
    broken = row("x", FIRST, low=1048.36058, high=20.0)

    assert reasons([broken]) == [
        ["sensor: x is not one of a, b, c, d", "low: 1048.36 is not in [-50, 150]", "high: is below low"]
    ]


def test_a_missing_value_is_told_from_one_that_may_be_missing() -> None:
    assert reasons([row("a", FIRST, low=None), row("b", FIRST, high=None)]) == [["low: is missing"], None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_no_numbers_even_where_the_contract_has_no_such_bound(value: float) -> None:
    (found,) = reasons([row("a", FIRST, low=-50.0, high=value)])

    assert found is not None
    assert any("is no number" in reason for reason in found if reason.startswith("high: "))


def test_text_where_a_number_must_be_names_the_column_the_text_and_the_type() -> None:
    cells = ["low=n/a", "high=a=b"]

    (found,) = reasons([row("a", FIRST, low=None, high=None, unparsed=cells)])

    assert found == ["low: n/a is no Float64", "high: a=b is no Float64", "low: is missing"]


def test_a_row_of_another_day_than_its_file_is_held_back() -> None:
    tomorrow = FIRST + timedelta(days=1)

    found = reasons([row("a", FIRST), row("a", tomorrow)])

    assert found == [None, ["day: 2024-03-02 is not the day of its file, 2024-03-01"]]


def test_the_first_of_two_rows_with_one_key_stays() -> None:
    found = reasons([row("a", FIRST, low=1.0), row("b", FIRST), row("a", FIRST, low=2.0)])

    assert found == [None, None, ["sensor, day: repeats the key of an earlier row"]]


def test_a_row_does_not_repeat_the_key_of_one_that_is_held_back() -> None:
    found = reasons([row("a", FIRST, low=999.0), row("a", FIRST, low=2.0)])

    assert found[1] is None


def test_keys_are_compared_within_a_whole_table_too() -> None:
    rows = [row("a", FIRST), row("a", FIRST)]

    found = check_rows(reference(), delivered(rows, file_day=None))

    assert found.reasons.to_list() == [None, ["sensor: repeats the key of an earlier row"]]
    assert found.batch.to_list() == [None, None]


def test_every_rule_is_reported_with_its_failures_and_examples_also_when_there_are_none() -> None:
    checked = check_rows(source(), delivered([row("a", FIRST), row("b", FIRST, low=999.0, high=None)]))

    rules = {(rule.column, rule.rule): rule for rule in checked.rules}
    low = rules["low", "in [-50, 150]"]
    assert (low.failures, low.share) == (1, 0.5)
    assert low.examples == [{"sensor": "b", "low": 999.0, "high": None, "day": FIRST, "twice": None}]
    assert rules["sensor", "present"].failures == 0
    assert rules[None, "high: is below low"].failures == 0
    assert rules["sensor, day", "unique"].failures == 0


def test_at_most_ten_rows_are_examples() -> None:
    checked = check_rows(source(), delivered([row("a", FIRST, low=999.0, high=None)] * 30))

    rule = next(rule for rule in checked.rules if rule.failures)
    assert (rule.failures, len(rule.examples)) == (30, 10)


def test_null_counts_as_holding() -> None:
    def makes() -> pa.DataFrameSchema:
        return pa.DataFrameSchema({}, checks=[holds(pl.col("high") > 0, otherwise="high: is not above zero")])

    found = reasons([row("a", FIRST, high=None), row("b", FIRST, high=-1.0)], contract=makes)

    assert found == [None, ["high: is not above zero"]]


def test_a_check_that_cannot_be_evaluated_is_an_error_of_the_declaration_and_no_bad_row() -> None:
    def makes() -> pa.DataFrameSchema:
        return pa.DataFrameSchema({"low": pa.Column(pl.Float64, pa.Check.isin([0, 1]))})

    with pytest.raises(DeclarationError, match=r"assets/sources/readings.py: the contract can't check column low"):
        reasons([row("a", FIRST)], contract=makes)


def test_a_column_of_another_type_than_the_contract_says_is_an_error_of_the_declaration() -> None:
    def makes() -> pa.DataFrameSchema:
        return pa.DataFrameSchema({"low": pa.Column(pl.Int64)})

    with pytest.raises(DeclarationError, match="column low: dtype"):
        reasons([row("a", FIRST)], contract=makes)


def test_a_day_of_its_own_beside_the_day_of_the_file_is_an_error_of_the_declaration() -> None:
    """It was replaced by the day of the file, and of a source without days it made one with days."""

    def prepare(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select("sensor", "low", measured=pl.col("on").str.to_date(), day=pl.col("on").str.slice(8))

    spec = source(prepare=prepare, contract=lambda: pa.DataFrameSchema({}), key=("sensor",), expectations=())
    for daily in (None, Daily(column="measured", first=FIRST)):
        with pytest.raises(DeclarationError, match="gives a column day, which is the platform's own"):
            check_rows(spec.model_copy(update={"daily": daily}), delivered([row("a", FIRST)]))


def test_the_day_of_the_file_may_go_through_prepare() -> None:
    spec = source(
        prepare=lambda rows: rows.with_columns(measured=pl.col("on").str.to_date()),
        contract=lambda: pa.DataFrameSchema({}),
        daily=Daily(column="measured", first=FIRST),
        key=("sensor",),
        expectations=(),
    )
    assert check_rows(spec, delivered([row("a", FIRST)])).reasons.to_list() == [None]


def test_a_column_that_prepare_does_not_give_is_an_error_of_the_declaration() -> None:
    def makes() -> pa.DataFrameSchema:
        return pa.DataFrameSchema({"nowhere": pa.Column(pl.Int64)})

    with pytest.raises(DeclarationError, match="nowhere"):
        reasons([row("a", FIRST)], contract=makes)
    with pytest.raises(DeclarationError, match="prepare does not give nobody, which key or daily names"):
        reasons([row("a", FIRST)], key=("nobody",))


def test_prepare_may_not_drop_rows_or_fail() -> None:
    with pytest.raises(DeclarationError, match="prepare made 1 rows of 2"):
        reasons([row("a", FIRST), row("b", FIRST)], prepare=lambda frame: prepare(frame).head(1))
    with pytest.raises(DeclarationError, match=r"prepare fails: .*nowhere"):
        reasons([row("a", FIRST)], prepare=lambda frame: frame.select("nowhere"))


def test_no_rows_break_no_rule() -> None:
    checked = check_rows(source(), delivered([]))

    assert checked.rows.is_empty()
    assert {rule.share for rule in checked.rules} == {0.0}


def test_pandera_looks_at_the_schema_alone_of_a_lazy_frame() -> None:
    """Why rows are collected first. If this fails, pandera has changed, and ``check_rows`` may become lazy."""
    bad = pl.LazyFrame({"sensor": ["x"], "low": [1e9], "high": [0.0], "day": [FIRST]})

    contract().validate(bad, lazy=True)


values = st.one_of(st.none(), st.floats(width=32), st.sampled_from([-50.0, 150.0, 150.1, 200.0]))
cells = st.tuples(st.sampled_from(["a", "b", "x"]), values, values)


@settings(deadline=None, max_examples=50)
@given(st.lists(cells, max_size=30))
def test_a_row_passes_exactly_when_no_rule_speaks_against_it(
    table: list[tuple[str, float | None, float | None]],
) -> None:
    checked = check_rows(source(), delivered([row(sensor, FIRST, low=low, high=high) for sensor, low, high in table]))

    seen: set[str] = set()
    for (sensor, low, high), found in zip(table, checked.reasons.to_list(), strict=True):
        sound = sensor != "x" and low is not None and -50 <= low <= 150 and (high is None or (low <= high <= 200))
        assert (found is None) == (sound and sensor not in seen)
        if sound:
            seen.add(sensor)


def schema_of(**columns: pa.Column) -> Any:
    return lambda: pa.DataFrameSchema(columns)


def test_a_column_that_is_unique_and_present_names_each_row_by_the_rule_it_breaks() -> None:
    rows = [row("a", FIRST), row("a", FIRST), row(None, FIRST), row("b", FIRST)]

    found = check_rows(
        source(contract=schema_of(sensor=pa.Column(pl.String, unique=True)), key=("low",)), delivered(rows)
    )

    twice = "sensor: a is in more than one row"
    assert [each and each[0] for each in found.reasons.to_list()] == [twice, twice, "sensor: is missing", None]
    assert {(rule.rule, rule.failures) for rule in found.rules if rule.column == "sensor"} == {
        ("present", 1),
        ("unique", 2),
    }


@pytest.mark.parametrize(
    ("schema", "message", "fix"),
    [
        (
            lambda: pa.DataFrameSchema({}, unique=["sensor", "day"]),
            r"unique=\['sensor', 'day'\]",
            "`key` of the source",
        ),
        (
            schema_of(**{"^sensor$": pa.Column(pl.String, regex=True)}),
            r"\^sensor\$ with regex=True",
            "Name each column",
        ),
        # By each of these pandera lets rows pass that break the schema, and says nothing of them.
        (lambda: pa.DataFrameSchema({}, drop_invalid_rows=True), "drop_invalid_rows=True", "are put aside"),
        (lambda: pa.DataFrameSchema({}, add_missing_columns=True), "add_missing_columns=True", "are put aside"),
        (
            schema_of(sensor=pa.Column(pl.String, drop_invalid_rows=True)),
            "drop_invalid_rows=True of sensor",
            "put aside",
        ),
        (schema_of(sensor=pa.Column(pl.String, default="a")), "default='a' of sensor", "prepare fills in"),
        (schema_of(sensor=pa.Column(pl.String, required=False)), "required=False of sensor", "prepare fills in"),
        (
            schema_of(value=pa.Column(pl.Float64, pa.Check.gt(1.0, raise_warning=True))),
            "raise_warning=True of a check",
            "an expectation tells",
        ),
    ],
)
def test_a_form_of_schema_that_names_no_rows_is_a_wrong_declaration(schema: Any, message: str, fix: str) -> None:
    with pytest.raises(DeclarationError, match=message) as refused:
        reasons([row("a", FIRST)], contract=schema)
    assert fix in str(refused.value.fix)
