"""Row features: expressions over one row's columns, computed the same way for a year of rows and for one request.

Only values computed from the row itself live here. What a row needs to know of other rows is an as-of feature
(``asof.py``); expressions that peek at other rows are refused, since they would answer differently one row at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from polars.exceptions import InvalidOperationError, PolarsError

from pilotage.errors import DeclarationError
from pilotage.spec import ModelSpec


def compute_features(features: ModelSpec | Mapping[str, pl.Expr], frame: pl.DataFrame) -> pl.DataFrame:
    """Adds every feature to a frame of request and as-of columns.

    Integers become Int64 and floats Float64, so that a feature has the same type in the lake, in a bundle and in a
    request. Grain and order of the rows stay.

    Args:
        features: A spec, or feature name → expression.
        frame: Request and as-of columns; other columns are carried along.

    Raises:
        DeclarationError: A feature can't be computed on these columns, or is no number, boolean or string.
    """
    expressions = _expressions(features)
    try:
        computed = frame.with_columns(**expressions)
    except PolarsError as error:
        raise _explain(expressions, frame, error) from error
    casts: dict[str, pl.DataType] = {}
    for name in expressions:
        dtype = computed.schema[name]
        wanted = feature_type(name, dtype)
        if wanted != dtype:
            casts[name] = wanted
    return computed.cast(casts) if casts else computed  # type: ignore[arg-type]


def feature_schema(
    features: ModelSpec | Mapping[str, pl.Expr], columns: Mapping[str, pl.DataType] | None = None
) -> dict[str, pl.DataType]:
    """Feature → its type, in the order of declaration.

    Args:
        features: A spec, or feature name → expression.
        columns: Request and as-of columns with their types; a spec knows its own.

    Raises:
        DeclarationError: A feature looks at other rows, does not fit the columns, or is no number, boolean or string.
    """
    if isinstance(features, ModelSpec):
        columns = {**features.request_types(), **features.state_types()}
    expressions = _expressions(features)
    for name, expr in expressions.items():
        require_row_wise(f"feature {name}", expr)
    computed = compute_features(expressions, pl.DataFrame(schema=dict(columns or {})))
    return {name: computed.schema[name] for name in expressions}


def feature_type(name: str, dtype: pl.DataType) -> pl.DataType:
    """The type that a feature of this type is kept as: Int64, Float64, Boolean or String.

    Raises:
        DeclarationError: A model can't take a value of this type.
    """
    if dtype.is_integer():
        return pl.Int64()
    if dtype.is_float():
        return pl.Float64()
    if dtype in (pl.Boolean(), pl.String()):
        return dtype
    raise DeclarationError(
        f"Feature {name} is {dtype}, which no model can take.",
        fix="Make it a number, a boolean or a string: a duration by .dt.total_minutes(), an empty literal by a cast.",
        feature=name,
    )


def require_row_wise(name: str, expr: pl.Expr) -> None:
    """Refuses an expression whose value in one row depends on other rows.

    Raises:
        DeclarationError: It aggregates, shifts, ranks, sorts, filters or names several columns at once.
    """
    if not _row_wise(expr):
        raise DeclarationError(
            f"{name} looks at other rows: {expr}.",
            fix="Use the row's own columns; declare what other rows tell as an as-of feature (Latest or Window).",
            name=name,
        )


def _row_wise(expr: pl.Expr) -> bool:
    """Polars flags the outermost step alone, so every step below it is asked too."""
    meta = expr.meta
    try:
        separable = meta.is_row_separable() and (meta.is_length_preserving() or not meta.root_names())
    except InvalidOperationError:  # A selector such as pl.all(): it has no single output.
        return False
    return separable and all(_row_wise(step) for step in meta.pop())


def _expressions(features: ModelSpec | Mapping[str, pl.Expr]) -> Mapping[str, pl.Expr]:
    if isinstance(features, ModelSpec):
        return {feature.name: feature.expr for feature in features.features}
    return features


def _explain(expressions: Mapping[str, pl.Expr], frame: pl.DataFrame, error: PolarsError) -> DeclarationError:
    """Finds the feature that fails, which Polars does not name."""
    for name, expr in expressions.items():
        try:
            frame.with_columns(**{name: expr})
        except PolarsError as failure:
            return DeclarationError(
                f"Feature {name} can't be computed: {failure}.", fix="Correct its expression.", feature=name
            )
    return DeclarationError(f"The features can't be computed together: {error}.", fix="Correct their expressions.")
