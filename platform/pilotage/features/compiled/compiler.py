"""Turns a serialised expression into Python statements, step by step, each value in a variable of its own.

The text that is generated consists of this package's templates, of variables ``v0…`` and ``c0…``, and of constants
``k0…`` that are handed in as objects: nothing that stands in a bundle ever becomes code. Which type a step has is asked
of Polars; how it is computed is in ``operators.py`` and ``functions.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from pilotage.features.compiled import arithmetic, functions, operators
from pilotage.features.compiled.values import (
    BOOLEAN,
    FLOAT,
    INTEGERS,
    TEXT,
    Value,
    fits,
    is_duration,
    is_known,
    is_micros,
    widens,
)
from pilotage.features.plain import reads_columns

Tree = Any
"""A decoded expression; untrusted, so every step checks what it reads."""


class Compiler:
    """The statements of several expressions over the same columns; what they share is computed once."""

    def __init__(self, columns: Mapping[str, pl.DataType]) -> None:
        self.constants: dict[str, object] = {}
        self.used: list[int] = []
        """Positions of the columns that are read, in the order of first use."""
        self.lines: list[str] = []
        self._columns = dict(columns)
        self._positions = {name: position for position, name in enumerate(columns)}
        self._empty = pl.DataFrame(schema=self._columns)
        self._values: dict[str, Value] = {}
        """Serialised step → its value."""
        self._texts: dict[str, str] = {}
        """Generated text → the variable that holds it."""

    def compile(self, tree: Tree) -> Value:
        """Adds the statements of an expression, and gives the value that holds it.

        Raises:
            NotImplementedError: A step in it is not proved to give Polars' bits.
        """
        key = json.dumps(tree, sort_keys=True)
        if key not in self._values:
            self._values[key] = self._compile(tree)
        return self._values[key]

    def attempt(self, tree: Tree) -> Value | None:
        """``compile``, or ``None`` and nothing added if that can't be done."""
        values, texts, lines = len(self._values), len(self._texts), len(self.lines)
        try:
            return self.compile(tree)
        except (NotImplementedError, RecursionError, LookupError, TypeError, ValueError, AttributeError):
            # Whatever stands in a tree that was not expected: Polars knows it.
            for known, before in ((self._values, values), (self._texts, texts)):
                for key in list(known)[before:]:
                    del known[key]
            del self.lines[lines:]
            return None

    def _compile(self, tree: Tree) -> Value:
        if not isinstance(tree, dict) or len(tree) != 1:
            raise NotImplementedError
        ((kind, content),) = tree.items()
        if kind == "Column":
            return self._column(content)
        if kind == "Literal":
            return self._literal(content, tree)
        if kind == "Alias":
            return self.compile(content[0])
        if not reads_columns(tree):
            # Without a column Polars folds it to one value; untyped literals would take their types in ways of its own.
            if _has_untyped(tree) and kind != "Cast":
                raise NotImplementedError
            return self._folded(tree)
        dtype = self.dtype_of(tree)
        match kind:
            case "BinaryExpr":
                left, right = self.compile(content["left"]), self.compile(content["right"])
                return operators.binary(self, content["op"], left, right, dtype)
            case "Function":
                return functions.function(self, content["function"], content["input"], dtype)
            case "Ternary":
                chosen, other = (self.compile(content[name]) for name in ("truthy", "falsy"))
                return self._ternary(self.compile(content["predicate"]), chosen, other, dtype)
            case "Cast":
                return self._cast(self.compile(content["expr"]), dtype, content["options"])
        raise NotImplementedError

    def dtype_of(self, tree: Tree) -> pl.DataType:
        """The type that Polars gives to an expression over the columns."""
        try:
            expr = pl.Expr.deserialize(json.dumps(tree).encode(), format="json")
            dtype = self._empty.select(expr.alias("_")).schema["_"]
        except PolarsError as error:
            raise NotImplementedError from error
        if not is_known(dtype):
            raise NotImplementedError
        return dtype

    # What operators and functions build with.

    def emit(self, text: str, dtype: pl.DataType, *, nullable: bool) -> Value:
        """Adds a statement, unless its value was computed before."""
        name = self._texts.get(text)
        if name is None:
            name = self._texts[text] = f"v{len(self._texts)}"
            self.lines.append(f"{name} = {text}")
        return Value(name, dtype, nullable)

    def constant(self, value: object) -> str:
        """A name for an object that the generated code uses."""
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def shared(self, function: Callable[..., object]) -> str:
        """``constant``, with one name for each function, so that steps that call it can be told to be the same."""
        name = next((name for name, known in self.constants.items() if known is function), None)
        return name or self.constant(function)

    def scalar(self, value: object, dtype: pl.DataType) -> Value:
        """A value that is the same in every row."""
        return Value(self.constant(value), dtype, value is None, scalar=True)

    def value_of(self, scalar: Value) -> Any:
        """What a scalar holds."""
        if not scalar.scalar:
            raise NotImplementedError
        return self.constants[scalar.name]

    def apply(self, text: str, operands: list[Value], dtype: pl.DataType, *, nullable: bool = False) -> Value:
        """Adds a step that is null where an operand is; ``nullable`` says that it can be null elsewhere, too."""
        nulls = [f"{value.name} is None" for value in operands if value.nullable]
        guarded = f"None if {' or '.join(nulls)} else {text}" if nulls else text
        return self.emit(guarded, dtype, nullable=bool(nulls) or nullable)

    def call(
        self, function: Callable[..., object], operands: list[Value], dtype: pl.DataType, *, nullable: bool = False
    ) -> Value:
        """``apply`` with a function, which is the same one for the same arguments."""
        text = f"{self.shared(function)}({', '.join(value.name for value in operands)})"
        return self.apply(text, operands, dtype, nullable=nullable)

    def as_type(self, value: Value, dtype: pl.DataType) -> Value:
        """The value as the type that Polars' coercion gives it; only conversions that lose nothing, and to float."""
        if value.dtype == pl.Null():
            return self.scalar(None, dtype)
        if value.number is not None:
            return self._typed(value.number, dtype)
        if value.dtype == dtype or (value.dtype == pl.Float32() and dtype == FLOAT):
            return Value(value.name, dtype, value.nullable, value.scalar)
        if value.scalar:
            raise NotImplementedError
        if value.dtype in INTEGERS:
            if dtype in INTEGERS and widens(value.dtype, dtype):
                return Value(value.name, dtype, value.nullable)
            if dtype == FLOAT:
                return self.call(float, [value], FLOAT)
        raise NotImplementedError

    def _typed(self, number: int | float, dtype: pl.DataType) -> Value:
        if dtype == FLOAT:
            return self.scalar(float(number), dtype)
        if dtype in INTEGERS and isinstance(number, int) and fits(number, dtype):
            return self.scalar(number, dtype)
        raise NotImplementedError

    # The kinds of steps.

    def _column(self, name: Tree) -> Value:
        if not isinstance(name, str) or name not in self._positions or not is_known(self._columns[name]):
            raise NotImplementedError
        position = self._positions[name]
        if position not in self.used:
            self.used.append(position)
        return Value(f"c{position}", self._columns[name])

    def _literal(self, content: Tree, tree: Tree) -> Value:
        if isinstance(content, dict) and "Dyn" in content:
            ((kind, number),) = content["Dyn"].items()
            if kind not in ("Int", "Float") or not isinstance(number, (int, float)) or isinstance(number, bool):
                raise NotImplementedError
            if kind == "Int":
                if not isinstance(number, int) or not fits(number, pl.Int64()):
                    raise NotImplementedError
                dtype: pl.DataType = pl.Int32() if fits(number, pl.Int32()) else pl.Int64()
                return Value(self.constant(number), dtype, nullable=False, scalar=True, number=number)
            return Value(self.constant(float(number)), FLOAT, nullable=False, scalar=True, number=float(number))
        return self._folded(tree)

    def _folded(self, tree: Tree) -> Value:
        """A value that depends on no column, as Polars computes it."""
        try:
            series = pl.select(pl.Expr.deserialize(json.dumps(tree).encode(), format="json").alias("_"))["_"]
        except PolarsError as error:
            raise NotImplementedError from error
        if len(series) != 1:
            raise NotImplementedError
        dtype = series.dtype
        if isinstance(dtype, pl.List):
            # Only is_in takes one.
            return self.scalar(tuple(series.item().to_list()), dtype)
        if not is_known(dtype) or (dtype == pl.Float32()):
            raise NotImplementedError
        return self.scalar(series.to_physical().item(), dtype)

    def _ternary(self, predicate: Value, chosen: Value, other: Value, dtype: pl.DataType) -> Value:
        if predicate.dtype != BOOLEAN:
            raise NotImplementedError
        chosen, other = self.as_type(chosen, dtype), self.as_type(other, dtype)
        # A predicate that is null chooses the other.
        text = f"{chosen.name} if {predicate.name} else {other.name}"
        return self.emit(text, dtype, nullable=chosen.nullable or other.nullable)

    def _cast(self, value: Value, target: pl.DataType, options: Tree) -> Value:
        if value.scalar:
            raise NotImplementedError
        source = value.dtype
        if source == target or (source == pl.Float32() and target == FLOAT):
            return Value(value.name, target, value.nullable)
        if source in INTEGERS:
            return self._cast_integer(value, target, options)
        if source == BOOLEAN and (target in INTEGERS or target == FLOAT):
            return self.call(int if target in INTEGERS else float, [value], target)
        if source == FLOAT:
            if target == BOOLEAN:
                return self.apply(f"{value.name} != 0", [value], BOOLEAN)
            if target in INTEGERS and options == "Strict":
                return self.call(arithmetic.truncate(*INTEGERS[target]), [value], target)
            if target in INTEGERS and options == "NonStrict":
                return self.call(arithmetic.truncate_or_null(*INTEGERS[target]), [value], target, nullable=True)
        if (is_micros(source) or is_duration(source)) and target == pl.Int64():
            return Value(value.name, target, value.nullable)
        raise NotImplementedError

    def _cast_integer(self, value: Value, target: pl.DataType, options: Tree) -> Value:
        if target in INTEGERS:
            if widens(value.dtype, target):
                return Value(value.name, target, value.nullable)
            low, high = INTEGERS[target]
            if options == "Strict":
                return self.call(arithmetic.checked(low, high), [value], target)
            if options == "NonStrict":
                text = f"({value.name} if {low} <= {value.name} <= {high} else None)"
                return self.apply(text, [value], target, nullable=True)
            if options == "Overflowing":
                return self.call(arithmetic.wrap(low, high), [value], target)
        if target == FLOAT:
            return self.call(float, [value], FLOAT)
        if target == BOOLEAN:
            return self.apply(f"{value.name} != 0", [value], BOOLEAN)
        if target == TEXT:
            return self.call(str, [value], TEXT)
        if value.dtype == pl.Int64() and (is_micros(target) or is_duration(target)):
            return Value(value.name, target, value.nullable)
        raise NotImplementedError


def _has_untyped(tree: Tree) -> bool:
    if isinstance(tree, dict):
        return any(key == "Dyn" or _has_untyped(value) for key, value in tree.items())
    return isinstance(tree, list) and any(map(_has_untyped, tree))
