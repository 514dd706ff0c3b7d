"""Waits a few turns of the event loop for those who come at the same time, so that they are answered together."""

import asyncio
from collections.abc import Callable

_TURNS = 8
"""Turns of the loop, of 4 µs each, in which nobody more may come before fewer than usual begin."""


class Gathering:
    """Says when those that wait should begin: when turns of the loop brought nobody more. Nobody waits for a clock."""

    def __init__(self, number: Callable[[], int], *, enough: Callable[[], bool]) -> None:
        """Prepares.

        Args:
            number: Says how many wait.
            enough: Says whether they are enough to begin at once.
        """
        self.under_way = False
        """Whether they are being waited for."""
        self.usual = 0
        """How many began together lately."""
        self._number = number
        self._enough = enough
        self._gathered = 0
        """How many waited a turn ago."""
        self._idle_turns = 0
        """In which nobody came."""

    def start(self, begin: Callable[[], object]) -> None:
        """Somebody waits: ``begin`` is called when they should begin."""
        self.under_way, self._gathered, self._idle_turns = True, 0, 0
        asyncio.get_running_loop().call_soon(self._gather, begin)

    def began(self, number: int) -> None:
        """So many began together."""
        self.usual = max(number, self.usual - 1)

    def _gather(self, begin: Callable[[], object]) -> None:
        if not self._enough():
            waiting = self._number()
            self._idle_turns = 0 if waiting > self._gathered else self._idle_turns + 1
            self._gathered = waiting
            if self._idle_turns < (_TURNS if waiting < self.usual else 1):
                asyncio.get_running_loop().call_soon(self._gather, begin)
                return
        self.under_way = False
        begin()
