"""Requests are taken as they are declared, or refused with field, value and fix."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import InvalidRequest
from pilotage.runtime.contract import Contract
from pilotage.spec import RequestField
from pilotage.testing.bundles import tiny_rows, tiny_spec

SPEC = tiny_spec()
CONTRACT = Contract(SPEC.request)
GOOD: dict[str, Any] = {field.name: field.example for field in SPEC.request}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_good_rows_become_a_typed_frame() -> None:
    frame = CONTRACT.frame([GOOD, {**GOOD, "courier": None, "amount": 7}])
    assert frame.schema == pl.Schema(SPEC.request_types())
    assert frame["amount"].to_list() == [12.5, 7.0]
    assert frame["ordered_at"][0] == datetime(2024, 1, 1, 10, tzinfo=UTC)


@settings(deadline=None)
@given(st.sampled_from(sorted(GOOD)), ANYTHING)
def test_whatever_is_sent_is_taken_exactly_or_refused_by_its_name(name: str, value: Any) -> None:
    try:
        frame = CONTRACT.frame([{**GOOD, name: value}])
    except InvalidRequest as error:
        assert error.details["field"] == name
        assert error.fix
        assert len(str(error)) < 1000
    else:
        taken = frame[name][0]
        if name == "ordered_at":
            assert taken == datetime.fromisoformat(value)
        else:
            assert taken == value
            assert isinstance(taken, type(value)) or (isinstance(taken, float) and isinstance(value, int))


@pytest.mark.parametrize("value", ["\ud800", "é\udfff", "x" * 1001])
def test_a_text_that_is_none_or_too_long_is_refused_wherever_it_stands(value: str) -> None:
    free = [field for field in SPEC.request if field.dtype == pl.String() and not field.one_of]
    assert len(free) > 1
    for field in free:
        with pytest.raises(InvalidRequest) as refused:
            CONTRACT.row({**GOOD, field.name: value})
        assert refused.value.details["field"] == field.name
    assert CONTRACT.row({**GOOD, free[0].name: "é" * 1000})


BOUND = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.5, 5.0, -(2.0**63), 2.0**63])
TYPES = st.sampled_from([pl.String(), pl.Int64(), pl.Float64(), pl.Boolean(), pl.Datetime("us", "UTC")])


def some_field(*, dtype: pl.DataType, minimum: float | None, maximum: float | None, **said: Any) -> RequestField:
    """A field that may be declared: only numbers have bounds, and only texts a list."""
    if dtype != pl.String():
        said["one_of"] = ()
    if not dtype.is_numeric():
        minimum = maximum = None
    elif minimum is not None and maximum is not None:
        minimum, maximum = sorted((minimum, maximum))
    return RequestField(dtype=dtype, minimum=minimum, maximum=maximum, **said)


FIELD = st.builds(
    some_field,
    name=st.sampled_from(["a", "b", "c"]),
    dtype=TYPES,
    description=st.just("A field."),
    example=st.none(),
    nullable=st.booleans(),
    minimum=BOUND,
    maximum=BOUND,
    one_of=st.lists(st.sampled_from(["x", "y", "zé"]), unique=True).map(tuple),
)
LIKELY = st.one_of(
    st.sampled_from([None, True, 0, 1, 5, -(2**63), 2**63, 10**400, 0.5, 5.0, -0.0, math.nan, math.inf]),
    st.sampled_from(["x", "zé", "\ud800", "x" * 1000, "x" * 1001]),
    st.sampled_from(["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.5+00:00", "2024-01-01T10:00:00+01:00"]),
    st.sampled_from(["2024-01-01 10:00:00Z", "2024-01-01T10:00:00", "1899-12-31T23:59:59Z"]),
    st.sampled_from([None, UTC, timezone(timedelta(0), "Z")]).map(lambda zone: datetime(2024, 1, 1, tzinfo=zone)),
)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(FIELD, min_size=1, max_size=3, unique_by=lambda field: field.name),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), LIKELY | ANYTHING) | ANYTHING,
)
def test_the_quick_check_of_a_row_takes_what_the_one_that_says_what_is_wrong_takes(fields: Any, row: Any) -> None:
    contract = Contract(fields)
    outcomes = []
    for check in (contract.row, contract.explained):
        try:
            outcomes.append([(type(value), repr(value)) for value in check(row)])
        except InvalidRequest as error:
            outcomes.append([(error.message, error.fix, error.details)])
    assert outcomes[0] == outcomes[1]


TIMES = ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123456Z", "1900-01-01T00:00:00Z", "2199-12-31T23:59:59Z"]
ODD_TIMES = [
    *("1899-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "2024-02-30T10:00:00Z", "2024-01-01T10:00:00Z\n", "\n", ""),
    *("2024-01-01T10:00:00Z\n2024-01-01T10:00:00Z", "2024-01-01T10:00:00+00:00", "٢٠24-01-01T10:00:00Z", None, 7),
]
ROWS = st.lists(
    st.sampled_from(TIMES).map(lambda time: {**GOOD, "ordered_at": time})
    | st.sampled_from(ODD_TIMES).map(lambda time: {**GOOD, "ordered_at": time})
    | st.sampled_from([None, "Zoë", "\ud800", "Ann"]).map(lambda name: {**GOOD, "courier": name})
    | st.dictionaries(st.sampled_from([*GOOD, "more"]), LIKELY)
    | ANYTHING,
    max_size=6,
)


@settings(deadline=None, max_examples=500)
@given(ROWS, st.booleans())
def test_rows_are_checked_together_as_each_is_alone(rows: list[Any], nullable: bool) -> None:
    contract = Contract([field.model_copy(update={"nullable": nullable or field.nullable}) for field in SPEC.request])
    columns, errors = contract.columns(rows)
    taken, refused = [], {}
    for place, row in enumerate(rows):
        try:
            taken.append(contract.row(row))
        except InvalidRequest as error:
            refused[place] = (error.message, error.fix, error.details)
    assert repr([list(row) for row in zip(*columns, strict=True)]) == repr(taken)
    assert {place: (error.message, error.fix, error.details) for place, error in errors.items()} == refused


@settings(deadline=None)
@given(ANYTHING)
def test_a_request_that_is_no_object_is_refused(value: Any) -> None:
    if isinstance(value, dict):
        return
    with pytest.raises(InvalidRequest, match="not an object"):
        CONTRACT.frame([value])


@settings(deadline=None)
@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31, 23, 59, 59, 999999), timezones=st.just(UTC)))
def test_every_utc_time_is_taken_to_the_microsecond(moment: datetime) -> None:
    for text in (moment.isoformat(), moment.isoformat().replace("+00:00", "Z")):
        assert CONTRACT.frame([{**GOOD, "ordered_at": text}])["ordered_at"][0] == moment


@pytest.mark.parametrize(
    "value",
    [
        "2024-01-01",
        "2024-W01-1T10:00:00Z",
        "20240101T100000Z",
        "2024-13-01T10:00:00Z",
        "2024-01-01 10:00:00Z",
        "٢٠٢٤-01-01T10:00:00Z",
        "yesterday",
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(2024, 1, 1),
    ],
)
def test_a_time_that_is_not_utc_in_iso_form_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CONTRACT.frame([{**GOOD, "ordered_at": value}])
    assert caught.value.details["field"] == "ordered_at"
    assert "2013-02-28T10:15:00Z" in caught.value.fix


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00Z", "1899-12-31T23:59:59Z", "9999-12-31T23:59:59Z"])
def test_a_time_for_which_no_feature_can_be_computed_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="is out of range") as caught:
        CONTRACT.frame([{**GOOD, "ordered_at": value}])
    assert caught.value.fix == "Send a year from 1900 to 2199."


def test_the_row_at_fault_is_named_where_there_are_several() -> None:
    with pytest.raises(InvalidRequest, match="Row 1: items") as caught:
        CONTRACT.frame([GOOD, {**GOOD, "items": 0}])
    assert caught.value.details["row"] == 1
    assert "from 1 to 99" in caught.value.fix


def test_typed_rows_are_checked_by_the_same_rules() -> None:
    rows = tiny_rows(SPEC, 20)
    assert CONTRACT.check_frame(rows).columns == list(SPEC.request_types())
    for column, value in [
        ("amount", math.nan),
        ("amount", math.inf),
        ("amount", -1.0),
        ("items", 100),
        ("shop", "x"),
        ("ordered_at", datetime(1, 1, 1, tzinfo=UTC)),
    ]:
        bad = rows.with_columns(
            pl.when(pl.row_index() == 7).then(pl.lit(value, rows.schema[column])).otherwise(column).alias(column)
        )
        with pytest.raises(InvalidRequest, match=column) as caught:
            CONTRACT.check_frame(bad)
        assert caught.value.details["row"] == 7
    with pytest.raises(InvalidRequest, match="express is missing"):
        CONTRACT.check_frame(rows.drop("express"))
    with pytest.raises(InvalidRequest, match="items is Float64"):
        CONTRACT.check_frame(rows.with_columns(pl.col("items").cast(pl.Float64)))
    nulls = rows.with_columns(courier=pl.lit(None, pl.String))
    assert CONTRACT.check_frame(nulls)["courier"].null_count() == 20
