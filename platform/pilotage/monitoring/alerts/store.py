"""Alarms, notices, silences and their history as rows of a database. What they mean is not known here.

The history is only ever appended to. The states beside it are what it amounts to, written in the same transaction, so
that nobody has to read years of it to know what is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.monitoring.alerts.alarm import Alarm
from pilotage.monitoring.alerts.alert import Key
from pilotage.monitoring.alerts.notices import Notice, Silence
from pilotage.release import ledger_sql

if TYPE_CHECKING:
    import sqlalchemy as sa

_T = TypeVar("_T")


class Rows:
    """One database. Opens nothing until it is used, and reading never creates it."""

    def __init__(self, url: str) -> None:
        """Takes an address.

        Raises:
            ConfigError: It is none.
        """
        try:
            self._url = ledger_sql.parse_url(url)
        except ConfigError:
            # Its words are about another setting. The address may hold a password and is not repeated.
            raise ConfigError(
                "The address of the alerts' database is no SQLAlchemy URL.",
                fix="Set PILOTAGE_ALERTS_URL to something like postgresql://user:password@host/database.",
            ) from None
        self._file: Path | None = ledger_sql.file_of(self._url)
        self._created = False

    @contextmanager
    def reading(self) -> Iterator[Transaction | None]:
        """A look; ``None`` if there is nothing yet."""
        import sqlalchemy as sa

        if not self._created and self._file is not None and not self._file.exists():
            yield None
            return
        with self._named(), self._engine.connect() as connection:
            if not self._created:
                if not sa.inspect(connection).has_table("pilotage_alarms"):
                    yield None
                    return
                self._created = True
            yield Transaction(connection, self._tables)

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """The only transaction that writes now."""
        with self._named():
            self._create()
            with self._engine.begin() as connection:
                ledger_sql.begin(connection)
                yield Transaction(connection, self._tables)

    def close(self) -> None:
        """Closes the connections."""
        if "_engine" in self.__dict__:
            self._engine.dispose()

    @cached_property
    def _engine(self) -> sa.Engine:
        return ledger_sql.connect(self._url)

    @cached_property
    def _tables(self) -> Mapping[str, sa.Table]:
        return _tables()

    def _create(self) -> None:
        from filelock import FileLock

        if self._created:
            return
        metadata = self._tables["alarms"].metadata
        if self._file is None:
            with self._engine.begin() as connection:
                ledger_sql.begin(connection)
                metadata.create_all(connection)
        else:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Switching to the write-ahead log does not wait for other connections, it fails.
            lock = FileLock(f"{self._file}.lock", timeout=ledger_sql.WAIT_S)
            with lock, self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                metadata.create_all(connection)
                connection.commit()
        self._created = True

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A database that fails is told by its address, without its password."""
        import sqlalchemy as sa
        from filelock import Timeout

        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, Timeout) as error:
            where = self._url.render_as_string(hide_password=True)
            reason = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
            raise LedgerUnavailable(
                f"The alerts at {where} can't be used: {reason}.",
                fix="See that its database runs and its disk has room (PILOTAGE_ALERTS_URL names another one).",
                url=where,
            ) from error


