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
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SYNC_S = 60.0
"""Longest time between two checkpoints: after a crash of the machine, that much of the log is read."""
_CHUNK = 500
"""Rows that one transaction deletes: it keeps the other workers waiting for a millisecond."""
_CHUNKS = 20
_BUSY_S = 0.25
"""How long a call waits for another worker's transaction, which takes microseconds."""


class RequestsTable:
    """The table, opened on first use and again after an error.

    Args:
        folder: ``settings.service_state``.
        log: ``settings.prediction_log``.
        report: Told what an operator must know.
        lifetime_s: How long an id is remembered.
        at_most: How many are.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._path = folder / "requests.db"
        self._log = log
        self._report = report
        self._lifetime_s = lifetime_s
        self._at_most = at_most
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._lifeline: Lifeline | None = None
        self._synced = (-1, 0.0)

    @contextmanager
    def use(self) -> Iterator[tuple[sqlite3.Connection, Lifeline]]:
        """The table and this process's lifeline, for one thread at a time.

        Raises:
            LogUnavailable: It can't be used.
        """
        with self._lock:
            try:
                if self._lifeline is None:
                    self._lifeline = Lifeline(self._folder / "workers")
                if self._connection is None:
                    self._connection = self._open(self._path)
                yield self._connection, self._lifeline
            except (sqlite3.Error, OSError, UnreadableFile, msgspec.MsgspecError) as error:
                busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
                if self._connection is not None and not busy:
                    self._connection.close()
                    self._connection = None
                raise _unusable(error) from error

    def close(self) -> None:
        """Lets go of everything: from now on this process counts as dead."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._lifeline is not None:
                self._lifeline.close()
                self._lifeline = None

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
        with self.use() as (table, life):
            dead = list(life.dead())
            # Owners without a file died too: whoever cleaned up after them was killed half way.
            owners = [row[0] for row in table.execute("SELECT DISTINCT owner FROM requests WHERE status IS NULL")]
            dead += [owner for owner in owners if owner != NOBODY and owner not in dead and not life.alive(owner)]
        for token in dead:
            self._bury(token)

    def forget(self) -> None:
        """Deletes what is too old or too much, a little at a time. Rows are about in the order of their age.

        Raises:
            LogUnavailable: The table can't be used.
        """
        for _ in range(_CHUNKS):
            with self.use() as (table, _life):
                span = table.execute("SELECT max(id) - min(id) + 1 FROM requests").fetchone()[0] or 0
                too_many = min(_CHUNK, max(0, span - self._at_most))
                gone = table.execute(
                    "DELETE FROM requests WHERE id IN (SELECT id FROM"
                    " (SELECT id, began_at, status, owner, row_number() OVER (ORDER BY id) AS place"
                    "  FROM (SELECT * FROM requests ORDER BY id LIMIT ?))"
                    " WHERE (began_at < ? OR place <= ?) AND (status IS NOT NULL OR owner = ?))",
                    (_CHUNK, self._clock() - self._lifetime_s, too_many, NOBODY),
                ).rowcount
            if gone < _CHUNK:
                return

    def sync(self) -> None:
        """Puts on the disk what this process changed.

        Raises:
            LogUnavailable: The table can't be used.
        """
        with self.use() as (table, _life):
            now = self._clock()
            if table.total_changes == self._synced[0] and now - self._synced[1] < _SYNC_S:
                return
            table.execute("UPDATE synced SET at = ?", (now,))
            changes = table.total_changes
        # On a connection of its own, without the lock: it waits for the disk, and requests must not.
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY_S)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise _unusable(error) from error
        self._synced = (changes, now)

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
        found = find_predictions(self._log, set(known.values()), since=since) if known else {}
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

    def _open(self, path: Path) -> sqlite3.Connection:
        # Made before SQLite makes it, so that it is this user's alone. Only if it isn't there: to close a file that
        # another connection of this process has open would end its locks.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
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
            self._restore(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _restore(self, table: sqlite3.Connection) -> None:
        """After a crash of the machine, or with a new table: takes what it lacks from the log."""
        boot = _boot()
        known = table.execute("SELECT boot, at FROM synced").fetchone()
        if known is not None and known[0] == boot:
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
        table.execute("INSERT OR REPLACE INTO synced (one, boot, at) VALUES (1, ?, ?)", (boot, now))


def decode_records(logged: bytes) -> tuple[PredictionRecord, ...]:
    """The predictions in a row's ``logged``."""
    return _RECORDS.decode(logged)


_RECORDS = msgspec.json.Decoder(tuple[PredictionRecord, ...])


def _unusable(error: Exception) -> LogUnavailable:
    return LogUnavailable(
        f"Requests with an id can't be answered: their table can't be used ({error}).",
        fix="Ask again later, or without an id. Operators: docs/runbooks/prediction-log.md.",
        reason=str(error),
    )


def _boot() -> str:
    """Names the time since the machine was started; where it can't be told, every process is after another crash."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return f"unknown {time.time_ns()}"
