"""A circuit breaker: a version that keeps failing is left alone for a while. For the event loop's thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Counts failures in a row. Closed, every request may try; open, none; then one may, and decides.

    Args:
        after: Failures in a row that open it.
        pause_s: Seconds that it stays open, and that a trial has to come to an end.
        clock: Monotonic seconds.
    """

    __slots__ = ("_after", "_clock", "_failures", "_not_before", "_pause_s", "_trying")

    def __init__(self, *, after: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._not_before = 0.0
        self._trying = False
        """Whether a trial was let through that was not reported; of no meaning while it is closed."""

    def anew(self) -> Breaker:
        """A closed one of the same kind."""
        return Breaker(after=self._after, pause_s=self._pause_s, clock=self._clock)

    @property
    def open(self) -> bool:
        """Whether it keeps requests away; a trial may be due."""
        return self._failures >= self._after

    def allows(self) -> bool:
        """Whether a request may try now. After the pause one is let through, and the next only when it failed to
        come back for another pause: a trial that was never reported does not block for ever."""
        if self._failures < self._after:
            return True
        if (now := self._clock()) < self._not_before:
            return False
        self._not_before = now + self._pause_s
        self._trying = True
        return True

    def succeeded(self) -> None:
        """The version answered."""
        self._failures = 0

    def failed(self) -> None:
        """The version failed."""
        self._failures += 1
        if self._failures >= self._after:
            self._not_before = self._clock() + self._pause_s
            self._trying = False

    def untried(self) -> None:
        """Who was let through found out nothing of the version: if it was the trial, the next one may try."""
        if self._failures >= self._after and self._trying:
            self._not_before = self._clock()
            self._trying = False
