"""Commits batches to the open segment of one worker: on the disk, or not in the log. One caller at a time; no queue.

What is acknowledged is on the disk for good, so the rules after an error are strict:

- A write without room is taken back (cut to what was committed), and the segment goes on.
- After any other error the kernel may have dropped what it could not write, and say "written" when asked again. So the
  segment gets no more records: it is cut to what was committed and sealed, and the next batch begins a new one. Where
  even the cut fails, a file beside it says up to which byte the segment counts.

Commits are written over room that was made before (``framing.room``): the disk then has only the record to write, and
not the file's new length, for which a file system commits its journal; a third off the wait.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pilotage.errors import LogUnavailable
from pilotage.runtime.log.files import Files, begin_new, write_all, write_new
from pilotage.runtime.log.framing import frame, room
from pilotage.runtime.log.segments import COMMITTED, NEW, OPEN, SEALED, Header, encode, name_of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_AGAIN = "again"
_SAY_AGAIN_S = 10.0
_ATTEMPTS = 5
"""At a new segment: others look for orphans between its creation and its lock, once a second."""


@dataclass(slots=True)
class _Open:
    """The open segment."""

    file: int
    path: Path
    committed: int
    """Bytes that are on the disk, without the room after them."""
    room: int
    """Bytes with the room."""
    records: int = 0
    """Without the header and what is kept for every segment."""
    first_at: float = 0.0
    """When its first record was committed, by the clock."""


@dataclass(slots=True)
class _Batch:
    """What was written, and does not count yet."""

    bytes: int
    records: int
    written: bool = False
    """Whether all of it was taken, so that only the sync can have failed."""


class Appender:
    """The segments of one worker.

    Args:
        folder: ``settings.prediction_log``; made on first use.
        worker: Names the worker in the segments' names.
        report: Told what an operator must know.
        segment_bytes: Size at which a segment is sealed.
        seal_after_s: Age of its first record at which it is sealed.
        files: The operating system.
        clock: Seconds, monotonic.
        room_bytes: Made ahead at once. More is made less often, but holds up the commit that makes it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        worker: str,
        report: Callable[[str], None],
        segment_bytes: int,
        seal_after_s: float,
        files: Files,
        clock: Callable[[], float] = time.monotonic,
        room_bytes: int = 128 << 10,
    ) -> None:
        self._folder = folder
        self._worker = worker
        self._report = report
        self._segment_bytes = segment_bytes
        self._seal_after_s = seal_after_s
        self._files = files
        self._clock = clock
        self._room = room(room_bytes)
        self._open: _Open | None = None
        self._writing = _Batch(bytes=0, records=0)
        self._distrusted: list[_Open] = []
        self._kept: dict[str, bytes] = {}
        self._number = 0
        self._failed = 0
        self._said: dict[str, float] = {}

    @property
    def number(self) -> int:
        """Of the newest segment; counts from 1."""
        return self._number

    @property
    def committed_bytes(self) -> int:
        """Of the open segment."""
        return 0 if self._open is None else self._open.committed

    def keep(self, key: str, payload: bytes) -> None:
        """Writes a record at the start of every segment from the next on, until another one has the key."""
        self._kept = {**self._kept, key: payload}  # Replaced, not changed: another thread may be reading it.

    def open(self) -> None:
        """Begins a segment if none is open.

        Raises:
            LogUnavailable: The disk refuses.
        """
        if self._open is None:
            try:
                self._open = self._begin()
            except OSError as error:
                raise self._unavailable(error) from error

    @property
    def ready(self) -> bool:
        """Whether a segment is open that takes more."""
        return self._open is not None and self._open.committed < self._segment_bytes

    def append(self, submissions: Sequence[Sequence[bytes]]) -> None:
        """Puts a batch on the disk. It is there when this returns.

        Args:
            submissions: Each is there all or not at all, also after a crash.

        Raises:
            LogUnavailable: It is not in the log.
        """
        self.open()
        try:
            self.write(submissions)
            self.sync()
        except Exception as error:
            raise self.take_back(error) from error

    def write(self, submissions: Sequence[Sequence[bytes]]) -> int:
        """Writes a batch to the open segment, and gives the file, which is to be synced. ``confirm`` ends it.

        Raises:
            Exception: It could not be. Call ``take_back``.
        """
        segment = self._opened()
        data = frame(submissions)
        self._writing = _Batch(bytes=len(data), records=sum(map(len, submissions)))
        self._put(segment, data)
        self._writing.written = True
        return segment.file

    def sync(self) -> None:
        """Waits until the written batch is on the disk, and confirms it.

        Raises:
            Exception: It is not. Call ``take_back``.
        """
        self._files.sync(self._opened().file)
        self.confirm()

    def confirm(self) -> None:
        """The written batch was synced: it counts.

        Raises:
            OSError: The segment is gone, and the batch with it. Call ``take_back``.
        """
        segment, batch = self._opened(), self._writing
        if not self._files.named(segment.file):
            raise FileNotFoundError(errno.ENOENT, "the open segment was removed by somebody")
        if not segment.records:
            segment.first_at = self._clock()
        segment.committed += batch.bytes
        segment.records += batch.records
        if self._failed and self._say(f"{self._folder} can be written again, after {self._failed} failures", _AGAIN):
            self._failed = 0

    def take_back(self, error: Exception) -> Exception:
        """After an error of ``write``, ``sync`` or ``confirm``: none of the batch will be found in the log.

        Returns:
            What to tell who waits: ``LogUnavailable``, or the error itself if the disk has no part in it.
        """
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        self._undo(self._opened(), trusted=full and not self._writing.written)
        return self._unavailable(error) if isinstance(error, OSError) else error

    def seal_in(self) -> float | None:
        """Seconds until the open segment is due; ``None`` if it has no record."""
        segment = self._open
        if segment is None or not segment.records:
            return None
        if segment.committed >= self._segment_bytes:
            return 0.0
        return max(0.0, segment.first_at + self._seal_after_s - self._clock())

    def rotate(self) -> bool:
        """Seals the open segment if it is due; whether it was."""
        due = self.seal_in()
        if due is None or due > 0:
            return False
        self.seal()
        return True

    def seal(self) -> None:
        """Seals the open segment, or removes it if it has no record. Never raises: its records are on the disk."""
        segment, self._open = self._open, None
        if segment is None:
            return
        try:
            if segment.records:
                self._without_room(segment)
                self._files.rename(segment.path, segment.path.with_suffix(SEALED))
            else:
                self._files.remove(segment.path)
            self._files.sync_folder(self._folder)
        except OSError as error:
            # Its lock goes with it, so that it counts as an orphan, and whoever looks next seals it.
            self._report(f"prediction log: {segment.path.name} could not be sealed: {error}")
        finally:
            self._close(segment)

    def close(self) -> None:
        """Seals. What is not trusted is cut a last time."""
        self.seal()
        self._cut_distrusted()
        for segment in self._distrusted:
            self._report(
                f"prediction log: {segment.path.name} could not be cut to the {segment.committed} bytes that are "
                "committed; predictions after them were refused, and may be found in it"
            )
            self._close(segment)
        self._distrusted.clear()

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("open() comes before everything else.")
        return self._open

    def _put(self, segment: _Open, data: bytes) -> None:
        """Writes after what is committed; makes new room, if there is too little and the disk has it."""
        end = segment.committed + len(data)
        written = 0
        # Of commits that use it up at once, each would have to make some.
        if end > segment.room and len(data) <= len(self._room) // 4:
            try:
                written = self._files.write(segment.file, data + self._room, segment.committed)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
        segment.room = max(segment.room, end, segment.committed + written)
        if written < len(data):
            write_all(self._files, segment.file, data[written:], segment.committed + written)

    def _without_room(self, segment: _Open) -> None:
        """Cuts the room off, which is not part of what is sealed. If that fails, or is lost, readers ignore it."""
        if segment.room > segment.committed:
            with suppress(OSError):
                self._files.truncate(segment.file, segment.committed)
                segment.room = segment.committed

    def _begin(self) -> _Open:
        self._cut_distrusted()
        self._files.make_folder(self._folder)
        began = datetime.now(UTC)
        # Under the name that counts only when it is locked and begun, so that nobody takes it for an orphan.
        file, new = self._begin_new(began)
        path = new.with_suffix(OPEN)
        header = encode(Header(worker=self._worker, at=int(began.timestamp() * 1_000_000)))
        start = frame([(header,), *((payload,) for payload in self._kept.values())])
        named = new
        segment = _Open(file=file, path=path, committed=0, room=0)
        try:
            self._put(segment, start)
            self._files.sync(file)
            self._files.rename(new, path)
            named = path
            self._files.sync_folder(self._folder)
        except OSError:
            with suppress(OSError):
                self._files.remove(named)
            with suppress(OSError):
                self._files.close(file)
            raise
        segment.committed = len(start)
        return segment

    def _begin_new(self, began: datetime) -> tuple[int, Path]:
        """A locked file, and its name: another one at each attempt, as who took the one before may yet remove it."""
        taken = 0
        while True:
            self._number += 1
            new = self._folder / f"{name_of(self._worker, began, self._number)}{NEW}"
            try:
                return begin_new(self._files, new), new
            except BlockingIOError:
                taken += 1
                if taken == _ATTEMPTS:
                    raise

    def _undo(self, segment: _Open, *, trusted: bool) -> None:
        """After an error: what was not committed must not be found later."""
        cut = self._cut(segment)
        if cut and trusted:
            return
        self._open = None
        if cut:
            self._open = segment
            self.seal()
        elif self._mark(segment):
            self._close(segment)
        else:
            self._distrusted.append(segment)

    def _cut(self, segment: _Open) -> bool:
        try:
            # The cut writes the last block again, so the sync says whether the disk takes it now.
            self._files.truncate(segment.file, segment.committed)
            segment.room = segment.committed
            self._files.sync(segment.file)
        except OSError as error:
            self._say(f"{segment.path.name} could not be cut to {segment.committed} bytes: {error}")
            return False
        return True

    def _mark(self, segment: _Open) -> bool:
        """Says beside a segment up to which byte it counts."""
        mark = segment.path.with_suffix(COMMITTED)
        try:
            write_new(self._files, mark, b"%d\n" % segment.committed)
        except OSError as error:
            self._say(f"{mark.name} could not be written: {error}")
            return False
        return True

    def _cut_distrusted(self) -> None:
        for segment in list(self._distrusted):
            if self._cut(segment):
                self._distrusted.remove(segment)
                current, self._open = self._open, segment
                self.seal()
                self._open = current
            elif self._mark(segment):
                self._distrusted.remove(segment)
                self._close(segment)

    def _close(self, segment: _Open) -> None:
        # close can report an earlier write's error; what counts was synced before.
        with suppress(OSError):
            self._files.close(segment.file)

    def _unavailable(self, error: OSError) -> LogUnavailable:
        reason = error.strerror or str(error)
        self._failed += 1
        self._say(f"{self._folder} can't be written: {reason}")
        return LogUnavailable(
            f"The prediction log can't be written: {reason}.",
            fix="Ask again later. Operators: docs/runbooks/prediction-log.md.",
            reason=reason,
        )

    def _say(self, sentence: str, about: str | None = None) -> bool:
        """Reports, but not the same every time: a full disk fails hundreds of batches a second, and between them takes
        what is small enough. Returns whether it did."""
        now, about = self._clock(), about or sentence
        if now - self._said.get(about, -_SAY_AGAIN_S) < _SAY_AGAIN_S:
            return False
        self._said = {each: at for each, at in self._said.items() if now - at < _SAY_AGAIN_S} | {about: now}
        self._report(f"prediction log: {sentence}")
        return True
