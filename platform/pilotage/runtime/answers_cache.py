"""What a worker remembers of its answers, by a key that the caller makes. For the event loop's thread alone."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

V = TypeVar("V")


_PART = 1_000
"""Entries that are kept together. A dictionary that forgets as much as it learns is made anew now and then, and one of
ten thousand entries stops the loop for a millisecond then."""


class Remembered(Generic[V]):
    """A bounded memory; what was not asked for longest is forgotten first, among those that are kept together."""

    __slots__ = ("_parts", "_size", "hits", "misses")

    def __init__(self, size: int) -> None:
        """Remembers up to ``size`` entries; with 0, none."""
        parts = max(1, size // _PART)
        self._size = size // parts
        """Of a part."""
        self._parts: list[OrderedDict[Hashable, V]] = [OrderedDict() for _ in range(parts)]
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def get(self, key: Hashable) -> V | None:
        """What was put there, if it is still known."""
        entries = self._part(key)
        found = entries.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        entries.move_to_end(key)
        return found

    def put(self, key: Hashable, value: V) -> None:
        """Remembers an entry."""
        if not self._size:
            return
        entries = self._part(key)
        before = len(entries)
        entries[key] = value
        if len(entries) == before:
            entries.move_to_end(key)
        elif before == self._size:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything."""
        for part in self._parts:
            part.clear()

    def _part(self, key: Hashable) -> OrderedDict[Hashable, V]:
        return self._parts[hash(key) % len(self._parts)]


class Recorded(Generic[V]):
    """A bounded memory that is written with every answer and hardly ever read: to write costs a tenth of a microsecond,
    and what was written since is sorted in when somebody asks. What is oldest is forgotten first."""

    __slots__ = ("_known", "_size", "_waiting", "_written")

    def __init__(self, size: int) -> None:
        """Remembers up to ``size`` entries; with 0, none."""
        self._size = size
        self._written: deque[tuple[int, Iterable[tuple[Sequence[Any], V]]]] = deque()
        """What was written together, and how many entries that is."""
        self._waiting = 0
        """Entries in it."""
        self._known: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Sequence[Any]) -> V | None:
        """What was written last under a key, if it is still known."""
        known = self._known
        while self._written:
            _, entries = self._written.popleft()
            for values, value in entries:
                known[tuple(values)] = value
                known.move_to_end(tuple(values))
        self._waiting = 0
        while len(known) > self._size:
            known.popitem(last=False)
        return known.get(tuple(key))

    def put(self, key: Sequence[Any], value: V) -> None:
        """Remembers an entry."""
        self.put_many(1, ((key, value),))

    def put_many(self, number: int, entries: Iterable[tuple[Sequence[Any], V]]) -> None:
        """Remembers several.

        Args:
            number: How many; at least one.
            entries: The oldest first; nobody looks at them before they are asked for.
        """
        written = self._written
        written.append((number, entries))
        self._waiting += number
        while written and self._waiting - written[0][0] >= self._size:
            # As many came since.
            self._waiting -= written.popleft()[0]
        if self._known and self._waiting >= self._size:
            self._known = OrderedDict()
