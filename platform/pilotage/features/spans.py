"""Where each key's rows are in a timeline in memory, and where among them to look for a moment.

A bisect over the 8,000 rows of a busy key probes 13 places, most of them in no cache. So a span of many rows has an
index: buckets of 2^shift microseconds, of which each knows its first row. What is left to bisect are two to four rows.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from pilotage.features.state import Key

Span = tuple[int, int, None] | tuple[int, int, int, int, int, int]
"""The first row, the row after the last, and ``None``. In a span of many rows, instead of it: ``shift``, the moments of
the first and of the last row, and ``offset``: a moment between them is in bucket ``(moment >> shift) + offset``."""

_MANY = 64
"""Rows from which a span has an index: fewer are bisected in the same time."""
_MOST = 2**31 - 1
"""Rows that four bytes can count."""


class Spans:
    """The spans of one timeline, made while its rows are read."""

    __slots__ = ("edges", "of", "parts")

    def __init__(self, parts: int) -> None:
        """Starts without any.

        Args:
            parts: Of a key. One part is kept as it is: so no look-up makes a tuple.
        """
        self.parts = parts
        self.of: dict[Any, Span] = {}
        """Key, as ``kept`` gives it → its span, in the order of the rows."""
        self.edges = array("i")
        """The first row of each bucket; after the last bucket of a span, the row after its last. 1 to 2 bytes a row."""

    def kept(self, key: Key) -> Any:
        """How ``of`` has a key."""
        return key[0] if self.parts == 1 else key

    def add(self, kept: Any, first: int, end: int, known_at: array[int]) -> None:
        """Adds a key that follows the others.

        Args:
            kept: The key, as ``of`` has it.
            first: Its first row.
            end: The row after its last.
            known_at: Microseconds since 1970 UTC; ascending among its rows.
        """
        indexed = end - first >= _MANY and end <= _MOST
        self.of[kept] = self._indexed(first, end, known_at) if indexed else (first, end, None)

    def _indexed(self, first: int, end: int, known_at: array[int]) -> Span:
        begins, ends = known_at[first], known_at[end - 1]
        shift = (2 * (ends - begins) // (end - first)).bit_length()
        bucket = begins >> shift
        starts = np.arange(bucket, (ends >> shift) + 1) << shift
        edges = np.asarray(known_at)[first:end].searchsorted(starts) + first
        offset = len(self.edges) - bucket
        # As bytes: a list of numbers would keep other threads waiting.
        self.edges.frombytes(edges.astype(np.intc).tobytes())
        self.edges.append(end)
        return first, end, shift, begins, ends, offset
