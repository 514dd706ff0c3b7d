"""A request that is sent twice with the same id gets the same answer and is logged once: also by another worker of the
host, also at the same time, also if the worker that took it first died half way.

The workers share a SQLite table (WAL) of the requests whose client chose an id; others never come here. Whoever inserts
a request's row owns it: it predicts, logs, stores the answer's bytes, and only then answers. Others find the stored
answer, or wait. An owner locks a file for as long as it lives. When it is dead, the prediction log says whether its
prediction was logged: then whoever asks next answers with that, or else it takes the request over.

A table that can't be used refuses such requests (503): they asked for a guarantee that nobody could give. The stored
answers hold what applications sent to identify an entity, so the file is this user's alone, and what expires is
overwritten. Nothing here knows HTTP or what an answer says.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec

from pilotage.errors import LogUnavailable, PilotageError, RequestConflict, TimedOut
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.lifeline import Lifeline
from pilotage.runtime.log.search import Request
from pilotage.runtime.requests_table import ANY, NOBODY, RequestsTable, decode_records, is_busy
from pilotage.runtime.requests_wal import BUSY_S
from pilotage.settings import Settings

_TICK_S = 1.0
_SYNC_EVERY = 5
"""Ticks between two times that the table is put on the disk; sooner if its write-ahead log grows large."""
_ROUND_S = 0.01
"""Least time between two rounds of the thread, however often it is poked."""
_PATIENCE_S = 2.0
"""How long a request waits for a table that others have. They need it for milliseconds, on a disk that works."""
_LOOK_S = 0.004
"""Time between two looks whether they still have it."""
_LOOKS = 25
"""Looks after which those who wait see whether they still want to."""
_AT_ONCE = 100
"""Answers that the thread stores in one transaction: requests wait for it, a millisecond or two."""
_RETRY_S = 0.05
"""How long the thread waits when others were in its way; doubled each time."""
_SETTLING_S = 2.0
"""How long is waited until others have stored what they answered. They need milliseconds for it."""
_QUIET = 8
"""Times that they may be before an operator is told; five seconds."""


class Fresh(NamedTuple):
    """Nobody has answered this request: predict, log, ``finish``, answer. If it was not logged: ``abandon``."""

    row: int


class Logged(NamedTuple):
    """Its predictions are in the log, but their owner died: answer with these, ``finish``, and log nothing."""

    row: int
    records: tuple[PredictionRecord, ...]
    """In the order of the request's rows."""


class Stored(NamedTuple):
    """It was answered: send this again."""

    body: bytes
    status: int


class _HandedOn(NamedTuple):
    """It was logged, and its answer could not be written."""

    records: bytes
    """JSON list of the predictions."""


_Outcome = Stored | _HandedOn | None
"""What an owner leaves; ``None`` if nothing was logged."""


class Pending(NamedTuple):
    """Somebody else is at it: ask again in a few milliseconds."""


