"""Several expressions as one function of a row: what compiles as Python, the rest by Polars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from pilotage.features.compiled.compiler import Compiler
from pilotage.features.rows import evaluate
from pilotage.features.timeline import stored_type


class CompiledRow:
    """Expressions over one row's columns. Safe to share between threads.

    Values are as ``values.py`` says: times as microseconds, dates as days, null as ``None``.
    """

    def __init__(self, expressions: Mapping[str, pl.Expr], columns: Mapping[str, pl.DataType]) -> None:
        """Compiles once.

        Args:
            expressions: What to compute, by name; each looks at its own row only.
            columns: The row's columns with their types, in the order in which values come.
        """
        self.names = tuple(expressions)
        self._expressions = dict(expressions)
        self._columns = dict(columns)
        compiler = Compiler(columns)
        results: dict[str, str] = {}
        for name, expr in expressions.items():
            value = compiler.attempt(json.loads(expr.meta.serialize(format="json")))
            if value is not None:
                results[name] = value.name
        self.left_to_polars = tuple(name for name in self.names if name not in results)
        """Names of those that are not compiled."""
        self._slots = [position for position, name in enumerate(self.names) if name not in results]
        self._function = _function(compiler, [results.get(name, "None") for name in self.names])

    def __call__(self, row: Sequence[Any]) -> list[Any]:
        """The expressions' values, in their order.

        Raises:
            DeclarationError: An expression can't be computed from these values.
        """
        try:
            values = self._function(row)
        except Exception:
            # A value beyond what Python's own types hold, or one that Polars refuses, too. Polars decides.
            return self._by_polars(row, self.names)
        if self._slots:
            rest = self._by_polars(row, self.left_to_polars)
            for slot, value in zip(self._slots, rest, strict=True):
                values[slot] = value
        return values

    def _by_polars(self, row: Sequence[Any], names: Sequence[str]) -> list[Any]:
        frame = frame_of([row], self._columns)
        wanted = {name: self._expressions[name] for name in names}
        return list(evaluate(frame, wanted).select(wanted.keys()).select(pl.all().to_physical()).row(0))


def frame_of(rows: Sequence[Sequence[Any]], columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows of values, as ``CompiledRow`` takes them, as a typed frame."""
    stored = {name: dtype if dtype == pl.Boolean() else stored_type(dtype) for name, dtype in columns.items()}
    frame = pl.DataFrame(rows, schema=stored, orient="row")
    return frame.cast({name: dtype for name, dtype in columns.items() if dtype != stored[name]})


def _function(compiler: Compiler, results: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
    columns = [f"    c{position} = row[{position}]" for position in sorted(compiler.used)]
    steps = [f"    {line}" for line in compiler.lines]
    source = "\n".join(["def compute(row):", *columns, *steps, f"    return [{', '.join(results)}]"])
    namespace: dict[str, Any] = {"__builtins__": {}, **compiler.constants}
    # The text is this package's own templates over numbered names; a bundle's contents are objects in the namespace.
    exec(compile(source, "<row features>", "exec"), namespace)  # noqa: S102
    function: Callable[[Sequence[Any]], list[Any]] = namespace["compute"]
    return function
