"""Records that wait for the disk, in order, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pilotage.errors import LogUnavailable, RequestTooLarge
from pilotage.runtime.log.framing import LONGEST

Told = Callable[[str | None], None]
"""Is called in the loop's thread when records are on the disk; with the reason if they will not be."""


class Queued(NamedTuple):
    """What was submitted at once."""

    payloads: Sequence[bytes]
    told: Told | None


class Begun(NamedTuple):
    """A commit that the loop began, and the thread has to end."""

    batch: list[Queued]
    error: Exception | None = None
    """Why it failed, if it did."""
    syncing: bool = False
    """Whether the kernel is at it; otherwise it has to be synced, if there was no error."""


class Queue:
    """Bounded in bytes, those being written among them. One thread at a time: its owner has a lock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[Queued] = []
        self.bytes = 0
        """Of the records that are not on the disk yet."""
        self.records = 0
        """That are not on the disk yet."""

    def __len__(self) -> int:
        """Submissions that wait."""
        return len(self._waiting)

    def put(self, payloads: Sequence[bytes], told: Told | None) -> bool:
        """Queues records; whether there was room."""
        size = sum(map(len, payloads))
        if self.bytes + size > self._most:
            return False
        self._waiting.append(Queued(payloads, told))
        self.bytes += size
        self.records += len(payloads)
        return True

    def take(self) -> list[Queued]:
        """All that wait; ``done`` when they wait no more."""
        batch, self._waiting = self._waiting, []
        return batch

    def done(self, batch: Sequence[Queued]) -> None:
        """Takes a batch out of the figures."""
        self.bytes -= sum(len(payload) for each in batch for payload in each.payloads)
        self.records -= count(batch)


def count(batch: Sequence[Queued]) -> int:
    """Records of a batch."""
    return sum(len(each.payloads) for each in batch)


def waiting(batch: Sequence[Queued]) -> list[Told]:
    """Who waits for a batch."""
    return [each.told for each in batch if each.told is not None]


def require_writable(payloads: Sequence[bytes]) -> None:
    """Refuses what would not be one line each, or not fit into a commit.

    Raises:
        RequestTooLarge: It is too long.
    """
    size = sum(map(len, payloads))
    if size > LONGEST or any(b"\n" in payload for payload in payloads):
        raise RequestTooLarge(
            f"A log record of {size} bytes, or of more than one line, can't be written.",
            fix=f"Send less than {LONGEST} bytes.",
        )


def resolve(waiter: asyncio.Future[None], reason: str | None) -> None:
    """Tells who waits in a task."""
    if waiter.done():  # Cancelled.
        return
    if reason is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(unavailable(reason))


def unavailable(reason: str) -> LogUnavailable:
    """Says that a record is not in the log."""
    return LogUnavailable(
        f"The prediction is not logged: {reason}.",
        fix="Ask again later. Operators: docs/runbooks/prediction-log.md.",
        reason=reason,
    )
