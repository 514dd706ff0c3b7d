"""The ledger: append-only events in SQL, each with the hash of the one before. What happened, not what it means.

Appending takes the sequence number that the writer has seen (compare-and-swap), so of two decisions at once one wins.
What the events amount to is ``state.py``; MLflow's aliases are a projection of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pilotage.errors import LedgerConflict, LedgerUnavailable
from pilotage.release.events import Draft, Event, seal

if TYPE_CHECKING:
    import sqlalchemy as sa

_WAIT_S = 30
"""Seconds that a writer waits for another one's transaction; one takes a millisecond."""


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


class SqlLedger:
    """A ledger in SQLite (write-ahead logging) or any other database that SQLAlchemy knows."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet.

        Args:
            url: SQLAlchemy URL.
        """
        self._url = url
        self._created = False

    def append(self, draft: Draft, *, expected: int | None = None) -> Event:
        """See ``Ledger``."""
        import sqlalchemy as sa

        table = self._table
        while True:
            try:
                with self._named():
                    self._create()
                with self._named(), self._engine.begin() as connection:
                    if self._file is not None:
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                    last = connection.execute(
                        sa.select(table.c.sequence, table.c.hash).order_by(table.c.sequence.desc()).limit(1)
                    ).first()
                    head, previous = (last.sequence, last.hash) if last else (0, "")
                    if expected is not None and expected != head:
                        raise _conflict(draft, expected, head)
                    event = seal(draft, sequence=head + 1, at=datetime.now(UTC), previous=previous)
                    row = {**asdict(event), "at": event.at.isoformat(), "payload": json.dumps(event.payload)}
                    connection.execute(table.insert().values(row))
                return event
            except sa.exc.IntegrityError:
                # Another writer took the number between our two statements (not possible in SQLite).
                if expected is not None:
                    raise _conflict(draft, expected, expected + 1) from None

    def events(self, *, after: int = 0) -> list[Event]:
        """See ``Ledger``. A ledger that nobody wrote to has no events, and reading does not create it."""
        import sqlalchemy as sa

        query = sa.select(self._table).where(self._table.c.sequence > after).order_by(self._table.c.sequence)
        with self._named():
            if not self._exists():
                return []
            with self._engine.connect() as connection:
                rows = connection.execute(query).mappings().all()
        return [
            Event(**{**row, "at": datetime.fromisoformat(row["at"]), "payload": json.loads(row["payload"])})
            for row in rows
        ]

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

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
            where = sa.make_url(self._url).render_as_string(hide_password=True)
            reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
            raise LedgerUnavailable(
                f"The ledger at {where} can't be used: {reason}.",
                fix="See that its database runs and its disk has room (PILOTAGE_LEDGER_URL names another one).",
                url=where,
            ) from error

    @cached_property
    def _file(self) -> Path | None:
        import sqlalchemy as sa

        url = sa.make_url(self._url)
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    @cached_property
    def _engine(self) -> sa.Engine:
        import sqlalchemy as sa

        if self._file is None:
            # Serializable would do as well; the unique sequence number is what decides.
            return sa.create_engine(self._url, pool_pre_ping=True)
        engine = sa.create_engine(self._url, connect_args={"timeout": _WAIT_S})

        # The driver would begin a transaction only at the first write; two writers that both read first would then
        # fail with "database is locked" instead of waiting. So it begins none, and ``append`` says when.
        @sa.event.listens_for(engine, "connect")
        def _no_implicit_begin(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA synchronous=FULL")

        return engine

    @cached_property
    def _table(self) -> sa.Table:
        import sqlalchemy as sa

        return sa.Table(
            "pilotage_ledger",
            sa.MetaData(),
            sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("at", sa.Text, nullable=False),
            sa.Column("model", sa.Text, nullable=False),
            sa.Column("kind", sa.Text, nullable=False),
            sa.Column("version", sa.BigInteger),
            sa.Column("actor", sa.Text, nullable=False),
            sa.Column("cause", sa.Text, nullable=False),
            sa.Column("payload", sa.Text, nullable=False),
            sa.Column("previous", sa.Text, nullable=False),
            sa.Column("hash", sa.Text, nullable=False),
        )

    def _exists(self) -> bool:
        import sqlalchemy as sa

        if self._created or (self._file is not None and not self._file.exists()):
            return self._created
        return sa.inspect(self._engine).has_table(self._table.name)

    def _create(self) -> None:
        import sqlalchemy as sa

        if self._created:
            return
        statement = sa.schema.CreateTable(self._table, if_not_exists=True)
        if self._file is None:
            with self._engine.begin() as connection:
                connection.execute(statement)
        else:
            from filelock import FileLock

            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Switching to the write-ahead log does not wait for other connections, it fails.
            with FileLock(f"{self._file}.lock", timeout=_WAIT_S), self._engine.connect() as connection:
                connection.connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(statement)
                connection.commit()
        self._created = True


def _conflict(draft: Draft, expected: int, head: int) -> LedgerConflict:
    return LedgerConflict(
        f"The ledger is at {head}, not at {expected}: {draft.kind} of {draft.model} came second.",
        fix="Look at the new state, and decide again.",
        expected=expected,
        head=head,
        model=draft.model,
    )
