"""A worker's durable log, as its event loop sees it: records go in, and who waits is told when they are on the disk.

``committer.py`` says when what is written and synced, ``appender.py`` what then lies in the files.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from pilotage.runtime.log.appender import Appender
from pilotage.runtime.log.committer import Committer
from pilotage.runtime.log.files import Files, RealFiles
from pilotage.runtime.log.queue import Batch, Queue, Told, resolve, size_of, unavailable

_MIB = 1 << 20


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
        self._loops_thread = 0
        self._committer: Committer | None = None
        self._lock = threading.Lock()
        """Of the queue, and of the committer's."""
        self._queue = Queue(queue_bytes)
        self._closing = False
        self._kept: dict[str, bytes] = {}
        self.last_error: str | None = None
        """Why the last commit failed; ``None`` if it did not."""
        self.committed = 0
        """Records on the disk since the start."""
        self.commits = 0
        """Batches on the disk since the start."""
        self.refused = 0
        """Records that were not taken or could not be committed, since the start; with those nobody waited for."""

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
        self._loop, self._loops_thread = loop, threading.get_ident()
        self._committer = Committer(
            self._queue,
            self._appender,
            self._files.kernel_sync(),
            lock=self._lock,
            loop=loop,
            done=self._done,
            report=self._report,
        )

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
        self.submit_then(partial(resolve, waiter), *payloads)
        return waiter

    def submit_then(self, told: Told, *payloads: bytes) -> None:
        """Queues records as ``submit`` does, for who waits in no task.

        Args:
            told: Called in the loop's thread when all of them are on the disk, with ``None``; or with the reason why
                they will not be.
            payloads: Of ``encode``.

        Raises:
            LogUnavailable: As there.
            RequestTooLarge: As there.
        """
        if (reason := self._put(payloads, told)) is not None:
            raise unavailable(reason)

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
        if self._committer is None or self._committer.close(timeout_s):
            return
        with self._lock:
            batch = self._queue.take()
            self._queue.done(batch)
            self.refused += batch.records
        self._report(f"prediction log: the disk did not answer within {timeout_s} s; {len(batch)} submissions refused")
        self._settle(batch, "the service stopped before the disk answered")

    def _put(self, payloads: Sequence[bytes], told: Told | None) -> str | None:
        """Queues, or says why not."""
        size = size_of(payloads)
        with self._lock:
            if self._closing:
                reason = "the service is stopping"
            elif not self._queue.put(payloads, size, told):
                reason = "the disk does not keep up"
            else:
                reason = None
            if reason is not None:
                self.refused += len(payloads)
        if reason is None and self._committer is not None:
            self._committer.notice()
        return reason

    def _done(self, batch: Batch, reason: str | None) -> None:
        """Counts a commit, and tells who waits."""
        self.last_error = reason
        with self._lock:
            self._queue.done(batch)
            if reason is not None:
                self.refused += batch.records
            else:
                self.committed += batch.records
                self.commits += 1
        self._settle(batch, reason)

    def _settle(self, batch: Batch, reason: str | None) -> None:
        """Tells all who wait, in their own thread, with one call."""
        who = batch.told
        if not who or self._loop is None:
            return
        if threading.get_ident() == self._loops_thread:
            self._tell_all(who, reason)
            return
        try:
            self._loop.call_soon_threadsafe(self._tell_all, who, reason)
        except RuntimeError:
            self._report(f"prediction log: the loop was closed before {len(who)} callers were told")

    def _tell_all(self, who: list[Told], reason: str | None) -> None:
        for told in who:
            try:
                told(reason)
            except Exception as error:
                # The others wait all the same.
                self._report(f"prediction log: a caller could not be told: {error!r}")

    def _report(self, sentence: str) -> None:
        # Whoever writes log lines may have no room either, and that must not end the thread that others wait for.
        with suppress(Exception):
            self._tell(sentence)
