"""The ledger: append-only events in SQL, each with the hash of the one before. What happened, not what it means.

Appending takes the sequence number that the writer has seen (compare-and-swap), so of two decisions at once one wins.
What the events amount to is ``state.py``; whether they are the ones that were written is ``audit.py``. MLflow's aliases
are a projection of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pilotage.errors import LedgerConflict, LedgerUnavailable
from pilotage.release import ledger_sql
from pilotage.release.events import PLAIN, Draft, Event, from_row, read_key, refuse_unkeyed, seal, to_row
from pilotage.release.head import advance, read_head

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pilotage.settings import Settings

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 100
"""Times that a fact is appended anew after another writer took its number; each time one of them gets through."""


class Ledger(Protocol):
    """What every ledger does; ``pilotage.testing.InMemoryLedger`` is the other one."""

    def append(self, draft: Draft, *, expected: int | None = None) -> Event:
        """Appends an event.

        Args:
            draft: The event.
            expected: Sequence number of the last event that the writer knows; ``None`` for a fact that is true whatever
                came before.

        Raises:
            LedgerConflict: The last event is another one; read again, decide again.
            LedgerUnavailable: The database can't be reached, or is damaged.
        """

    def events(self, *, after: int = 0) -> list[Event]:
        """Events with a higher sequence number than ``after``, in order."""


def read_on(ledger: Ledger, last: Event | None) -> tuple[list[Event], bool]:
    """The events after one that is known already, as long as the ledger still holds it; otherwise all of them.

    Args:
        ledger: The ledger.
        last: The last event that was read; ``None`` to begin.

    Returns:
        The events, and whether they are all of them: what came of those before no longer counts.

    Raises:
        LedgerUnavailable: The ledger can't be read.
    """
    if last is not None:
        # With the one that is known: a ledger that was replaced, by a backup say, has another there, or none. Its hash
        # stands for all that came before it.
        events = ledger.events(after=last.sequence - 1)
        if events and (events[0].sequence, events[0].hash) == (last.sequence, last.hash):
            return events[1:], False
    return ledger.events(), True


class SqlLedger:
    """A ledger in SQLite (write-ahead logging), PostgreSQL, or any other database that SQLAlchemy knows."""

    def __init__(
        self, url: str, *, key: bytes | None = None, head: Path | None = None, keyed_since: int | None = None
    ) -> None:
        """Opens nothing yet. To read, the address is enough.

        Args:
            url: SQLAlchemy URL.
            key: Secret of keyed hashes.
            head: File that notes the last event outside the database.
            keyed_since: Number of the first keyed event, if that is known.

        Raises:
            ConfigError: The address is none.
        """
        self._url = ledger_sql.parse_url(url)
        self._file = ledger_sql.file_of(self._url)
        self._identity: tuple[int, int] | None = None
        """Of the file that is open."""
        self._key = key
        self._head = head
        self._keyed_since = keyed_since
        self._created = False
        self._columns: list[sa.Column[Any]] = []
        self._asked: tuple[tuple[Any, ...], sa.Select[Any]] | None = None
        """The last query, and what it was put together for."""

    @classmethod
    def of(cls, settings: Settings) -> SqlLedger:
        """The ledger of an installation, to write into.

        Raises:
            ConfigError: Its key file can't be read.
        """
        return cls(
            settings.ledger,
            key=read_key(settings.ledger_key_file),
            head=settings.ledger_head,
            keyed_since=settings.ledger_keyed_since,
        )

    @classmethod
    def to_read(cls, settings: Settings) -> SqlLedger:
        """The ledger of an installation, to read from: without its key, and never taken for new when it is lost."""
        return cls(settings.ledger, head=settings.ledger_head)

    def append(self, draft: Draft, *, expected: int | None = None) -> Event:
        """See ``Ledger``.

        Raises:
            ConfigError: The ledger is keyed, and this writer has no key.
            LedgerUnavailable: Its last event should be keyed, and is not.
        """
        import sqlalchemy as sa

        for _ in range(_ATTEMPTS):
            try:
                with self._named():
                    self._follow_file()
                    if self._file is not None and self._identity is None:
                        self._require_beginning()
                    self._create()
                with self._named(), self._engine.begin() as connection:
                    event = self._insert(connection, draft, expected)
            except sa.exc.IntegrityError:
                # Another writer took the number between our two statements, in a database that ``begin`` can't lock.
                if expected is not None:
                    raise _conflict(draft, expected, expected + 1) from None
                continue
            self._note(event)
            return event
        raise LedgerUnavailable(
            f"{draft.kind} of {draft.model} could not be appended: its row was refused {_ATTEMPTS} times.",
            fix="See that every field has a value, and that only Pilotage writes the table pilotage_ledger.",
            model=draft.model,
        )

    def _insert(self, connection: sa.Connection, draft: Draft, expected: int | None) -> Event:
        import sqlalchemy as sa

        ledger_sql.begin(connection)
        columns = self._table.c
        last = connection.execute(
            sa.select(columns.sequence, columns.hash, columns.algorithm).order_by(columns.sequence.desc()).limit(1)
        ).first()
        head, previous, algorithm = tuple(last) if last else (0, "", PLAIN)
        if expected is not None and expected != head:
            raise _conflict(draft, expected, head)
        refuse_unkeyed(algorithm, self._key, sequence=head, keyed_since=self._keyed_since)
        event = seal(draft, sequence=head + 1, at=datetime.now(UTC), previous=previous, key=self._key)
        connection.execute(self._table.insert().values(to_row(event)))
        return event

    def _note(self, event: Event) -> None:
        """Notes the head. The event is committed: to fail now would say that it is not."""
        from filelock import Timeout

        if self._head is None:
            return
        try:
            advance(self._head, event, key=self._key, hash_at=self._hash_at)
        except (OSError, Timeout, LedgerUnavailable) as error:
            _LOG.warning("Event %s of the ledger is not noted in %s: %s", event.sequence, self._head, error)

    def _hash_at(self, sequence: int) -> str | None:
        found = [row["hash"] for row in self.rows(after=sequence - 1, limit=1) if row["sequence"] == sequence]
        return str(found[0]) if found else None

    def events(self, *, after: int = 0) -> list[Event]:
        """See ``Ledger``. A ledger that nobody wrote to has no events, and reading does not create it."""
        found: list[Event] = []
        for row in self.rows(after=after):
            try:
                found.append(from_row(row))
            except (TypeError, ValueError) as error:
                raise LedgerUnavailable(
                    f"Event {row['sequence']} of the ledger can't be read: {error}.",
                    fix="pilotage audit verify, and docs/runbooks/ledger-does-not-verify.md.",
                    sequence=row["sequence"],
                ) from error
        if not found and after == 0:
            self._require_beginning()
        return found

    def rows(self, *, after: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Events as they are stored, by sequence number. With ``after=None`` also those whose number is none."""
        with self._named():
            self._follow_file()
            if self._file is not None and self._identity is None:
                return []
            with self._engine.connect() as connection:
                columns = self._columns or ledger_sql.columns(connection, self._table)
                if not columns:
                    return []
                if len(columns) == len(self._table.columns):
                    # Asked once: a column that is there stays.
                    self._columns = columns
                query = self._query(columns, following=after is not None, limit=limit)
                return [dict(row) for row in connection.execute(query, {"after": after}).mappings()]

    def _query(self, columns: list[sa.Column[Any]], *, following: bool, limit: int | None) -> sa.Select[Any]:
        """Kept for the next time: each worker asks twice a second, and to put it together costs more than to ask."""
        import sqlalchemy as sa

        asked, kept = ([column.name for column in columns], following, limit), self._asked
        if kept is None or kept[0] != asked:
            query = sa.select(*columns).order_by(self._table.c.sequence).limit(limit)
            if following:
                query = query.where(self._table.c.sequence > sa.bindparam("after"))
            # What is kept may be another thread's by now, so it is not looked at again.
            self._asked = kept = asked, query
        return kept[1]

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _follow_file(self) -> None:
        """A SQLite file that was moved away or replaced stays open, and would be read on for ever."""
        if self._file is None:
            return
        try:
            there = self._file.stat()
            identity = (there.st_dev, there.st_ino)
        except FileNotFoundError:
            identity = None
        if identity != self._identity:
            if self._identity is not None:
                self._engine.dispose()
                self._created, self._columns = False, []
            self._identity = identity

    def _require_beginning(self) -> None:
        """A ledger without events is a new one, unless events were noted outside of it: then it is lost, or elsewhere.

        Raises:
            LedgerUnavailable: It is.
        """
        if self._head is not None and (noted := read_head(self._head)) is not None:
            where = self._url.render_as_string(hide_password=True)
            raise LedgerUnavailable(
                f"The ledger at {where} is empty or not there, and event {noted.sequence} is noted in {self._head}.",
                fix="Restore it: docs/how-to/back-up-and-restore.md.",
                url=where,
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A database that fails is told by its address, without its password."""
        import sqlalchemy as sa
        from filelock import Timeout

        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.SQLAlchemyError, OSError, Timeout) as error:
            where = self._url.render_as_string(hide_password=True)
            reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
            raise LedgerUnavailable(
                f"The ledger at {where} can't be used: {reason}.",
                fix="See that its database runs and its disk has room (PILOTAGE_LEDGER_URL names another one).",
                url=where,
            ) from error

    @cached_property
    def _engine(self) -> sa.Engine:
        return ledger_sql.connect(self._url)

    @cached_property
    def _table(self) -> sa.Table:
        return ledger_sql.table()

    def _create(self) -> None:
        if not self._created:
            ledger_sql.create(self._engine, self._table, self._file)
            self._created = True


def _conflict(draft: Draft, expected: int, head: int) -> LedgerConflict:
    return LedgerConflict(
        f"The ledger is at {head}, not at {expected}: {draft.kind} of {draft.model} came second.",
        fix="Look at the new state, and decide again.",
        expected=expected,
        head=head,
        model=draft.model,
    )


@contextmanager
def opened(settings: Settings, ledger: Ledger | None) -> Iterator[Ledger]:
    """The ledger that was given, or else the settings', closed afterwards."""
    if ledger is not None:
        yield ledger
        return
    own = SqlLedger.of(settings)
    try:
        yield own
    finally:
        own.close()
