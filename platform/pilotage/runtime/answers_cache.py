"""What versions said to features, for who asks the same again. For the event loop's thread alone."""

from __future__ import annotations

from collections.abc import Sequence


class AnswersCache:
    """A bounded memory in which each key has one place: who comes to it drives out who was there.

    No order is kept, as to forget first what was not asked for longest would need: that takes a twentieth of each
    request, whether it is ever asked again or not. Of keys that come again after as many others as there are places, a
    third is still known; after a tenth of that, nine in ten.
    """

    __slots__ = ("_entries", "_size", "hits", "misses")

    def __init__(self, size: int) -> None:
        """Makes room for ``size`` answers; with 0, for none."""
        self._size = size
        self._entries: list[tuple[int, bytes, float] | None] = [None] * max(1, size)
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return sum(entry is not None for entry in self._entries)

    def get(self, version: int, keys: Sequence[bytes]) -> list[float | None]:
        """What a version said to each of several keys; ``None`` where that is not known any more."""
        entries, places = self._entries, len(self._entries)
        found: list[float | None] = []
        for key in keys:
            entry = entries[hash(key) % places]
            found.append(entry[2] if entry is not None and entry[1] == key and entry[0] == version else None)
        misses = found.count(None)
        self.misses += misses
        self.hits += len(keys) - misses
        return found

    def put(self, version: int, keys: Sequence[bytes], probabilities: Sequence[float]) -> None:
        """Remembers what a version said to each of several keys."""
        if not self._size:
            return
        entries = self._entries
        for key, probability in zip(keys, probabilities, strict=True):
            entries[hash(key) % self._size] = (version, key, probability)
