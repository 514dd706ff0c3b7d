"""How many requests a worker answers at once, and how long each may take.

One timer looks at all of them twice a second: a timer for each request costs more than to answer it, and those that
are left behind make the garbage collector stop the process for 0.1 s.
"""

import asyncio
from collections.abc import Callable

from pilotage.errors import Overloaded, TimedOut

AT_ONCE = 1_000
"""Requests of a worker. At 5,000 a second the last of them waits for 0.2 s."""
READING_S = 10.0
"""Seconds that a client gets to send its body."""
ANSWERING_S = 30.0
"""Seconds that an answer may take after that."""
_LOOK_S = 0.5


class Patience:
    """One request's time."""

    __slots__ = ("break_off", "deadline", "over")

    def __init__(self, break_off: Callable[[], object], deadline: float) -> None:
        self.break_off = break_off
        """Ends the waiting."""
        self.deadline = deadline
        self.over = False
        """Whether it was broken off for its time, and not by whoever stops the worker."""


class InFlight:
    """The requests that are being answered. For the event loop's thread alone."""

    def __init__(
        self, *, at_once: int = AT_ONCE, reading_s: float = READING_S, answering_s: float = ANSWERING_S
    ) -> None:
        self._at_once = at_once
        self._reading_s = reading_s
        self._answering_s = answering_s
        self._running: set[Patience] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._running)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to look."""
        self._loop = loop
        self._timer = loop.call_later(_LOOK_S, self._look)

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()

    def enter(self, break_off: Callable[[], object], *, read: bool = False) -> Patience:
        """Begins a request, which ``leave`` ends.

        Args:
            break_off: Called when its time is up.
            read: Whether the body is there; ``has_read`` says it if not.

        Raises:
            Overloaded: There are too many already.
        """
        if len(self._running) >= self._at_once:
            raise Overloaded(
                f"{self._at_once} requests are being answered already.", fix="Come again in a second.", retry_after_s=0
            )
        if self._loop is None:
            raise RuntimeError("start() comes first.")
        patience = Patience(break_off, self._loop.time() + (self._answering_s if read else self._reading_s))
        self._running.add(patience)
        return patience

    def leave(self, patience: Patience) -> None:
        """Ends a request."""
        self._running.discard(patience)

    def has_read(self, patience: Patience) -> None:
        """The body is there; from now on it is we who take the time."""
        if self._loop is not None:
            patience.deadline = self._loop.time() + self._answering_s

    def _look(self) -> None:
        if self._loop is None:
            return
        now = self._loop.time()
        for patience in list(self._running):
            if patience.deadline <= now and not patience.over:
                patience.over = True
                patience.break_off()
        self._timer = self._loop.call_later(_LOOK_S, self._look)


def timed_out() -> TimedOut:
    """What a client is told whose time was up."""
    return TimedOut("The request took too long.", fix="Send it again, and its body without pauses.")