class Idempotency:
    """The requests of all workers of this host. Its methods may be called from any thread; each takes microseconds.

    Args:
        requests: The table.
        report: Told what an operator must know.
    """

    def __init__(self, requests: RequestsTable, *, report: Callable[[str], None]) -> None:
        self._requests = requests
        self._report = report
        self._unsaved: dict[int, _Outcome] = {}
        """What the table did not take yet."""
        self._looking: asyncio.Task[None] | None = None
        """While others have the table: ends when they don't any more, or a little later."""
        self._poke = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings, *, report: Callable[[str], None]) -> Idempotency:
        """For the workers of this platform."""
        table = RequestsTable(settings.service_state, log=settings.prediction_log, report=report)
        return cls(table, report=report)

    def start(self) -> None:
        """Starts the thread that reads the log for the dead, forgets what is old, and syncs."""
        self._thread = threading.Thread(target=self._run, name="idempotency", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread, and lets go of what is owned: call it when no request is under way any more."""
        self._closing.set()
        self._poke.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            with suppress(LogUnavailable):  # Then the log has it.
                self._save()
        self._requests.close()

    def begin(
        self, caller: str, request_id: str, body_sha256: bytes, *, model: str
    ) -> Fresh | Logged | Stored | Pending:
        """Takes a request, or says who has it.

        Args:
            caller: Id of the API key; ids of different callers have nothing to do with each other.
            request_id: The client's own.
            body_sha256: Of the request's bytes.
            model: The same id for another model is another request.

        Raises:
            RequestConflict: The id was used for another body.
            LogUnavailable: The table can't be used, or is busy.
        """
        request = Request(caller, model, request_id)
        with self._requests.use() as (table, life):
            while True:
                added = table.execute(
                    "INSERT INTO requests (caller, model, request_id, content, owner, began_at)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (*request, body_sha256, life.token, self._requests.now()),
                )
                if added.rowcount == 1 and added.lastrowid is not None:
                    return Fresh(added.lastrowid)
                outcome = self._existing(table, life, request, body_sha256)
                if outcome is not None:
                    return outcome

    async def admit(
        self, caller: str, request_id: str, body_sha256: bytes, *, model: str, timeout_s: float = 10.0
    ) -> Fresh | Logged | Stored:
        """``begin``, but waits for whoever is at the same request, or has the table.

        Raises:
            RequestConflict: As in ``begin``.
            LogUnavailable: As in ``begin``.
            TimedOut: The other one did not finish in time.
        """
        began = time.monotonic()
        pause_s = 0.002
        while True:
            impatient = time.monotonic() - began >= min(timeout_s, _PATIENCE_S)
            if not impatient and (looking := self._look_under_way()) is not None:
                await asyncio.shield(looking)
                continue
            try:
                outcome = self.begin(caller, request_id, body_sha256, model=model)
            except LogUnavailable as error:
                if not is_busy(error) or impatient:
                    raise
                if self._look_under_way() is None:
                    self._looking = asyncio.create_task(self._look())
                continue
            if not isinstance(outcome, Pending):
                return outcome
            if time.monotonic() - began >= timeout_s:
                raise TimedOut(
                    f"The first request with the id {request_id!r} is not answered yet.",
                    fix="Send it again with the same id.",
                    request_id=request_id,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)

    def finish(self, claim: Fresh | Logged, body: bytes, status: int) -> None:
        """Stores the answer, before it is sent and after its prediction is in the log. Never raises.

        If the table refuses, this worker keeps the answer and tries again; if it dies before, the log has it.
        """
        self._settle_own(claim.row, Stored(body, status))

    def abandon(self, claim: Fresh | Logged) -> None:
        """Gives a request up whose prediction is not in the log, so that the next one can try. Never raises.

        Only if nothing was submitted to the log, or ``LogUnavailable`` came back. A caller that went away while its
        prediction was being committed is no reason: finish it.
        """
        self._settle_own(claim.row, None)

    def hand_on(self, claim: Fresh | Logged, payloads: Sequence[bytes]) -> None:
        """Gives a request up whose predictions are in the log: the next one is answered with them. Never raises.

        Args:
            claim: The request.
            payloads: Its records, as they were submitted, in the order of the request's rows.
        """
        self._settle_own(claim.row, _HandedOn(b"[" + b",".join(payloads) + b"]"))

    def maintain(self, *, sync: bool = False) -> None:
        """What the thread does every second, and when the write-ahead log has grown large.

        Args:
            sync: Whether to put the table on the disk.

        Raises:
            LogUnavailable: The table can't be used.
        """
        try:
            self._save()
            _patiently(self._requests.bury)
            _patiently(self._requests.forget)
        finally:
            if sync or self._requests.crowded():
                self._requests.sync()

    def settle(self, before: float) -> None:
        """To be called before what was logged up to then is taken out of the log: what dead workers were at is noted,
        and nothing that a living one has still to store is told by the log alone.

        Args:
            before: Seconds since 1970.

        Raises:
            LogUnavailable: It is not so yet, or the table can't be used.
        """
        self.maintain()
        _patiently(partial(self._requests.settle, before), _SETTLING_S)

    def _existing(
        self, table: sqlite3.Connection, life: Lifeline, request: Request, content: bytes
    ) -> Logged | Stored | Pending | None:
        """What the row that is there says; ``None`` to look again.

        Raises:
            RequestConflict: It is of another body.
        """
        found = table.execute(
            "SELECT id, content, owner, began_at, status, body, logged FROM requests"
            " WHERE caller = ? AND model = ? AND request_id = ?",
            request,
        ).fetchone()
        if found is None:
            return None  # Forgotten or given up since.
        row, known, owner, began_at, status, body, logged = found
        if status is not None and self._requests.expired(began_at):
            table.execute("DELETE FROM requests WHERE id = ?", (row,))
            return None
        if known not in (content, ANY):
            raise RequestConflict(
                f"The request id {request.request_id!r} was used before, with another content.",
                fix="Give every request an id of its own; send the same content to get the same answer.",
                request_id=request.request_id,
            )
        if status is not None:
            return Stored(body, status)
        if owner == NOBODY:
            taken = table.execute(
                "UPDATE requests SET owner = ?, content = ? WHERE id = ? AND owner = ?",
                (life.token, content, row, NOBODY),
            )
            return Logged(row, decode_records(logged)) if taken.rowcount == 1 else None
        if owner == life.token and isinstance(unsaved := self._unsaved.get(row), Stored):
            return unsaved
        if not life.alive(owner):
            self._requests.miss(owner)
            self._poke.set()
        return Pending()

    async def _look(self) -> None:
        """Waits until the table is free, but not for long: one for all, since each that tries holds up the loop."""
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_S)
            if not self._requests.busy():
                return

    def _look_under_way(self) -> asyncio.Task[None] | None:
        return None if self._looking is None or self._looking.done() else self._looking

    def _settle_own(self, row: int, outcome: _Outcome) -> None:
        if self._look_under_way() is not None:
            self._later(row, outcome)
            return
        try:
            with self._requests.use() as (table, life):
                _store(table, life, row, outcome)
        except LogUnavailable:
            self._later(row, outcome)
        if self._requests.crowded():
            self._poke.set()

    def _later(self, row: int, outcome: _Outcome) -> None:
        self._unsaved[row] = outcome
        self._poke.set()

    def _save(self) -> None:
        unsaved = list(self._unsaved.items())
        for start in range(0, len(unsaved), _AT_ONCE):
            _patiently(partial(self._save_some, unsaved[start : start + _AT_ONCE]))

    def _save_some(self, unsaved: Sequence[tuple[int, _Outcome]]) -> None:
        with self._requests.use() as (table, life):
            # In one transaction: whoever has to be waited for is waited for once.
            table.execute("BEGIN IMMEDIATE")
            try:
                for row, outcome in unsaved:
                    _store(table, life, row, outcome)
                table.execute("COMMIT")
            except BaseException:
                if table.in_transaction:
                    table.execute("ROLLBACK")
                raise
            for row, _ in unsaved:
                self._unsaved.pop(row, None)

    def _run(self) -> None:
        tick, failed, told = 0, 0, False
        due = time.monotonic()
        while not self._closing.wait(_ROUND_S):
            self._poke.clear()
            whole = time.monotonic() >= due
            try:
                self.maintain(sync=whole and tick % _SYNC_EVERY == 0)
                failed, told = 0, False
            except (PilotageError, OSError, msgspec.MsgspecError) as error:
                failed += 1
                busy = isinstance(error, LogUnavailable) and is_busy(error)
                if not told and (failed >= _QUIET or not busy):
                    self._report(f"idempotency: {error}")
                    told = True
                # Not at every request's poke: to try has a cost for them.
                self._closing.wait(min(_TICK_S, _RETRY_S * 2 ** min(failed - 1, 10)) if busy else _TICK_S)
            if whole:
                tick, due = tick + 1, time.monotonic() + _TICK_S
            self._poke.wait(max(0.0, due - time.monotonic()))


def _patiently(step: Callable[[], None], patience_s: float = BUSY_S) -> None:
    """Does it again while others have the table, for a while."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return step()
        except LogUnavailable as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_ROUND_S)


def _store(table: sqlite3.Connection, life: Lifeline, row: int, outcome: _Outcome) -> None:
    if isinstance(outcome, Stored):
        table.execute(
            "UPDATE requests SET status = ?, body = ?, logged = NULL WHERE id = ? AND owner = ?",
            (outcome.status, outcome.body, row, life.token),
        )
        return
    if outcome is not None:
        table.execute("UPDATE requests SET logged = ? WHERE id = ? AND owner = ?", (outcome.records, row, life.token))
    # What the log holds must be answered with, whoever asks next.
    table.execute("DELETE FROM requests WHERE id = ? AND owner = ? AND logged IS NULL", (row, life.token))
    table.execute(
        "UPDATE requests SET owner = ? WHERE id = ? AND owner = ? AND status IS NULL", (NOBODY, row, life.token)
    )
