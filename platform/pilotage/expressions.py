"""Polars expressions as data: written to JSON, read back, and never able to carry code.

An expression that holds a Python function serialises to a pickle, and reading it back would run whatever is in it. So
both directions refuse one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import polars as pl

from pilotage.errors import DeclarationError

_CODE_NODES = ("anonymous", "python", "plugin", "udf")
_PYTHON_FUNCTION_MAGIC = list(b"PLPYFN")


def to_json(expr: pl.Expr, *, name: str) -> str:
    """Serialises an expression.

    Args:
        expr: Any Polars expression without a Python function in it.
        name: What the expression is, for the error.

    Raises:
        DeclarationError: The expression holds a Python function, a plugin, or something Polars can't write, or can't
            read again.
    """
    try:
        text = expr.meta.serialize(format="json")
    except Exception as error:
        raise DeclarationError(
            f"The expression of {name} can't be written down: {error}.", fix="Use Polars expressions only.", name=name
        ) from error
    _refuse_code(text, name)
    try:
        pl.Expr.deserialize(text.encode(), format="json")
    except Exception as error:
        # JSON has one word for NaN and the infinities, and it is none of theirs.
        raise DeclarationError(
            f"The expression of {name} can't be read again once it is written down: {error}.",
            fix='Write a number that is not finite as a text: pl.lit("nan").cast(pl.Float64), or "inf".',
            name=name,
        ) from error
    return text


def from_json(text: str, *, name: str) -> pl.Expr:
    """Reads an expression that ``to_json`` wrote.

    Raises:
        DeclarationError: The text is no expression, or holds code.
    """
    _refuse_code(text, name)
    try:
        return pl.Expr.deserialize(text.encode(), format="json")
    except Exception as error:
        raise DeclarationError(
            f"The stored expression of {name} can't be read: {error}.",
            fix="Use the Polars version that the bundle's manifest names.",
            name=name,
        ) from error


def columns_of(expr: pl.Expr) -> set[str]:
    """Names of the columns that an expression reads."""
    return set(expr.meta.root_names())


def _refuse_code(text: str, name: str) -> None:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise DeclarationError(
            f"The stored expression of {name} is not JSON.", fix="Restore the file from the registry.", name=name
        ) from error
    for kind in _nodes(tree):
        if any(word in kind.lower() for word in _CODE_NODES):
            raise DeclarationError(
                f"The expression of {name} holds a Python function ({kind}).",
                fix="Write it with Polars expressions; map_elements and map_batches can't be served.",
                name=name,
            )


def _nodes(tree: object) -> Iterator[str]:
    """Every node name in a serialised expression; byte strings that hold a pickled function count as one."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            # The names of columns and the contents of literals are data, not nodes.
            if key in ("Column", "Literal", "Alias") and not isinstance(value, (dict, list)):
                continue
            yield key
            yield from _nodes(value)
    elif isinstance(tree, list):
        if tree[: len(_PYTHON_FUNCTION_MAGIC)] == _PYTHON_FUNCTION_MAGIC:
            yield "PythonFunction"
        for item in tree:
            if isinstance(item, (dict, list)):
                yield from _nodes(item)
