"""The write-ahead log of the table of requests: how it is kept small, without a request that waits for the disk.

Everything that is committed goes to the end of that file, until all of it is in the table and somebody starts it anew.
SQLite's own checkpoints never do that while requests come all the time: each copies what was there when it began, and
what came meanwhile keeps the file growing. So a worker that finds it large copies what is there, shuts the others out,
copies the few that came meanwhile, and empties it. It takes milliseconds on a disk that works; whoever is shut out is
told at once, and comes again. What a row says is ``requests_table.py``'s business.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

LIMIT_BYTES = 16 << 20
"""Size from which it is emptied. It grows on while that is done, by what is answered in those milliseconds."""
BUSY_S = 0.25
"""How long the thread that empties it waits for what the others are writing."""
_READERS_MS = 50
"""How long it waits for readers once the others are shut out."""
_PAUSE_S = 0.001


class WriteAheadLog:
    """Of one table; all workers' together.

    Args:
        table: The SQLite file; its folder is there.
        limit_bytes: Size from which it is too large.

    Raises:
        OSError: The door can't be made.
    """

    def __init__(self, table: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._table = table
        self._file = table.with_name(f"{table.name}-wal")
        self._limit_bytes = limit_bytes
        self._door = table.with_suffix(".door")
        self._turn = table.with_suffix(".turn")
        self._mine = _open(self._door)
        self._shutting = False
        """Whether this worker shuts the door: with its own requests out of the way it need not wait for theirs."""

    def close(self) -> None:
        """Lets go of the door."""
        os.close(self._mine)

    def size(self) -> int:
        """Bytes."""
        try:
            return self._file.stat().st_size
        except FileNotFoundError:
            return 0

    def too_large(self) -> bool:
        """Whether it is time to empty it."""
        return self.size() > self._limit_bytes

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nobody empties it meanwhile: what is written then does not wait for the disk.

        Raises:
            BlockingIOError: It is being emptied; come again in a few milliseconds.
        """
        if self._shutting or not _lock(self._mine, fcntl.LOCK_SH):
            raise BlockingIOError("its write-ahead log is being emptied")
        try:
            yield
        finally:
            fcntl.flock(self._mine, fcntl.LOCK_UN)

    def empty(self, now: float) -> bool:
        """Puts all that was committed on the disk, and starts anew. Waits for the disk.

        Args:
            now: Seconds since 1970; what is older than that is then on the disk.

        Returns:
            Whether it did; not if another worker is at it.

        Raises:
            BlockingIOError: The others did not let it, for ``BUSY_S``.
            sqlite3.Error: The table can't be used.
            OSError: The door can't be opened.
        """
        turn = _open(self._turn)
        try:
            if not _lock(turn, fcntl.LOCK_EX):
                return False
            with closing(self.connect()) as table, closing(self.connect()) as reader:
                self._empty(table, reader, now)
            return True
        finally:
            os.close(turn)

    def _empty(self, table: sqlite3.Connection, reader: sqlite3.Connection, now: float) -> None:
        # Versions of SQLite before 3.51.3 may lose what is committed just when a checkpoint begins that finds nothing
        # to copy (sqlite.org/wal.html, "the WAL-reset bug"). So there is something to copy, and a reader of it, beside
        # whom nobody starts the log anew.
        touch(table)
        reader.execute("BEGIN")
        reader.execute("SELECT at FROM synced").fetchone()
        _checkpoint(table, "PASSIVE")
        with self._shut():
            reader.execute("COMMIT")
            table.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
            if _checkpoint(table, "TRUNCATE"):
                raise BlockingIOError(
                    f"its write-ahead log, {self.size()} bytes, can't be emptied, somebody reads the table all the time"
                )
            # Whoever writes first to an empty log waits for the disk, if it isn't done here.
            table.execute("UPDATE synced SET at = ?", (now,))

    @contextmanager
    def _shut(self) -> Iterator[None]:
        """Nobody else writes meanwhile.

        Raises:
            BlockingIOError: Somebody did all the time.
        """
        file = _open(self._door)
        deadline = time.monotonic() + BUSY_S
        try:
            self._shutting = True
            while not _lock(file, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise BlockingIOError("its write-ahead log can't be emptied, another worker writes all the time")
                time.sleep(_PAUSE_S)
            yield
        finally:
            self._shutting = False
            os.close(file)

    def connect(self) -> sqlite3.Connection:
        """A connection beside that of the requests, which must not wait for what is done here."""
        connection = sqlite3.connect(self._table, isolation_level=None, timeout=BUSY_S)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection


def touch(table: sqlite3.Connection) -> None:
    """Writes something: that a little less is known to be on the disk. What changes nothing is not written."""
    table.execute("UPDATE synced SET at = at - 0.001")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _checkpoint(table: sqlite3.Connection, mode: str) -> bool:
    """Whether others were in the way."""
    busy: int = table.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
    return busy != 0
