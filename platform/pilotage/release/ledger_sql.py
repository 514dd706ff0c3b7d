"""The ledger's table, and the connections to its database. What is written into it is ``ledger.py``'s business."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import ConfigError
from pilotage.release.events import PLAIN

if TYPE_CHECKING:
    import sqlalchemy as sa

WAIT_S = 30
"""Seconds that a writer waits for another one's transaction; one takes a millisecond."""

STATEMENT_S = 5
"""Seconds that a statement may take, but for those of a writer, which may wait for others. One takes a millisecond."""

GRACE_S = 2
"""Seconds after that time, at which the server should have ended a statement itself, until it counts as hanging."""

_PATIENCE = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
"""When a PostgreSQL server counts as gone that says nothing, in libpq's words; seconds, the last one milliseconds."""

_LOCK = 0x70696C6F
"""Number of the advisory lock in PostgreSQL, any but the same for all writers: "pilo" in ASCII."""


def parse_url(url: str) -> sa.URL:
    """A database address as SQLAlchemy knows it, with the one PostgreSQL driver that is installed.

    SQLAlchemy 2.1 takes plain ``postgresql://`` for psycopg 3; ``postgres://`` is what hosting services hand out.

    Raises:
        ConfigError: It is none. Its text may hold a password and is not repeated.
    """
    import sqlalchemy as sa

    try:
        return sa.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url))
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(
            "The ledger's address is no SQLAlchemy URL.",
            fix="Set PILOTAGE_LEDGER_URL to something like postgresql://user:password@host/database.",
        ) from None


def file_of(url: sa.URL) -> Path | None:
    """The file of a SQLite database."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def connect(url: sa.URL) -> sa.Engine:
    """Connections to the ledger's database; opens none yet.

    Raises:
        ConfigError: No driver for it is installed.
    """
    import sqlalchemy as sa

    try:
        if file_of(url) is None:
            # Each statement must see what was committed before it: the last event is read after waiting for the lock.
            return sa.create_engine(
                url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=_bounds(url)
            )
        engine = sa.create_engine(url, connect_args={"timeout": WAIT_S})
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"The ledger's database can't be used: no driver {url.drivername} is installed ({error}).",
            fix='For PostgreSQL install the extra "postgres" and write postgresql://…',
            driver=url.drivername,
        ) from None

    # The driver would begin a transaction only at the first write; two writers that both read first would then
    # fail with "database is locked" instead of waiting. So it begins none, and ``begin`` says when.
    @sa.event.listens_for(engine, "connect")
    def _no_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")
        # Bytes that are no text must not hide the rest of the ledger; ``from_row`` refuses them.
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")

    return engine


def _bounds(url: sa.URL) -> dict[str, Any]:
    """A server that hangs must fail: who follows the ledger goes on by what is known. What the address says wins."""
    if url.get_backend_name() != "postgresql" or url.get_driver_name() not in ("psycopg2", "psycopg"):
        return {}
    said = url.normalized_query
    # Of two values of one setting, the server takes the later one.
    options = " ".join((f"-c statement_timeout={STATEMENT_S}s", *said.get("options", ())))
    bounds: dict[str, Any] = {name: value for name, value in _PATIENCE.items() if name not in said}
    if url.get_driver_name() == "psycopg2" and not any("statement_timeout" in each for each in said.get("options", ())):
        from pilotage.release.ledger_postgres import BoundedConnection

        bounds["connection_factory"] = partial(BoundedConnection, usual_s=STATEMENT_S + GRACE_S)
    return {**bounds, "options": options}


def begin(connection: sa.Connection) -> None:
    """Waits until this transaction is the only one that writes, where the database can do that.

    Elsewhere the unique sequence number decides, and who comes second tries again.
    """
    match connection.dialect.name:
        case "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        case "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
            # Or else it is over before the lock is waited for.
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{WAIT_S + STATEMENT_S}s'")
            held = connection.connection.driver_connection
            if held is not None and hasattr(held, "patience_s"):
                held.patience_s = WAIT_S + STATEMENT_S + GRACE_S
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def table() -> sa.Table:
    """The ledger's table, one row an event."""
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
        # Last, and with a default: tables from before it, and writers of that time, mean exactly that.
        sa.Column("algorithm", sa.Text, nullable=False, server_default=PLAIN),
    )


def columns(connection: sa.Connection, ledger: sa.Table) -> list[sa.Column[Any]]:
    """The columns that the table in this database has; none if there is no table."""
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    if not inspector.has_table(ledger.name):
        return []
    there = {column["name"] for column in inspector.get_columns(ledger.name)}
    return [column for column in ledger.columns if column.name in there]


def create(engine: sa.Engine, ledger: sa.Table, file: Path | None) -> None:
    """Makes the table, or brings one from before up to date, whoever else does the same at this moment."""
    if file is None:
        with engine.connect() as connection:
            # A role that may only read and insert need not be allowed to create what is there.
            if len(columns(connection, ledger)) == len(ledger.columns):
                return
        with engine.begin() as connection:
            # "if not exists" is not enough in PostgreSQL: two at once collide in its catalogue.
            begin(connection)
            _bring_up_to_date(connection, ledger)
        return
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    # Switching to the write-ahead log does not wait for other connections, it fails.
    with FileLock(f"{file}.lock", timeout=WAIT_S), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        _bring_up_to_date(connection, ledger)
        connection.commit()


def _bring_up_to_date(connection: sa.Connection, ledger: sa.Table) -> None:
    import sqlalchemy as sa

    connection.execute(sa.schema.CreateTable(ledger, if_not_exists=True))
    if "algorithm" not in {column.name for column in columns(connection, ledger)}:
        connection.exec_driver_sql(
            f"ALTER TABLE {ledger.name} ADD COLUMN algorithm TEXT NOT NULL DEFAULT '{PLAIN}'"  # our own words
        )
