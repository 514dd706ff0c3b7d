"""The queue between an event loop and the disk: group commit without a timer.

When a turn of the loop brought no further record, all that is queued is written at once and synced, and everybody told.
While the disk syncs, the next batch gathers: with one caller a commit holds one record, with many it holds many, and
nobody waits for a clock.

Where the kernel syncs beside us (``kernel_sync.py``), the loop's own thread writes, into the kernel's memory, and goes
on; it writes nothing while a sync is under way, so a disk that hangs stops no loop. Everything that may wait for the
disk (to begin a segment, to seal it, to repair it after an error; to sync, where the kernel leaves us to wait) is done
by one thread. What lies in the files is ``appender.py``'s business, which one of the two has at a time.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pilotage.errors import LogUnavailable
from pilotage.runtime.log.appender import Appender
from pilotage.runtime.log.files import Files, RealFiles
from pilotage.runtime.log.kernel_sync import KernelSync
from pilotage.runtime.log.queue import Begun, Queue, Queued, count, require_writable, tell, unavailable, waiters
from pilotage.runtime.log.sleeper import Sleeper

_MIB = 1 << 20
_PLENTY = 32
"""Submissions that are a batch, whatever else may come."""


class PredictionLog:
    """The durable log of one worker process.

    ``start``, ``submit``, ``submit_nowait`` and ``keep`` are called from the loop's thread; the figures can be read,
    and ``close`` called, from any.

    Args:
        folder: ``settings.prediction_log``.
        worker: Names the worker in the names of its segments; letters, digits, ``_`` and ``-``.
        report: Told what an operator must know: a full disk, an I/O error, what was lost. Called from any thread.
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
        self._files = filesystem or RealFiles()
        self._appender = Appender(
            folder,
            worker=worker,
            report=self._report,
            segment_bytes=segment_bytes,
            seal_after_s=seal_after_s,
            files=self._files,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._kernel: KernelSync | None = None
        self._lock = threading.Lock()
        """Of everything below, and of who has the appender."""
        self._queue = Queue(queue_bytes)
        self._sleeper = Sleeper(self._lock)
        """The thread's. While it sleeps, the loop may take the appender."""
        self._wanted = False
        """Whether the thread waits for the appender."""
        self._lent = False
        """Whether the loop has the appender."""
        self._syncing: list[Queued] | None = None
        """The batch that the kernel syncs."""
        self._begun: Begun | None = None
        self._gathering = False
        self._gathered = 0
        """Submissions that waited a turn ago."""
        self._closing = False
        self._kept: dict[str, bytes] = {}
        self._started = 0.0
        """When the commit began."""
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
        return self._queue.records

    @property
    def queued_bytes(self) -> int:
        """Of the records that are not on the disk yet."""
        return self._queue.bytes

    @property
    def unsealed_bytes(self) -> int:
        """On the disk, in the open segment, where the lake does not see them yet."""
        return self._appender.committed_bytes

    @property
    def segment(self) -> int:
        """Counts the segments that were begun; a new number means that the records before are in another file."""
        return self._appender.number

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread, which begins the first segment at once: ``last_error`` says if it can't."""
        self._loop = loop
        self._kernel = self._files.kernel_sync()
        if self._kernel is not None:
            self._kernel.listen(loop, self._synced)
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
            raise unavailable(reason)
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
            self._sleeper.rouse()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return
        with self._lock:
            batch = self._queue.take()
            self._queue.done(batch)
            self.refused += count(batch)
        self._report(f"prediction log: the disk did not answer within {timeout_s} s; {len(batch)} submissions refused")
        self._settle(batch, "the service stopped before the disk answered")

    def _put(self, payloads: Sequence[bytes], waiter: asyncio.Future[None] | None) -> str | None:
        """Queues, or says why not."""
        require_writable(payloads)
        with self._lock:
            if self._closing:
                reason = "the service is stopping"
            elif not self._queue.put(payloads, waiter):
                reason = "the disk does not keep up"
            else:
                if self._sleeper.asleep and not self._lent:
                    self._gather_soon()
                return None
            self.refused += len(payloads)
        return reason

    # The loop's part.

    def _gather_soon(self) -> None:
        """With the lock held."""
        if not self._gathering and self._loop is not None:
            self._gathering, self._gathered = True, 0
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Begins a commit; but not while each turn of the loop brings more for it."""
        with self._lock:
            waiting = len(self._queue)
            if self._gathered < waiting < _PLENTY and self._loop is not None:
                self._gathered = waiting
                self._loop.call_soon(self._gather)
                return
            self._gathering = False
            if not waiting or self._lent or not self._sleeper.asleep:
                return
            if self._kernel is None or not self._appender.ready:
                self._sleeper.rouse()
                return
            self._lent = True
            batch = self._queue.take()
        self._begin(batch, self._kernel)

    def _begin(self, batch: list[Queued], kernel: KernelSync) -> None:
        """Writes a batch, and leaves it to the kernel to sync it."""
        self._started = time.monotonic()
        try:
            file = self._appender.write([each.payloads for each in batch])
        except Exception as error:
            self._hand_over(Begun(batch, error))
            return
        try:
            kernel.start(file)
        except OSError:
            # It has no room now, or can't with such a file.
            self._hand_over(Begun(batch))
            return
        with self._lock:
            self._syncing = batch
            if self._closing:
                self._sleeper.rouse()

    def _synced(self) -> None:
        """The kernel's sync is over."""
        with self._lock:
            batch, kernel = self._syncing, self._kernel
            if batch is None or kernel is None or (number := kernel.result()) is None:
                return
            self._syncing = None
        try:
            if number:
                raise OSError(number, os.strerror(number))
            self._appender.confirm()
        except OSError as error:
            self._hand_over(Begun(batch, error))
            return
        self._account(batch, None)
        with self._lock:
            self._lent = False
            if self._wanted or self._closing or self._sleeper.until is None or not self._appender.ready:
                self._sleeper.rouse()
            elif len(self._queue):
                self._gather_soon()
        tell(waiters(batch), None)

    def _hand_over(self, begun: Begun) -> None:
        with self._lock:
            self._begun, self._lent = begun, False
            self._sleeper.rouse()

    # The thread's part.

    def _run(self) -> None:
        try:
            self._appender.open()
        except LogUnavailable as error:
            self.last_error = str(error.details["reason"])
        closing = False
        while not closing:
            left, batch, closing = self._next()
            if left is not None:
                self._end(left)
            self._appender.rotate()
            if batch:
                self._commit(batch)
                self._appender.rotate()
        self._appender.close()
        self._give_back()

    def _next(self) -> tuple[Begun | None, list[Queued], bool]:
        """What the loop left to end, the next batch, and whether it is the last; waits for something to do."""
        with self._lock:
            while True:
                if self._lent and self._closing and self._syncing is not None:
                    # The loop may not run any more.
                    left, self._syncing, self._lent = Begun(self._syncing, syncing=True), None, False
                    return left, [], False
                if self._lent:
                    self._wanted = True
                    self._sleeper.sleep(None)
                    continue
                if self._begun is not None or len(self._queue) or self._closing:
                    break
                due = self._appender.seal_in()
                if due is not None and due <= 0:
                    break
                self._sleeper.sleep(due)
            self._wanted = False
            ended, self._begun = self._begun, None
            # What is queued after this is refused, so a batch taken while closing is the last.
            return ended, self._queue.take(), self._closing

    def _end(self, begun: Begun) -> None:
        """Ends a commit that the loop began."""
        reason = None
        try:
            if begun.error is not None:
                raise begun.error
            if not begun.syncing:
                self._appender.sync()
            elif self._kernel is not None:
                if number := self._kernel.wait():
                    raise OSError(number, os.strerror(number))
                self._appender.confirm()
        except Exception as error:
            reason = self._reason(self._appender.take_back(error))
        self._account(begun.batch, reason)
        self._settle(begun.batch, reason)

    def _commit(self, batch: list[Queued]) -> None:
        self._started = time.monotonic()
        reason = None
        try:
            self._appender.append([each.payloads for each in batch])
        except Exception as error:
            reason = self._reason(error)
        self._account(batch, reason)
        self._settle(batch, reason)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, LogUnavailable):
            return str(error.details["reason"])
        # A fault of ours. Nobody may wait for ever because of it, and the next batch may be better.
        reason = f"the writer failed: {error!r}"
        self._report(f"prediction log: {reason}")
        return reason

    def _give_back(self) -> None:
        """Takes leave of the kernel, where the loop listened to it."""
        if self._kernel is None or self._loop is None:
            return
        with suppress(RuntimeError):  # The loop was closed, and with it all that it listened to.
            self._loop.call_soon_threadsafe(self._kernel.leave, self._loop)

    # For both.

    def _account(self, batch: list[Queued], reason: str | None) -> None:
        """Counts a commit."""
        self.last_commit_s = time.monotonic() - self._started
        self.last_error = reason
        with self._lock:
            self._queue.done(batch)
            if reason is not None:
                self.refused += count(batch)
            else:
                self.committed += count(batch)
                self.commits += 1

    def _settle(self, batch: list[Queued], reason: str | None) -> None:
        """Tells all who wait, in their own thread, with one call."""
        waiting = waiters(batch)
        if not waiting or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(tell, waiting, reason)
        except RuntimeError:
            self._report(f"prediction log: the loop was closed before {len(waiting)} callers were told")

    def _report(self, sentence: str) -> None:
        # Whoever writes log lines may have no room either, and that must not end the thread that others wait for.
        with suppress(Exception):
            self._tell(sentence)
