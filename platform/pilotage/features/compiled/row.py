"""Several expressions as one function of a row: what compiles as Python, the rest by Polars. The same for many rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any

import polars as pl

from pilotage.features.columns import Column
from pilotage.features.compiled.compiler import Compiler
from pilotage.features.plain import Plain, plain
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
        self._expressions = plain(expressions)
        self._columns = dict(columns)
        compiler = Compiler(columns)
        results: dict[str, str] = {}
        for name, expr in self._expressions.items():
            value = compiler.attempt(json.loads(expr.meta.serialize(format="json")))
            if value is not None:
                results[name] = value.name
        self.left_to_polars = tuple(name for name in self.names if name not in results)
        """Names of those that are not compiled."""
        self._slots = [position for position, name in enumerate(self.names) if name not in results]
        names = [results.get(name, "None") for name in self.names]
        self._function = _function(compiler, names)
        self._of_columns = _OfColumns(compiler, names)

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

    def many(self, columns: Sequence[Column]) -> list[Column]:
        """The same of many rows, each by itself: a column an expression.

        Raises:
            DeclarationError: An expression can't be computed from the values of some row.
        """
        if not self._slots:
            # What raises may be one row alone, and is what Polars decides about; see above.
            with suppress(Exception):
                return self._of_columns(columns)
        rows = [self(row) for row in zip(*(column.values for column in columns), strict=True)]
        return [Column([row[slot] for row in rows]) for slot in range(len(self.names))]

    def _by_polars(self, row: Sequence[Any], names: Sequence[str]) -> list[Any]:
        frame = frame_of([row], self._columns)
        wanted = Plain({name: self._expressions[name] for name in names})
        return list(evaluate(frame, wanted).select(wanted.keys()).select(pl.all().to_physical()).row(0))


def frame_of(rows: Sequence[Sequence[Any]], columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows of values, as ``CompiledRow`` takes them, as a typed frame."""
    stored = {name: dtype if dtype == pl.Boolean() else stored_type(dtype) for name, dtype in columns.items()}
    frame = pl.DataFrame(rows, schema=stored, orient="row")
    return frame.cast({name: dtype for name, dtype in columns.items() if dtype != stored[name]})


class _OfColumns:
    """The compiled expressions over columns. An expression that is a column is that column; no row is looked at."""

    def __init__(self, compiler: Compiler, results: Sequence[str]) -> None:
        self._same = [int(name[1:]) if name in _columns_in(results) else None for name in results]
        computed = [name for name, same in zip(results, self._same, strict=True) if same is None]
        reads = _columns_in([*compiler.lines, *computed])
        self._reads = [int(name[1:]) for name in reads]
        self._function = (
            _compiled(
                compiler,
                "def compute(rows):",
                "    made = []",
                f"    for {', '.join([*reads, ''])} in rows:" if reads else "    for _ in rows:",
                *(f"        {line}" for line in compiler.lines),
                f"        made.append(({', '.join([*computed, ''])}))",
                "    return made",
            )
            if computed
            else None
        )

    def __call__(self, columns: Sequence[Column]) -> list[Column]:
        made = self._computed(columns)
        return [Column(list(next(made))) if same is None else columns[same] for same in self._same]

    def _computed(self, columns: Sequence[Column]) -> Iterator[Iterable[Any]]:
        """The values of each expression that is more than a column."""
        if self._function is None or not len(columns[0]):
            return repeat(())
        read = [columns[position].values for position in self._reads]
        rows = zip(*read, strict=True) if read else range(len(columns[0]))
        return zip(*self._function(rows), strict=True)


def _columns_in(texts: Iterable[str]) -> list[str]:
    """The columns that generated statements read, in order."""
    return sorted(set(re.findall(r"\bc[0-9]+\b", "\n".join(texts))))


def _function(compiler: Compiler, results: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
    return _compiled(
        compiler,
        "def compute(row):",
        *(f"    c{position} = row[{position}]" for position in sorted(compiler.used)),
        *(f"    {line}" for line in compiler.lines),
        f"    return [{', '.join(results)}]",
    )


def _compiled(compiler: Compiler, *lines: str) -> Callable[[Any], list[Any]]:
    namespace: dict[str, Any] = {"__builtins__": {}, **compiler.constants}
    # The text is this package's own templates over numbered names; a bundle's contents are objects in the namespace.
    exec(compile("\n".join(lines), "<row features>", "exec"), namespace)  # noqa: S102
    function: Callable[[Any], list[Any]] = namespace["compute"]
    return function
