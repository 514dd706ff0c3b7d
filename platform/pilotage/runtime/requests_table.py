"""The SQLite table of the requests whose client chose an id, shared by the workers of a host, and its upkeep.

One row a request, for as long as its id is remembered. Who may answer what is ``idempotency.py``'s business.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from pilotage.errors import LogUnavailable, UnreadableFile
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.lifeline import Lifeline
from pilotage.runtime.log.search import Request, find_predictions
from pilotage.runtime.requests_wal import BUSY_S, LIMIT_BYTES, WriteAheadLog, touch

LIFETIME_S = 24 * 3600.0
"""How long an id is remembered, seconds."""
AT_MOST = 500_000
"""Requests that are remembered; beyond them the oldest are forgotten first."""
NOBODY = ""
"""Owner of a row whose worker died, once the log was read for it."""
ANY = b""
"""Content of a row that was made from the log, which does not hold the body."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- Never used twice: a late finish must not reach another request's row.
    caller TEXT NOT NULL, model TEXT NOT NULL, request_id TEXT NOT NULL,
    content BLOB NOT NULL,                -- SHA-256 of the body
    owner TEXT NOT NULL,                  -- token of the worker
    began_at REAL NOT NULL,
    status INTEGER, body BLOB,            -- of the answer, once there is one
    logged BLOB,                          -- predictions of an owner that died, as JSON
    UNIQUE (caller, model, request_id)
);
CREATE TABLE IF NOT EXISTS synced (one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, at REAL NOT NULL)
"""
_FORGET = """
DELETE FROM requests WHERE id IN (
    SELECT id FROM (
        SELECT *, row_number() OVER (ORDER BY id) AS place
        FROM (SELECT id, began_at, status, owner FROM requests ORDER BY id LIMIT ?)
    ) WHERE (began_at < ? OR place <= ?) AND (status IS NOT NULL OR owner = ?)
)
"""
_UNDER_WAY = "SELECT DISTINCT owner FROM requests WHERE status IS NULL AND owner != ?"
_UNTOLD = """
SELECT EXISTS (SELECT 1 FROM requests WHERE status IS NULL AND logged IS NULL AND owner != ? AND began_at <= ?)
"""
_OLDEST_UNDER_WAY = """
SELECT DISTINCT owner FROM (SELECT owner, status FROM requests ORDER BY id LIMIT ?)
WHERE status IS NULL AND owner NOT IN (?, ?)
"""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SYNC_S = 60.0
"""Longest time between two checkpoints: after a crash of the machine, that much of the log is read."""
_STEP_S = 3600.0
"""How far the clock may have been set back while a request was under way: its name tells its record, not the time."""
_TICK_S = 0.05
"""File times tick coarser than the clock."""
_CHUNK = 500
"""Rows that one transaction deletes: it keeps the other workers waiting for a millisecond."""
_CHUNKS = 20
_BUSY_MS = 5
"""How long a call waits for another worker's transaction, which takes microseconds. It is the event loop that waits."""


