"""Rate limits that hold over all workers of one machine: GCRA, in a file that they share.

The generic cell rate algorithm (ITU-T I.371, https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm) keeps one
number a key: the moment at which it will have used up nothing any more. A request moves it on by one interval, and is
refused if it would then be further ahead than the burst allows. So a key gets ``per_second`` over any length of time,
plus ``burst`` at once, exactly, however many workers it asks.

The number is in a slot of a mapped file; a lock on the slot's bytes (the kernel's, gone with a worker that dies) makes
the look and the change one. ``slots.py`` has the file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pilotage.errors import PilotageError, RateLimited, RequestTooLarge
from pilotage.runtime.access.caller import Caller, Limit
from pilotage.runtime.access.slots import COUNT, Slots

_RETRY_S = 1.0


class Limiter:
    """The limits of all keys. One for each worker, on one file."""

    def __init__(
        self,
        path: Path,
        *,
        report: Callable[[str], None] = lambda _: None,
        clock: Callable[[], int] = time.monotonic_ns,
        slots: int = COUNT,
    ) -> None:
        """Opens or makes the file.

        Args:
            path: A file in ``settings.service_state``; its folder is made.
            report: Called with a sentence if the workers can't share it, so that limits hold for each by itself.
            clock: Nanoseconds that only grow, the same for all workers. Linux's monotonic clock is; it starts again
                with the machine, and so does the file.
            slots: How many keys it has room for; only for a new file.
        """
        self._slots = Slots(path, report=report, count=slots)
        self._clock = clock
        self._thread = threading.Lock()

    def take(self, caller: Caller, cost: int = 1, *, paid: int = 0) -> None:
        """Counts a request.

        Args:
            caller: Who asks.
            cost: As how many requests it counts: the rows of a batch.
            paid: As how many it was counted already, before its rows were known. Given back if it is refused.

        Raises:
            RateLimited: The key has used up what it may ask for now; nothing was counted. ``retry_after_s`` says when
                the same request will be let through if nothing else comes in between.
            RequestTooLarge: It would never be let through; nothing was counted.
        """
        if (limit := caller.limit) is None or cost == paid:
            return
        if cost > limit.burst:
            if paid:
                self._change(caller, limit, -paid)
            raise RequestTooLarge(
                f"A request with {cost:,} rows is more than the API key {caller.id} may send at once"
                f" ({limit.burst:,}).",
                fix=f"Send {limit.burst:,} rows at most, or use a key that was made with a larger --burst.",
                key=caller.id,
            )
        after = self._change(caller, limit, cost - paid, refused=-paid)
        if after <= limit.allowance_ns:
            return
        wait = (after - limit.allowance_ns) / 1e9
        raise RateLimited(
            f"The API key {caller.id} has used up its {limit.per_second:g} requests a second.",
            fix=f"Wait {wait:.3g} s, or ask for a key with a higher limit.",
            key=caller.id,
            retry_after_s=wait,
        )

    def take_each(self, callers: Sequence[Caller]) -> list[PilotageError | None]:
        """``take`` of requests that came together, in order; why each was refused, if it was.

        Those of one caller are counted at once, which is all or none; only if that is too much, one by one.
        """
        if len(callers) == 1:
            return [self._refused(callers[0])]
        refused: list[PilotageError | None] = [None] * len(callers)
        places: dict[str, list[int]] = {}
        for place, caller in enumerate(callers):
            places.setdefault(caller.id, []).append(place)
        for own in places.values():
            if len(own) > 1 and self._refused(callers[own[0]], len(own)) is None:
                continue
            for place in own:
                refused[place] = self._refused(callers[place])
        return refused

    def _refused(self, caller: Caller, cost: int = 1) -> PilotageError | None:
        """``take``; why it was refused, if it was."""
        try:
            self.take(caller, cost)
        except (RateLimited, RequestTooLarge) as error:
            return error
        return None

    def _change(self, caller: Caller, limit: Limit, cost: int, *, refused: int = 0) -> int:
        """Counts, or counts ``refused`` if that is more than the key may have; how far ahead it is, or would be.

        Raises:
            RateLimited: It can't be told.
        """
        name = caller.id.encode()
        with self._thread:
            try:
                place = self._slots.acquire(name, self._clock())
            except OSError as error:
                raise RateLimited(
                    f"The rate limit of the API key {caller.id} can't be told: {error}.",
                    fix=f"Try again in {_RETRY_S:g} s.",
                    key=caller.id,
                    retry_after_s=_RETRY_S,
                ) from None
            # Not before: who waited for the slot would take what came meanwhile for a clock that started again.
            now = self._clock()
            numbers = self._slots.numbers
            # Further ahead than a full burst it can only be by a limit that has changed since, or a clock that started
            # again: then it counts as a full burst.
            ahead = max(numbers[place] - now, 0)
            if ahead > limit.allowance_ns:
                ahead = limit.allowance_ns
                numbers[place] = now + ahead
            after = ahead + cost * limit.interval_ns
            if after <= limit.allowance_ns:
                numbers[place] = now + max(after, 0)
            elif refused:
                numbers[place] = now + max(ahead + refused * limit.interval_ns, 0)
            self._slots.release(name)
        return after

    def close(self) -> None:
        """Lets go of the file."""
        self._slots.close()
