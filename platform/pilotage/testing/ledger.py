"""A ledger in memory, with the same behaviour as the real one; it passes the same contract tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from pilotage.errors import LedgerConflict
from pilotage.release.events import PLAIN, Draft, Event, refuse_unkeyed, seal


class InMemoryLedger:
    """See ``pilotage.release.ledger.Ledger``.

    Args:
        clock: Gives the time of each event, UTC.
        key: Secret of keyed hashes.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC), *, key: bytes | None = None) -> None:
        self._clock = clock
        self._key = key
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def append(self, draft: Draft, *, expected: int | None = None) -> Event:
        """See ``Ledger``."""
        with self._lock:
            head = len(self._events)
            if expected is not None and expected != head:
                raise LedgerConflict(
                    f"The ledger is at {head}, not at {expected}: {draft.kind} of {draft.model} came second.",
                    fix="Look at the new state, and decide again.",
                    expected=expected,
                    head=head,
                    model=draft.model,
                )
            last = self._events[-1] if self._events else None
            refuse_unkeyed(last.algorithm if last else PLAIN, self._key)
            previous = last.hash if last else ""
            event = seal(draft, sequence=head + 1, at=self._clock(), previous=previous, key=self._key)
            self._events.append(event)
            return event

    def rekeyed(self, key: bytes | None = None) -> InMemoryLedger:
        """The same events, for a writer with another key."""
        other = InMemoryLedger(self._clock, key=key)
        other._events, other._lock = self._events, self._lock
        return other

    def events(self, *, after: int = 0) -> list[Event]:
        """See ``Ledger``."""
        with self._lock:
            return self._events[after:]
