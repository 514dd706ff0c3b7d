"""A thread's sleep, from which others wake it."""

from __future__ import annotations

import threading


class Sleeper:
    """Every method is called with the lock held."""

    def __init__(self, lock: threading.Lock) -> None:
        """Nobody sleeps yet.

        Args:
            lock: Of what the thread sleeps for.
        """
        self._lock = lock
        self._wake = threading.Lock()
        self._wake.acquire()
        self.asleep = False
        self.until: float | None = None
        """Seconds that it sleeps; ``None`` for as long as nobody wakes it."""

    def sleep(self, seconds: float | None) -> None:
        """Sleeps until it is roused, or some time. The lock is free meanwhile."""
        self.asleep, self.until = True, seconds
        self._lock.release()
        try:
            # Who comes from here on sees that the thread sleeps, so nobody is left waiting.
            woken = self._wake.acquire(timeout=-1 if seconds is None else seconds)
        finally:
            self._lock.acquire()
        if not woken and not self.asleep:
            # Roused in the instant in which the time was up: take the wake-up that is there.
            self._wake.acquire()
        self.asleep = False

    def rouse(self) -> None:
        """Wakes the thread if it sleeps."""
        if self.asleep:
            self.asleep = False
            self._wake.release()
