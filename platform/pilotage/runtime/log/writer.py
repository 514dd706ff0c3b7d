"""The queue between an event loop and the disk: group commit without a timer.

The loop's thread appends to a list; one thread writes all that is queued at once, syncs, and wakes all who wait for it
with one call into the loop. While it commits, the next batch gathers: with one caller a commit holds one record, with
many it holds many, and nobody waits for a clock. What lies in the files is ``appender.py``'s business.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pilotage.errors import LogUnavailable, RequestTooLarge
from pilotage.runtime.log.appender import Appender
from pilotage.runtime.log.files import Files, RealFiles
from pilotage.runtime.log.framing import LONGEST

_MIB = 1 << 20


class _Queued(NamedTuple):
    payloads: Sequence[bytes]
    waiter: asyncio.Future[None] | None


class PredictionLog:
    """The durable log of one worker process.

    ``start``, ``submit``, ``submit_nowait`` and ``keep`` are called from the loop's thread; the figures can be read,
    and ``close`` called, from any.

    Args:
        folder: ``settings.prediction_log``.
        worker: Names the worker in the names of its segments; letters, digits, ``_`` and ``-``.
        report: Told what an operator must know: a full disk, an I/O error, what was lost. Called from another thread.
        segment_bytes: Size at which a segment is sealed.
        seal_after_s: Age of its first record at which a segment is sealed, seconds.
        queue_bytes: Records beyond these, not yet on the disk, are refused.
        filesystem: The operating system.
    """

    def __init__(
        self,
        folder: Path,
        *,
        worker: str,
        report: Callable[[str], None],
        segment_bytes: int = 24 * _MIB,
        seal_after_s: float = 60.0,
        queue_bytes: int = 32 * _MIB,
        filesystem: Files | None = None,
    ) -> None:
        if not worker.replace("-", "").replace("_", "").isalnum() or not worker.isascii():
            raise ValueError(f"A worker's name is of letters, digits, '_' and '-'; not {worker!r}.")
        self.folder = folder
        self.worker = worker
        self._tell = report
        self._queue_bytes = queue_bytes
        self._appender = Appender(
            folder,
            worker=worker,
            report=self._report,
            segment_bytes=segment_bytes,
            seal_after_s=seal_after_s,
            files=filesystem or RealFiles(),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._asleep = False
        self._rousing = False
        self._closing = False
        self._queue: list[_Queued] = []
        self._bytes = 0
        self._records = 0
        self._kept: dict[str, bytes] = {}
        self.last_error: str | None = None
        """Why the last commit failed; ``None`` if it did not."""
        self.committed = 0
        """Records on the disk since the start."""
        self.commits = 0
        """Batches on the disk since the start."""
        self.refused = 0
        """Records that were not taken or could not be committed, since the start; with those nobody waited for."""
        self.last_commit_s = 0.0
        """Seconds that the last commit took."""

    @property
    def depth(self) -> int:
        """Records that are not on the disk yet."""
        return self._records

    @property
    def queued_bytes(self) -> int:
        """Of the records that are not on the disk yet."""
        return self._bytes

    @property
    def unsealed_bytes(self) -> int:
        """On the disk, in the open segment, where the lake does not see them yet."""
        return self._appender.committed_bytes

    @property
    def segment(self) -> int:
        """Counts the segments that were begun; a new number means that the records before are in another file."""
        return self._appender.number

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread that writes, which begins the first segment at once: ``last_error`` says if it can't."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def submit(self, *payloads: bytes) -> asyncio.Future[None]:
        """Queues records; the future is done when all of them are on the disk.

        They are there all or not at all, also after a crash. A waiter that goes away changes nothing: they are written.

        Args:
            payloads: Of ``encode``.

        Raises:
            LogUnavailable: Here: the queue is full, or the log closed. From the future: they could not be put on the
                disk. Either way they are not in the log.
            RequestTooLarge: A record is too long.
        """
        if self._loop is None:
            raise RuntimeError("start() comes before submit().")
        waiter = self._loop.create_future()
        reason = self._put(payloads, waiter)
        if reason is not None:
            raise _unavailable(reason)
        return waiter

    def submit_nowait(self, payload: bytes) -> bool:
        """Queues a record that nobody waits for; whether there was room. See ``refused`` for those that were lost."""
        return self._put((payload,), None) is None

    def keep(self, key: str, payload: bytes) -> bool:
        """Writes a record now and at the start of every later segment, until another one has this key.

        For what other records refer to (``StateRecord``), so that a segment explains itself. The same record again is
        not written again.

        Returns:
            Whether there was room to write it now.
        """
        if self._kept.get(key) == payload:
            return True
        self._appender.keep(key, payload)
        taken = self.submit_nowait(payload)
        if taken:
            self._kept[key] = payload
        return taken

    def close(self, timeout_s: float) -> None:
        """Commits what is queued, seals, and ends the thread; blocks for at most ``timeout_s``.

        Who still waits for a disk that hangs is told ``LogUnavailable`` if their records were not being written yet.
        Call it in a thread (``asyncio.to_thread``) if the loop should see the last commits before it returns.
        """
        with self._lock:
            self._closing = True
            self._rouse()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return
        with self._lock:
            batch, self._queue = self._queue, []
            self._forget(batch)
            self.refused += sum(len(each.payloads) for each in batch)
        self._report(f"prediction log: the disk did not answer within {timeout_s} s; {len(batch)} submissions refused")
        self._settle(batch, "the service stopped before the disk answered")

    def _put(self, payloads: Sequence[bytes], waiter: asyncio.Future[None] | None) -> str | None:
        """Queues, or says why not."""
        size = sum(map(len, payloads))
        if size > LONGEST or b"\n" in b"".join(payloads):
            raise RequestTooLarge(
                f"A log record of {size} bytes, or of more than one line, can't be written.",
                fix=f"Send less than {LONGEST} bytes.",
            )
        with self._lock:
            if self._closing:
                reason = "the service is stopping"
            elif self._bytes + size > self._queue_bytes:
                reason = "the disk does not keep up"
            else:
                self._queue.append(_Queued(payloads, waiter))
                self._bytes += size
                self._records += len(payloads)
                if self._asleep and not self._rousing and self._loop is not None:
                    # When all requests that came together are queued: one commit for them, and one change of threads.
                    self._rousing = True
                    self._loop.call_soon(self._rouse_soon)
                return None
            self.refused += len(payloads)
        return reason

    def _rouse_soon(self) -> None:
        with self._lock:
            self._rousing = False
            self._rouse()

    def _rouse(self) -> None:
        """Wakes the thread if it sleeps; with the lock held."""
        if self._asleep:
            self._asleep = False
            self._wake.release()

    def _report(self, sentence: str) -> None:
        # Whoever writes log lines may have no room either, and that must not end the thread that others wait for.
        with suppress(Exception):
            self._tell(sentence)

    def _run(self) -> None:
        try:
            self._appender.open()
        except LogUnavailable as error:
            self.last_error = str(error.details["reason"])
        closing = False
        while not closing:
            batch, closing = self._next()
            if batch:
                self._commit(batch)
            self._appender.rotate()
        self._appender.close()

    def _next(self) -> tuple[list[_Queued], bool]:
        """The next batch, and whether it is the last; waits for one, or until the open segment is due."""
        with self._lock:
            if not self._queue and not self._closing:
                due = self._appender.seal_in()
                self._asleep = True
                self._lock.release()
                try:
                    # Whoever queues from here on sees that the thread sleeps, so nobody is left waiting.
                    woken = self._wake.acquire(timeout=-1 if due is None else due)
                finally:
                    self._lock.acquire()
                if not woken and not self._asleep:
                    # Roused in the instant in which the time was up: take the wake-up that is there.
                    self._wake.acquire()
                self._asleep = False
            batch, self._queue = self._queue, []
            # What is queued after this is refused, so a batch taken while closing is the last.
            return batch, self._closing

    def _commit(self, batch: list[_Queued]) -> None:
        started = time.monotonic()
        reason: str | None = None
        try:
            self._appender.append([each.payloads for each in batch])
        except LogUnavailable as error:
            reason = str(error.details["reason"])
        except Exception as error:
            # A fault of ours. Nobody may wait for ever because of it, and the next batch may be better.
            reason = f"the writer failed: {error!r}"
            self._report(f"prediction log: {reason}")
        records = sum(len(each.payloads) for each in batch)
        if reason is None:
            self.committed += records
            self.commits += 1
        self.last_commit_s = time.monotonic() - started
        self.last_error = reason
        with self._lock:
            self._forget(batch)
            if reason is not None:
                self.refused += records
        self._settle(batch, reason)

    def _forget(self, batch: list[_Queued]) -> None:
        """Takes a batch out of the figures; with the lock held."""
        self._bytes -= sum(len(payload) for each in batch for payload in each.payloads)
        self._records -= sum(len(each.payloads) for each in batch)

    def _settle(self, batch: list[_Queued], reason: str | None) -> None:
        """Tells all who wait, in their own thread, with one call."""
        waiters = [each.waiter for each in batch if each.waiter is not None]
        if not waiters or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(_resolve, waiters, reason)
        except RuntimeError:
            self._report(f"prediction log: the loop was closed before {len(waiters)} callers were told")


def _resolve(waiters: list[asyncio.Future[None]], reason: str | None) -> None:
    for waiter in waiters:
        if waiter.done():  # Cancelled.
            continue
        if reason is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(_unavailable(reason))


def _unavailable(reason: str) -> LogUnavailable:
    return LogUnavailable(
        f"The prediction is not logged: {reason}.",
        fix="Ask again later. Operators: docs/runbooks/prediction-log.md.",
        reason=reason,
    )
