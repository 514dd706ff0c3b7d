"""Records that wait for the disk, in order, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from pilotage.errors import LogUnavailable, RequestTooLarge
from pilotage.runtime.log.framing import LONGEST


class Queued(NamedTuple):
    """What was submitted at once."""

    payloads: Sequence[bytes]
    waiter: asyncio.Future[None] | None


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

    def put(self, payloads: Sequence[bytes], waiter: asyncio.Future[None] | None) -> bool:
        """Queues records; whether there was room."""
        size = sum(map(len, payloads))
        if self.bytes + size > self._most:
            return False
        self._waiting.append(Queued(payloads, waiter))
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


def waiters(batch: Sequence[Queued]) -> list[asyncio.Future[None]]:
    """Who waits for a batch."""
    return [each.waiter for each in batch if each.waiter is not None]


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


def tell(waiting: Sequence[asyncio.Future[None]], reason: str | None) -> None:
    """Tells who waits that their records are on the disk, or why they are not. In their loop's thread."""
    for waiter in waiting:
        if waiter.done():  # Cancelled.
            continue
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