class Transaction:
    """Rows as records, within one transaction."""

    def __init__(self, connection: sa.Connection, tables: Mapping[str, sa.Table]) -> None:
        self._connection = connection
        self._tables = tables

    def alarm(self, key: Key) -> Alarm | None:
        """The alarm with a key."""
        columns = self._tables["alarms"].c
        return self._one(
            "alarms",
            columns.kind == key.kind,
            columns.model == key.model,
            columns.subject == key.subject,
            kind=Alarm,
        )

    def numbered(self, number: int) -> Alarm | None:
        """The alarm with a number."""
        return self._one("alarms", self._tables["alarms"].c.number == number, kind=Alarm)

    def alarms(self, *, open_only: bool) -> list[Alarm]:
        """Alarms, the oldest first."""
        columns = self._tables["alarms"].c
        return self._many("alarms", *([columns.status == "open"] if open_only else []), kind=Alarm)

    def next_alarm(self) -> int:
        """The number of a new one."""
        return self._next("alarms", "number")

    def put_alarm(self, alarm: Alarm) -> None:
        """Writes the state of an alarm, new or known."""
        key = alarm.key
        self._put(
            "alarms",
            alarm.number,
            kind=key.kind,
            model=key.model,
            subject=key.subject,
            status=alarm.status,
            body=_encode(alarm),
        )

    def waiting(self) -> list[Notice]:
        """Notices that are not settled."""
        return self._many("notices", self._tables["notices"].c.settled_at == "", kind=Notice)

    def notices_of(self, alarm: int, episode: int) -> list[Notice]:
        """All notices of one episode of an alarm."""
        columns = self._tables["notices"].c
        return self._many("notices", columns.alarm == alarm, columns.episode == episode, kind=Notice)

    def settled_since(self, moment: datetime) -> list[Notice]:
        """Notices that were settled lately."""
        return self._many("notices", self._tables["notices"].c.settled_at >= stamp(moment), kind=Notice)

    def next_notice(self) -> int:
        """The number of a new one."""
        return self._next("notices", "number")

    def put_notice(self, notice: Notice) -> None:
        """Writes a notice, new or known."""
        settled = stamp(notice.settled_at) if notice.settled_at else ""
        self._put(
            "notices",
            notice.number,
            alarm=notice.alarm,
            episode=notice.episode,
            settled_at=settled,
            body=_encode(notice),
        )

    def silences(self, *, at: datetime | None = None) -> list[Silence]:
        """Silences, or those that are not over."""
        columns = self._tables["silences"].c
        return self._many("silences", *([columns.until > stamp(at)] if at else []), kind=Silence)

    def next_silence(self) -> int:
        """The number of a new one."""
        return self._next("silences", "number")

    def put_silence(self, silence: Silence) -> None:
        """Writes a silence, new or known."""
        self._put("silences", silence.number, until=stamp(silence.until), body=_encode(silence))

    def claim(self, until: datetime, *, at: datetime) -> bool:
        """Takes the right to deliver, for one process at a time; ``False`` if another one has it."""
        table = self._tables["claims"]
        held = self._connection.execute(table.select()).mappings().first()
        # One that lasts longer than this one would was made before the clock was set back.
        if held is not None and stamp(at) < held["until"] <= stamp(until):
            return False
        self._connection.execute(table.delete())
        self._connection.execute(table.insert().values(number=1, until=stamp(until)))
        return True

    def prolong(self, claimed: datetime, until: datetime) -> bool:
        """Puts a claim's end off; ``False`` if it is another one's by now."""
        table = self._tables["claims"]
        mine = table.c.until == stamp(claimed)
        return bool(self._connection.execute(table.update().where(mine).values(until=stamp(until))).rowcount)

    def release(self, claimed: datetime) -> None:
        """Gives a claim back, if it is not another one's by now."""
        table = self._tables["claims"]
        self._connection.execute(table.delete().where(table.c.until == stamp(claimed)))

    def append(self, **values: Any) -> None:
        """A row of the history."""
        detail = msgspec.json.encode(values.pop("detail")).decode()
        table = self._tables["history"]
        sequence = self._next("history", "sequence")
        at = stamp(values.pop("at"))
        self._connection.execute(table.insert().values(sequence=sequence, at=at, detail=detail, **values))

    def history(self, *, after: int, limit: int | None) -> list[dict[str, Any]]:
        """Rows of the history, in order."""
        import sqlalchemy as sa

        table = self._tables["history"]
        query = sa.select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(limit)
        rows = [dict(row) for row in self._connection.execute(query).mappings()]
        return [{**row, "detail": msgspec.json.decode(row["detail"])} for row in rows]

    def newest(self) -> int:
        """Sequence number of the last row of the history; 0 if there is none."""
        return self._next("history", "sequence") - 1

    def _next(self, table: str, column: str) -> int:
        import sqlalchemy as sa

        found = self._connection.execute(sa.select(sa.func.max(self._tables[table].c[column]))).scalar()
        return int(found or 0) + 1

    def _one(self, table: str, *where: Any, kind: type[_T]) -> _T | None:
        found = self._many(table, *where, kind=kind)
        return found[0] if found else None

    def _many(self, table: str, *where: Any, kind: type[_T]) -> list[_T]:
        import sqlalchemy as sa

        of = self._tables[table]
        query = sa.select(of.c.body).where(*where).order_by(of.c.number)
        decode = msgspec.json.Decoder(kind).decode
        return [decode(body) for body in self._connection.execute(query).scalars()]

    def _put(self, table: str, number: int, **values: Any) -> None:
        of = self._tables[table]
        updated = self._connection.execute(of.update().where(of.c.number == number).values(**values))
        if not updated.rowcount:
            self._connection.execute(of.insert().values(number=number, **values))


def stamp(moment: datetime) -> str:
    """A moment as text that sorts as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _encode(record: Any) -> str:
    return msgspec.json.encode(record).decode()


def _tables() -> Mapping[str, sa.Table]:
    """``history`` grows by a row for each thing that happened; the others hold one row each of what it is about."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    number = ("number", sa.Integer)

    def text(name: str, **options: Any) -> sa.Column[str]:
        return sa.Column(name, sa.Text, nullable=False, **options)

    def plain(name: str, **options: Any) -> sa.Column[int]:
        return sa.Column(name, sa.Integer, nullable=False, **options)

    def key() -> sa.Column[int]:
        return sa.Column(*number, primary_key=True, autoincrement=False)

    return {
        "history": sa.Table(
            "pilotage_alarm_history",
            metadata,
            sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
            text("at"),
            sa.Column("alarm", sa.Integer),
            text("happened"),
            text("kind"),
            text("model"),
            text("subject"),
            plain("episode"),
            text("tier"),
            text("actor"),
            plain("ended"),
            text("detail"),
        ),
        "alarms": sa.Table(
            "pilotage_alarms",
            metadata,
            key(),
            text("kind"),
            text("model"),
            text("subject"),
            text("status", index=True),
            text("body"),
            sa.UniqueConstraint("kind", "model", "subject"),
        ),
        "notices": sa.Table(
            "pilotage_alarm_notices",
            metadata,
            key(),
            plain("alarm", index=True),
            plain("episode"),
            text("settled_at", index=True),
            text("body"),
        ),
        "silences": sa.Table("pilotage_alarm_silences", metadata, key(), text("until"), text("body")),
        "claims": sa.Table("pilotage_alarm_claims", metadata, key(), text("until")),
    }
