"""Records that wait for the disk, in order, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pilotage.errors import LogUnavailable, RequestTooLarge
from pilotage.runtime.log.framing import LONGEST

Told = Callable[[str | None], None]
"""Is called in the loop's thread when records are on the disk; with the reason if they will not be."""


class Batch:
    """Submissions that are committed together, in order."""

    __slots__ = ("bytes", "records", "submissions", "told")

    def __init__(self) -> None:
        self.submissions: list[Sequence[bytes]] = []
        self.told: list[Told] = []
        """Who waits."""
        self.bytes = 0
        self.records = 0

    def __len__(self) -> int:
        return len(self.submissions)


class Begun(NamedTuple):
    """A commit that the loop began, and the thread has to end."""

    batch: Batch
    error: Exception | None = None
    """Why it failed, if it did."""
    syncing: bool = False
    """Whether the kernel is at it; otherwise it has to be synced, if there was no error."""


class Queue:
    """Bounded in bytes, those being written among them. One thread at a time: its owner has a lock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = Batch()
        self.bytes = 0
        """Of the records that are not on the disk yet."""
        self.records = 0
        """That are not on the disk yet."""

    def __len__(self) -> int:
        """Submissions that wait."""
        return len(self._waiting)

    def put(self, payloads: Sequence[bytes], size: int, told: Told | None) -> bool:
        """Queues records; whether there was room.

        Args:
            payloads: Of one submission.
            size: Their bytes.
            told: Who waits for them.
        """
        if self.bytes + size > self._most:
            return False
        waiting, number = self._waiting, len(payloads)
        waiting.submissions.append(payloads)
        if told is not None:
            waiting.told.append(told)
        waiting.bytes += size
        waiting.records += number
        self.bytes += size
        self.records += number
        return True

    def take(self) -> Batch:
        """All that wait; ``done`` when they wait no more."""
        batch, self._waiting = self._waiting, Batch()
        return batch

    def done(self, batch: Batch) -> None:
        """Takes a batch out of the figures."""
        self.bytes -= batch.bytes
        self.records -= batch.records


def size_of(payloads: Sequence[bytes]) -> int:
    """Bytes of records that can be written: one line each, and few enough for a commit.

    Raises:
        RequestTooLarge: They can't.
    """
    # Of a single one, this is it.
    whole = b"".join(payloads)
    size = len(whole)
    if size > LONGEST or b"\n" in whole:
        raise RequestTooLarge(
            f"A log record of {size} bytes, or of more than one line, can't be written.",
            fix=f"Send less than {LONGEST} bytes.",
        )
    return size


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
