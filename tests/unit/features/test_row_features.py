"""Row features: their types, and the expressions that are refused since they would answer differently one by one."""

from __future__ import annotations

import polars as pl
import pytest

from assets.models.flight_delay import MODEL as FLIGHT_DELAY
from assets.models.loan_approval import MODEL as LOAN_APPROVAL
from pilotage.errors import DeclarationError
from pilotage.features.rows import RowFeatures, compute_features, feature_schema, require_row_wise
from pilotage.spec import ModelSpec

COLUMNS = {"a": pl.Int64(), "b": pl.Float64(), "c": pl.String(), "at": pl.Datetime("us", "UTC")}


@pytest.mark.parametrize("spec", [FLIGHT_DELAY, LOAN_APPROVAL], ids=lambda spec: spec.name)
def test_the_schema_names_every_feature_in_order_with_its_type(spec: ModelSpec) -> None:
    schema = feature_schema(spec)

    assert list(schema) == [feature.name for feature in spec.features]
    assert set(schema.values()) <= {pl.Int64(), pl.Float64(), pl.Boolean(), pl.String()}


def test_features_are_added_to_the_columns_they_are_computed_from() -> None:
    types = {**LOAN_APPROVAL.request_types(), **LOAN_APPROVAL.state_types()}
    example = pl.DataFrame([{field.name: field.example for field in LOAN_APPROVAL.request}], schema=types)

    features = compute_features(LOAN_APPROVAL, example)

    assert features.get_column("loan_to_value").item() == 128 / 175
    assert features.get_column("income").item() == 4583 + 1508
    assert {name: features.schema[name] for name in feature_schema(LOAN_APPROVAL)} == feature_schema(LOAN_APPROVAL)


def test_numbers_become_int64_and_float64_so_that_no_store_changes_them() -> None:
    features = RowFeatures(
        {
            "hour": pl.col("at").dt.hour(),
            "length": pl.col("c").str.len_chars(),
            "half": pl.col("b").cast(pl.Float32),
            "big": pl.col("a") > 2,
            "always": pl.lit(1),
        },
        COLUMNS,
    )
    frame = features.compute(
        pl.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": ["x", "yy"], "at": [None, None]}, schema=COLUMNS)
    )

    expected = {
        "hour": pl.Int64(),
        "length": pl.Int64(),
        "half": pl.Float64(),
        "big": pl.Boolean(),
        "always": pl.Int64(),
    }
    assert features.schema == expected
    assert {name: frame.schema[name] for name in expected} == expected
    assert frame.get_column("always").to_list() == [1, 1]


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("a").sum(),
        pl.col("a") - pl.col("a").mean(),
        pl.col("b").fill_null(pl.col("b").max()),
        pl.col("a").shift(),
        pl.col("a").rank(),
        pl.col("a").cum_sum(),
        pl.col("a").sum().over("c"),
        pl.col("a") + pl.col("b").sum().over("c"),
        pl.col("a").fill_null(strategy="forward"),
        pl.col("a").rolling_mean(3),
        pl.col("a").sort(),
        pl.col("a").reverse(),
        pl.col("a").is_duplicated(),
        pl.col("a").filter(pl.col("b") > 1),
        pl.col("a").drop_nulls(),
        pl.col("a") / pl.len(),
        pl.int_range(pl.len()),
        pl.lit(pl.Series([1, 2])),
        pl.all(),
        pl.when(pl.col("a") > pl.col("a").median()).then(1).otherwise(0),
    ],
    ids=str,
)
def test_an_expression_that_looks_at_other_rows_is_refused(expr: pl.Expr) -> None:
    with pytest.raises(DeclarationError, match="Feature x looks at other rows"):
        require_row_wise("Feature x", expr)


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("a"),
        pl.lit(1),
        pl.lit(1) + pl.lit(2),
        pl.col("a").clip(0, 1),
        pl.when(pl.col("a") > 1).then(pl.col("b")).otherwise(0.0),
        pl.coalesce("a", "b"),
        pl.max_horizontal("a", "b"),
        pl.col("c").is_in(["x", "y"]),
        pl.col("c").replace_strict({"x": 1}, default=None, return_dtype=pl.Int64),
        pl.col("at") - pl.duration(hours=2),
        pl.col("at").dt.convert_time_zone("America/New_York").dt.hour(),
        pl.concat_str("c", pl.lit("-"), "c"),
    ],
    ids=str,
)
def test_an_expression_of_the_row_alone_is_taken(expr: pl.Expr) -> None:
    require_row_wise("Feature x", expr)


def test_a_feature_that_does_not_fit_the_columns_is_named() -> None:
    with pytest.raises(DeclarationError, match="Feature wrong can't be computed"):
        RowFeatures({"right": pl.col("a"), "wrong": pl.col("c").dt.hour()}, COLUMNS)
    with pytest.raises(DeclarationError, match=r"Feature absent can't be computed: .*nowhere"):
        RowFeatures({"absent": pl.col("nowhere")}, COLUMNS)


def test_a_feature_that_fails_on_a_value_is_named() -> None:
    features = RowFeatures({"fine": pl.col("a"), "number": pl.col("c").cast(pl.Int64)}, COLUMNS)
    frame = pl.DataFrame({"a": [1], "b": [1.0], "c": ["not one"], "at": [None]}, schema=COLUMNS)

    with pytest.raises(DeclarationError, match="Feature number can't be computed") as caught:
        features.compute(frame)
    assert "not one" not in str(caught.value), "Polars quotes values, which may be a person's"
    assert "not one" in str(caught.value.__cause__), "who builds a model reads it in the traceback"


def test_a_feature_on_which_polars_panics_is_named_like_any_other() -> None:
    features = RowFeatures({"fine": pl.col("a"), "text": pl.col("at").cast(pl.String)}, COLUMNS)
    far = pl.Series("at", [2**63 - 1]).cast(COLUMNS["at"])
    with pytest.raises(DeclarationError, match="Feature text can't be computed: PanicException"):
        features.compute(pl.DataFrame({"a": [1], "b": [1.0], "c": [""], "at": far}, schema=COLUMNS))


@pytest.mark.parametrize("expr", [pl.col("at"), pl.col("at") - pl.col("at"), pl.lit(None)], ids=str)
def test_a_feature_that_is_no_number_boolean_or_string_is_refused(expr: pl.Expr) -> None:
    with pytest.raises(DeclarationError, match="which no model can take"):
        RowFeatures({"x": expr}, COLUMNS)
