"""Commits what is queued: written at once, synced, and told, group after group without a timer.

A commit begins when a turn of the event loop brought no further record; at once, if there was but one the last time,
too. While the disk syncs, the next batch gathers: with one caller a commit holds one record, with many it holds many,
and nobody waits for a clock.

Where the kernel syncs beside us (``kernel_sync.py``), the loop's own thread writes, into the kernel's memory, and goes
on; it writes nothing while a sync is under way, so a disk that hangs stops no loop. Everything that may wait for the
disk (to begin a segment, to seal it, to repair it after an error; to sync, where the kernel leaves us to wait) is done
by one thread. One of the two has the appender at a time.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from pilotage.errors import LogUnavailable
from pilotage.runtime.log.appender import Appender
from pilotage.runtime.log.kernel_sync import KernelSync
from pilotage.runtime.log.queue import Batch, Begun, Queue
from pilotage.runtime.log.sleeper import Sleeper

_PLENTY, _PLENTY_BYTES = 32, 32 << 10
"""Submissions, or their bytes, that are a batch, whatever else may come."""


class Committer:
    """The two threads' work on one log."""

    def __init__(
        self,
        queue: Queue,
        appender: Appender,
        kernel: KernelSync | None,
        *,
        lock: threading.Lock,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Batch, str | None], None],
        report: Callable[[str], None],
    ) -> None:
        """Begins to commit, and a segment at once.

        Args:
            queue: What is to be committed.
            appender: Where to.
            kernel: Syncs; ``None`` if the thread has to.
            lock: Of the queue, and of everything here.
            loop: Its thread fills the queue.
            done: Told which batch is on the disk, or why it is not, by either thread.
            report: Told what an operator must know, by either thread.
        """
        self._queue = queue
        self._appender = appender
        self._kernel = kernel
        self._lock = lock
        self._loop = loop
        self._done = done
        self._report = report
        self._sleeper = Sleeper(lock)
        """The thread's. While it sleeps, the loop may take the appender."""
        self._lent = False
        """Whether the loop has the appender."""
        self._syncing: Batch | None = None
        """The batch that the kernel syncs."""
        self._begun: Begun | None = None
        """What the loop left to the thread to end."""
        self._alone = False
        """Whether the last batch was a single submission."""
        self._gathering = False
        self._gathered = 0
        """Submissions that waited a turn ago."""
        self._closing = False
        if kernel is not None:
            kernel.listen(loop, self._synced)
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and the next commit would be the loop's to begin."""
        return self._sleeper.asleep and not self._lent

    def close(self, timeout_s: float) -> bool:
        """Commits what is queued, seals, and ends; whether it did in time."""
        with self._lock:
            self._closing = True
            self._sleeper.rouse()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The loop's part.

    def notice(self) -> None:
        """Something was queued."""
        with self._lock:
            if not self.idle or self._gathering:
                return
            if not (self._alone and len(self._queue) == 1):
                self._gathering, self._gathered = True, 0
                self._loop.call_soon(self._gather)
                return
            batch = self._take()
        if batch:
            self._begin(batch)

    def _gather(self) -> None:
        """Begins a commit; but not while each turn of the loop brings more for it."""
        with self._lock:
            waiting = len(self._queue)
            if self._gathered < waiting < _PLENTY and self._queue.bytes < _PLENTY_BYTES:
                self._gathered = waiting
                self._loop.call_soon(self._gather)
                return
            self._gathering = False
            batch = self._take() if waiting and self.idle else None
        if batch:
            self._begin(batch)

    def _take(self) -> Batch | None:
        """The next batch and the appender, if they are for the loop; rouses the thread if they are not."""
        if self._kernel is None or not self._appender.ready:
            self._sleeper.rouse()
            return None
        self._lent = True
        batch = self._queue.take()
        self._alone = len(batch) == 1
        return batch

    def _begin(self, batch: Batch) -> None:
        """Writes a batch, and leaves it to the kernel to sync it."""
        try:
            file = self._appender.write(batch.submissions)
        except Exception as error:
            self._hand_over(Begun(batch, error))
            return
        try:
            if self._kernel is not None:
                self._kernel.start(file)
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
        self._done(batch, None)
        with self._lock:
            self._lent = False
            more = len(self._queue)
            if self._closing or self._sleeper.until is None or not self._appender.ready:
                # It waits for the appender, or does not know yet when the segment is due.
                self._sleeper.rouse()
        if more:
            self.notice()

    def _hand_over(self, begun: Begun) -> None:
        with self._lock:
            self._begun, self._lent = begun, False
            self._sleeper.rouse()

    # The thread's part.

    def _run(self) -> None:
        try:
            self._appender.open()
        except Exception as error:
            self._done(Batch(), self._reason(error))
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

    def _next(self) -> tuple[Begun | None, Batch, bool]:
        """What the loop left to end, the next batch, and whether it is the last; waits for something to do."""
        with self._lock:
            while True:
                if self._lent and self._closing and self._syncing is not None:
                    # The loop may not run any more.
                    left, self._syncing, self._lent = Begun(self._syncing, syncing=True), None, False
                    return left, Batch(), False
                if self._lent:
                    self._sleeper.sleep(None)
                    continue
                if self._begun is not None or len(self._queue) or self._closing:
                    break
                due = self._appender.seal_in()
                if due is not None and due <= 0:
                    break
                self._sleeper.sleep(due)
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
        self._done(begun.batch, reason)

    def _commit(self, batch: Batch) -> None:
        reason = None
        try:
            self._appender.append(batch.submissions)
        except Exception as error:
            reason = self._reason(error)
        self._done(batch, reason)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, LogUnavailable):
            return str(error.details["reason"])
        # A fault of ours. Nobody may wait for ever because of it, and the next batch may be better.
        reason = f"the writer failed: {error!r}"
        self._report(f"prediction log: {reason}")
        return reason

    def _give_back(self) -> None:
        """Takes leave of the kernel, where the loop listened to it."""
        if self._kernel is None:
            return
        with suppress(RuntimeError):  # The loop was closed, and with it all that it listened to.
            self._loop.call_soon_threadsafe(self._kernel.leave, self._loop)
