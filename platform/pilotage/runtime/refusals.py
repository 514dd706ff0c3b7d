"""Versions that could not be served: why, and when each is tried again. It may only have been a full disk."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from pilotage.runtime.board import Key

_SHORTEST_PAUSE_S = 0.5
"""Seconds between the first attempt at a version and the next one; each time twice as many."""
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    not_before: float
    pause_s: float
    reason: str


class Refusals:
    """By model, version and bundle."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, Key], _Refusal] = {}

    def add(self, model: str, key: Key, reason: str) -> None:
        """Notes one more attempt that failed."""
        before = self._refused.get((model, key))
        pause = min(_LONGEST_PAUSE_S, 2 * before.pause_s if before else _SHORTEST_PAUSE_S)
        self._refused[model, key] = _Refusal(not_before=time.monotonic() + pause, pause_s=pause, reason=reason)

    def may_try(self, model: str, key: Key) -> bool:
        """Whether it was not refused, or long enough ago."""
        refusal = self._refused.get((model, key))
        return refusal is None or time.monotonic() >= refusal.not_before

    def solved(self, model: str, key: Key) -> None:
        """Forgets one."""
        self._refused.pop((model, key), None)

    def keep(self, model: str, keys: Collection[Key]) -> None:
        """Forgets those of a model that nobody asks for any more."""
        for name, key in list(self._refused):
            if name == model and key not in keys:
                del self._refused[name, key]

    def reasons(self, model: str) -> str:
        """All of a model's, in a sentence; empty if there are none."""
        return "; ".join(refusal.reason for (name, _), refusal in list(self._refused.items()) if name == model)
