"""Differences of columns are told apart and named."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.data.schema_changes import SchemaChange, compare_names, refuse
from pilotage.errors import SchemaChanged

COLUMNS: dict[str, pl.DataType] = {"dep_delay": pl.Int64(), "carrier": pl.String(), "origin": pl.String()}


def kinds(delivered: list[str], **how: object) -> list[str]:
    return [str(change) for change in compare_names(COLUMNS, delivered, **how)]  # type: ignore[arg-type]


def test_the_declared_columns_in_any_order_are_no_change() -> None:
    assert kinds(["origin", "carrier", "dep_delay"]) == []


def test_a_similar_name_of_the_same_type_is_taken_for_a_rename() -> None:
    assert kinds(["departure_delay", "carrier", "origin"]) == ["dep_delay is renamed, probably to departure_delay"]
    assert kinds(["dep_delay", "Carrier", "origin"]) == ["carrier is renamed, probably to Carrier"]


def test_a_similar_name_of_another_type_is_a_missing_and_an_extra_column() -> None:
    changes = kinds(["departure_delay", "carrier", "origin"], fits=lambda _name, dtype: dtype != pl.Int64())
    assert changes == ["dep_delay is missing", "departure_delay is extra"]


def test_a_name_that_is_not_similar_is_a_missing_and_an_extra_column() -> None:
    assert kinds(["dep_delay", "airline", "origin"]) == ["carrier is missing", "airline is extra"]


def test_each_new_name_is_given_to_the_most_similar_column() -> None:
    columns = {"dep_delay": pl.Int64(), "arr_delay": pl.Int64()}
    changes = compare_names(columns, ["arr_delay_min", "dep_delay_min"])
    assert {change.column: change.now for change in changes} == {
        "dep_delay": "dep_delay_min",
        "arr_delay": "arr_delay_min",
    }


def test_an_optional_column_may_be_missing() -> None:
    assert kinds(["dep_delay", "carrier"], optional=("origin",)) == []


def test_a_refusal_names_every_difference_and_its_fix() -> None:
    changes = [
        SchemaChange(kind="missing", column="carrier"),
        SchemaChange(kind="retyped", column="dep_delay", now="Float64", declared="Int64"),
        SchemaChange(kind="extra", column="gate"),
    ]
    with pytest.raises(SchemaChanged) as refused:
        refuse(changes, "a.csv")
    assert refused.value.message == (
        "a.csv: carrier is missing; dep_delay is retyped from Int64 to Float64. (Also: gate is extra.)"
    )
    assert "Deliver carrier again" in refused.value.fix
    assert "Deliver dep_delay as Int64 again" in refused.value.fix


def test_extra_columns_alone_are_no_reason_to_refuse() -> None:
    refuse([SchemaChange(kind="extra", column="gate")], "a.csv")


@given(st.lists(st.sampled_from(["dep_delay", "carrier", "origin", "delay", "carriers", "x", "y"]), unique=True))
def test_every_declared_and_every_delivered_column_is_accounted_for_once(delivered: list[str]) -> None:
    changes = compare_names(COLUMNS, delivered)
    absent = [change.column for change in changes if change.kind in ("missing", "renamed")]
    foreign = [change.now for change in changes if change.kind == "renamed"]
    foreign += [change.column for change in changes if change.kind == "extra"]
    assert sorted(absent) == sorted(set(COLUMNS) - set(delivered))
    assert sorted(foreign) == sorted(set(delivered) - set(COLUMNS))


def test_a_delivered_name_without_end_is_cut_off_in_what_is_said() -> None:
    (change,) = compare_names({}, ["k" * 200_000])

    assert len(str(change)) < 120
