"""Row features: expressions over one row's columns, computed the same way for a year of rows and for one request.

Only values computed from the row itself live here. What a row needs to know of other rows is an as-of feature
(``asof.py``); expressions that peek at other rows are refused, since they would answer differently one row at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from polars.exceptions import InvalidOperationError, PanicException, PolarsError

from pilotage.errors import DeclarationError
from pilotage.features.plain import Plain, plain
from pilotage.spec import ModelSpec

POLARS_FAILS = (PolarsError, PanicException)
"""What Polars raises where it can't compute. A panic is no ``Exception``: whoever does not name it lets it through."""


class RowFeatures:
    """The features of a model, checked once against the columns they are computed from.

    Integers become Int64 and floats Float64, so that a feature has the same type in the lake, in a bundle and in an
    answer.
    """

    def __init__(self, features: Mapping[str, pl.Expr], columns: Mapping[str, pl.DataType]) -> None:
        """Checks every feature.

        Args:
            features: Feature name → expression.
            columns: Request and as-of columns with their types.

        Raises:
            DeclarationError: A feature looks at other rows, does not fit the columns, or is no number, boolean or
                string.
        """
        self.schema: dict[str, pl.DataType] = {}
        """Features with their types, in the order of declaration."""
        self.expressions: dict[str, pl.Expr] = {}
        """Features with their expressions, cast to the types of ``schema``."""
        empty = pl.DataFrame(schema=dict(columns))
        for name, expr in features.items():
            require_row_wise(f"Feature {name}", expr)
            try:
                dtype = empty.select(expr.alias(name)).schema[name]
            except POLARS_FAILS as error:
                raise _uncomputable(name, str(error)) from error
            self.schema[name] = _kept_type(name, dtype)
            self.expressions[name] = expr if dtype == self.schema[name] else expr.cast(self.schema[name])
        self._plain = plain(self.expressions)

    @classmethod
    def of(cls, spec: ModelSpec) -> RowFeatures:
        """The features of a spec."""
        return cls({each.name: each.expr for each in spec.features}, {**spec.request_types(), **spec.state_types()})

    def compute(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds every feature to a frame of request and as-of columns; other columns and the order of rows stay.

        Raises:
            DeclarationError: A feature can't be computed from these values.
        """
        return evaluate(frame, self._plain)


def evaluate(frame: pl.DataFrame, expressions: Plain) -> pl.DataFrame:
    """Adds expressions to a frame, so that a row's values do not depend on the rows beside it.

    With a column of one row, or one that it knows to be constant, Polars computes by other formulas than with a column
    of many, and the last bit differs: ``x / 49`` is a division for one row, a multiplication by ``1 / 49`` for many.
    So every frame is shown to it as many rows of plain columns, which ``plain.py`` keeps plain at every step: what
    training sees is what serving sees.

    Raises:
        DeclarationError: An expression can't be computed from these values. It does not say from which: Polars' words,
            which quote values, are those of its cause.
    """
    alone = frame.height == 1
    shown = pl.concat([frame, frame]) if alone else frame
    # A constant column becomes a plain one when it is taken out.
    shown = shown.with_columns(shown.get_columns())
    try:
        computed = shown.with_columns(**expressions)
    except POLARS_FAILS as error:
        raise _culprit(shown, expressions, error) from error
    return computed.head(1) if alone else computed


def _culprit(frame: pl.DataFrame, expressions: Plain, error: BaseException) -> DeclarationError:
    """Finds the expression that fails, which Polars does not name."""
    for name, expr in expressions.items():
        try:
            frame.select(expr)
        except POLARS_FAILS as failure:
            return _uncomputable(name, type(failure).__name__)
    return DeclarationError(
        f"The features can't be computed together: {type(error).__name__}.", fix="Correct their expressions."
    )


def feature_schema(spec: ModelSpec) -> dict[str, pl.DataType]:
    """Feature → its type, in the order of declaration. Raises as ``RowFeatures`` does."""
    return RowFeatures.of(spec).schema


def compute_features(spec: ModelSpec, frame: pl.DataFrame) -> pl.DataFrame:
    """Adds every feature of a spec to a frame of request and as-of columns. Raises as ``RowFeatures`` does."""
    return RowFeatures.of(spec).compute(frame)


def require_row_wise(name: str, expr: pl.Expr) -> None:
    """Refuses an expression whose value in one row depends on other rows.

    Raises:
        DeclarationError: It aggregates, shifts, ranks, sorts, filters, or names several columns at once.
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


def _kept_type(name: str, dtype: pl.DataType) -> pl.DataType:
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


def _uncomputable(name: str, why: str) -> DeclarationError:
    return DeclarationError(f"Feature {name} can't be computed: {why}.", fix="Correct its expression.", feature=name)
