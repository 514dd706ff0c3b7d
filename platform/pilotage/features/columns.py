"""One column of a batch of rows: its values as they are stored, and the same as the doubles that a model reads.

Most columns go from the state to the model as they are. So each is kept in the form in which it came, and the other one
is made when somebody asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NULL = -(2**63)
"""Stands for null in an array of integers."""


class Column:
    """A column of values or numbers; never changes once it is made."""

    __slots__ = ("_held", "_numbers", "_values")

    def __init__(self, held: list[Any] | np.ndarray) -> None:
        """Takes a column.

        Args:
            held: Values as ``features/compiled/values.py`` says, null as ``None``; or an array of int64 (null is
                ``NULL``) or float64 (null is NaN).
        """
        self._held = held
        self._values: list[Any] | None = held if isinstance(held, list) else None
        self._numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def values(self) -> list[Any]:
        """The values; null is ``None``."""
        if self._values is None:
            values: list[Any] = self._held.tolist()  # type: ignore[union-attr]
            nulls = self._nulls()
            if np.count_nonzero(nulls):
                for position in nulls.nonzero()[0].tolist():
                    values[position] = None
            self._values = values
        return self._values

    @property
    def numbers(self) -> np.ndarray:
        """The values as float64; null is NaN. Not for text."""
        if self._numbers is None:
            if isinstance(self._held, list):
                # NumPy takes None for NaN.
                self._numbers = np.array(self._held, dtype=np.float64)
            elif self._held.dtype == np.float64:
                self._numbers = self._held
            else:
                self._numbers = self._held.astype(np.float64)
                self._numbers[self._nulls()] = np.nan
        return self._numbers

    def _nulls(self) -> np.ndarray:
        held: Any = self._held
        nulls: np.ndarray = np.isnan(held) if held.dtype == np.float64 else held == NULL
        return nulls
