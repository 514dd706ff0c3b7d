"""Expressions that give plain columns at every step, so that no row's value depends on the rows beside it.

Where every row of a choice takes the branch that is a literal, the choice comes out of Polars as a constant, and with a
constant it computes on by other formulas than with a column: ``x / when(p).then(49.0).otherwise(50.0)`` is a
multiplication by ``1 / 49`` where ``p`` holds in every row, and a division everywhere else. So each such choice is made
a plain column before anything computes with it. The bits are those that it has among many different rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NewType

import polars as pl

Plain = NewType("Plain", dict[str, pl.Expr])
"""Expressions by name, as ``plain`` gives them."""
Tree = Any
"""A decoded expression."""

_HANDED_ON = ("Alias", "Cast", "expr", "options", "dtype", "Ternary", "truthy", "falsy")
"""Steps, and parts of them, that only hand a choice on."""


def plain(expressions: Mapping[str, pl.Expr]) -> Plain:
    """The same expressions, whose choices are columns wherever something computes with them."""
    return Plain({name: _made(expr) for name, expr in expressions.items()})


def reads_columns(tree: Tree) -> bool:
    """Whether a step depends on the row at all."""
    if isinstance(tree, dict):
        return any(key == "Column" or (key != "Literal" and reads_columns(value)) for key, value in tree.items())
    return isinstance(tree, list) and any(map(reads_columns, tree))


def _made(expr: pl.Expr) -> pl.Expr:
    tree = json.loads(expr.meta.serialize(format="json"))
    made = _plain(tree, computed_with=False)
    return expr if made == tree else pl.Expr.deserialize(json.dumps(made).encode(), format="json")


def _plain(tree: Tree, *, computed_with: bool) -> Tree:
    if isinstance(tree, list):
        return [_plain(each, computed_with=computed_with) for each in tree]
    if not isinstance(tree, dict) or "Literal" in tree:
        return tree
    made = {key: _plain(value, computed_with=computed_with or key not in _HANDED_ON) for key, value in tree.items()}
    return _column(made) if computed_with and any(not reads_columns(each) for each in _branches(tree)) else made


def _branches(tree: Tree) -> list[Tree]:
    """What a choice chooses from."""
    match tree:
        case {"Ternary": {"truthy": chosen, "falsy": other}}:
            return [chosen, other]
        case {"Function": {"function": "Coalesce", "input": choices}}:
            return list(choices)
    return []


def _column(choice: Tree) -> Tree:
    """A shift by no row: it changes neither value nor type, and gives a plain column."""
    return {"Function": {"input": [choice, {"Literal": {"Dyn": {"Int": 0}}}], "function": "Shift"}}