class RequestsTable:
    """The table, opened on first use and again after an error.

    Args:
        folder: ``settings.service_state``.
        log: ``settings.prediction_log``.
        report: Told what an operator must know.
        lifetime_s: How long an id is remembered.
        at_most: How many are.
        wal_bytes: Size from which the write-ahead log is emptied.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log: Path,
        report: Callable[[str], None],
        lifetime_s: float = LIFETIME_S,
        at_most: int = AT_MOST,
        wal_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._path = folder / "requests.db"
        self._log = log
        self._report = report
        self._lifetime_s = lifetime_s
        self._at_most = at_most
        self._wal_bytes = wal_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._lifeline: Lifeline | None = None
        self._wal: WriteAheadLog | None = None
        self._synced = (-1, 0.0)
        self._missed: set[str] = set()
        """Owners of rows that are under way, to be looked at: who died without a trace has no file any more."""
        self._searched = False
        """Whether the whole table was looked through for such owners."""

    @contextmanager
    def use(self) -> Iterator[tuple[sqlite3.Connection, Lifeline]]:
        """The table and this process's lifeline, for one thread at a time.

        Raises:
            LogUnavailable: It can't be used, or not now: see ``is_busy``.
        """
        with self._lock:
            try:
                if self._lifeline is None:
                    self._lifeline = Lifeline(self._folder / "workers")
                if self._wal is None:
                    self._wal = WriteAheadLog(self._path, limit_bytes=self._wal_bytes)
                with self._wal.kept():
                    if self._connection is None:
                        self._connection = self._open(self._path, self._wal)
                    yield self._connection, self._lifeline
            except (sqlite3.Error, OSError, UnreadableFile, msgspec.MsgspecError) as error:
                unusable = _unusable(error)
                if self._connection is not None and not is_busy(unusable):
                    self._connection.close()
                    self._connection = None
                raise unusable from error

    def busy(self) -> bool:
        """Whether others have it for a moment."""
        try:
            with self.use() as (table, _life):
                table.execute("BEGIN IMMEDIATE")
                table.execute("ROLLBACK")
        except LogUnavailable as error:
            return is_busy(error)
        return False

    def close(self) -> None:
        """Lets go of everything: from now on this process counts as dead."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._lifeline is not None:
                self._lifeline.close()
                self._lifeline = None
            if self._wal is not None:
                self._wal.close()
                self._wal = None

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def expired(self, began_at: float) -> bool:
        """Whether a request that old is forgotten."""
        return began_at < self._clock() - self._lifetime_s

    def bury(self) -> None:
        """Looks up in the log what the dead were at, so that whoever asks next can go on.

        Raises:
            LogUnavailable: The table can't be used.
            UnreadableFile: A segment of the log is of another format.
        """
        with self.use() as (_table, life):
            dead, wal = set(life.dead()), self._wal
        if wal is not None and not self._searched:
            # Some died without a file: a crash of the machine brought back rows whose owner had been buried. Looked for
            # once, without the lock: that reads the whole table.
            with self._telling(), closing(wal.connect()) as connection:
                for (owner,) in connection.execute(_UNDER_WAY, (NOBODY,)).fetchall():
                    self.miss(owner)
            self._searched = True
        with self.use() as (_table, life):
            missed, self._missed = self._missed, set()
            dead.update(owner for owner in missed if not life.alive(owner))
        for token in dead:
            self._bury(token)

    def miss(self, owner: str) -> None:
        """Has ``bury`` look whether this one lives."""
        self._missed.add(owner)

    def forget(self) -> None:
        """Deletes what is too old or too much, a little at a time. Rows are about in the order of their age.

        Raises:
            LogUnavailable: The table can't be used.
        """
        for _ in range(_CHUNKS):
            with self.use() as (table, life):
                # Two queries, since SQLite reads the whole table to find both ends in one.
                span = table.execute(
                    "SELECT (SELECT max(id) FROM requests) - (SELECT min(id) FROM requests)"
                ).fetchone()
                too_many = min(_CHUNK, max(0, (span[0] or 0) + 1 - self._at_most))
                gone = table.execute(_FORGET, (_CHUNK, self._clock() - self._lifetime_s, too_many, NOBODY)).rowcount
                under_way = table.execute(_OLDEST_UNDER_WAY, (_CHUNK, NOBODY, life.token))
                self._missed.update(owner for (owner,) in under_way)
            if gone < _CHUNK:
                return
            if self.crowded():
                self.sync()
                if self.crowded():
                    return

    def crowded(self) -> bool:
        """Whether the write-ahead log is so large that it is time to ``sync``."""
        wal = self._wal
        return wal is not None and wal.too_large()

    def settle(self, before: float) -> None:
        """Sees that whatever was logged up to then is told by the table, and on the disk there.

        Args:
            before: Seconds since 1970.

        Raises:
            LogUnavailable: A worker has still to store what it answered, another one is at the disk, or the table can't
                be used.
        """
        with self.use() as _:
            wal = self._wal
        with self._telling():
            if wal is not None:
                # Without the lock: it reads the whole table.
                with closing(wal.connect()) as connection:
                    [untold] = connection.execute(_UNTOLD, (NOBODY, before + _TICK_S)).fetchone()
                if untold:
                    raise BlockingIOError("a worker has still to store what it answered")
            if not self.sync():
                raise BlockingIOError("another worker puts it on the disk")

    def sync(self) -> bool:
        """Puts on the disk what was changed, and empties the write-ahead log. Waits for the disk, and lets requests go
        on while it does.

        Returns:
            Whether all that was changed is on the disk; not if another worker is at it.

        Raises:
            LogUnavailable: The table can't be used, or others are in the way.
        """
        with self.use() as (table, _life):
            now = self._clock()
            changes = table.total_changes
            wal = self._wal
        if wal is None or (changes == self._synced[0] and now - self._synced[1] < _SYNC_S and not wal.too_large()):
            return True
        with self._telling():
            if emptied := wal.empty(now):
                self._synced = (changes, now)
        return emptied

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error

    def _bury(self, token: str) -> None:
        with self.use() as (table, life):
            left = table.execute(
                "SELECT id, caller, model, request_id, began_at, logged FROM requests"
                " WHERE owner = ? AND status IS NULL",
                (token,),
            ).fetchall()
        known = {row: Request(*names) for row, *names, _, logged in left if logged is None}
        since = min((began_at for *_, began_at, logged in left if logged is None), default=0.0)
        # Without the lock: the segments may be large, and this worker's own requests go on.
        found = find_predictions(self._log, set(known.values()), since=since - _STEP_S) if known else {}
        with self.use() as (table, life):
            for row, *_, already in left:
                records = found.get(known[row]) if row in known else None
                if records is not None:
                    table.execute(
                        "UPDATE requests SET owner = ?, logged = ? WHERE id = ? AND owner = ?",
                        (NOBODY, msgspec.json.encode(records), row, token),
                    )
                elif already is not None:
                    table.execute("UPDATE requests SET owner = ? WHERE id = ? AND owner = ?", (NOBODY, row, token))
                else:
                    table.execute("DELETE FROM requests WHERE id = ? AND owner = ?", (row, token))
            life.forget(token)
        if left:
            self._report(
                f"idempotency: a worker died with {len(left)} requests under way; the predictions of "
                f"{len(left) - len(known) + len(found)} are in the log"
            )

    def _open(self, path: Path, wal: WriteAheadLog) -> sqlite3.Connection:
        # Made before SQLite makes it, so that it is this user's alone. Only if it isn't there: to close a file that
        # another connection of this process has open would end its locks.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode = WAL",
                # What a crash of the machine takes from the table is found in the log.
                "synchronous = NORMAL",
                # A checkpoint waits for the disk, which is the background thread's to do.
                "wal_autocheckpoint = 0",
                "secure_delete = ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            self._restore(connection, wal)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _restore(self, table: sqlite3.Connection, wal: WriteAheadLog) -> None:
        """After a crash of the machine, or with a new table: takes what it lacks from the log."""
        boot = _boot()
        known = table.execute("SELECT boot, at FROM synced").fetchone()
        if known is not None and known[0] == boot:
            # Whoever writes first to a new write-ahead log waits for the disk: that shall be no request. Where there is
            # no room, what was answered can still be read.
            with suppress(sqlite3.OperationalError):
                touch(table)
            return
        now = self._clock()
        since = now - self._lifetime_s if known is None else max(known[1] - 1.0, now - self._lifetime_s)
        found = list(find_predictions(self._log, None, since=since).items())[-self._at_most :]
        for start in range(0, len(found), _CHUNK):
            table.execute("BEGIN IMMEDIATE")
            table.executemany(
                "INSERT INTO requests (caller, model, request_id, content, owner, began_at, logged)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    (*request, ANY, NOBODY, records[0].at / 1_000_000, msgspec.json.encode(records))
                    for request, records in found[start : start + _CHUNK]
                ),
            )
            table.execute("COMMIT")
            if wal.too_large():
                table.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        table.execute("INSERT OR REPLACE INTO synced (one, boot, at) VALUES (1, ?, ?)", (boot, now))


def decode_records(logged: bytes) -> tuple[PredictionRecord, ...]:
    """The predictions in a row's ``logged``."""
    return _RECORDS.decode(logged)


_RECORDS = msgspec.json.Decoder(tuple[PredictionRecord, ...])


def is_busy(error: LogUnavailable) -> bool:
    """Whether somebody else has the table for a moment, and nothing is wrong with it."""
    return "busy" in error.details


def _unusable(error: Exception) -> LogUnavailable:
    # The low byte of SQLite's code; the rest of it says with whom.
    busy = isinstance(error, BlockingIOError) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return LogUnavailable(
        f"Requests with an id can't be answered: their table can't be used ({error}).",
        fix="Ask again later, or without an id. Operators: docs/runbooks/prediction-log.md.",
        reason=str(error),
        **({"busy": True} if busy else {}),
    )


def _boot() -> str:
    """Names the time since the machine was started; where it can't be told, every process is after another crash."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return f"unknown {time.time_ns()}"
