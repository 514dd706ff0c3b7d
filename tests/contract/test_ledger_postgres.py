"""What only a real PostgreSQL can show: creation at once, its locks, its addresses, and a role with few rights."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.release import ledger_sql
from pilotage.release.events import Draft
from pilotage.release.head import read_head
from pilotage.release.ledger import SqlLedger
from tests.postgres import PostgresServer
from tests.unit.release.lives import broken_link

Database = Callable[[], str]


def draft(number: int = 0) -> Draft:
    return Draft(model="m", kind="refused", actor="ada", cause="manual", payload={"number": number})


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_writers_that_meet_on_a_fresh_server_all_get_through(postgres_database: Database, tmp_path: Any) -> None:
    for round_ in range(5):
        url, head = postgres_database(), tmp_path / f"{round_}.head"
        ledgers = [SqlLedger(url, head=head) for _ in range(4)]

        def write(thread: int, ledgers: list[SqlLedger] = ledgers) -> None:
            for number in range(10):
                ledgers[thread].append(draft(thread * 10 + number))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        events = ledgers[0].events()
        assert sorted(event.payload["number"] for event in events) == list(range(40))
        assert broken_link(events) is None
        noted = read_head(head)
        assert noted is not None
        assert (noted.sequence, noted.hash) == (40, events[-1].hash)
        for ledger in ledgers:
            ledger.close()


def test_creating_the_table_at_once_never_collides(postgres_database: Database) -> None:
    together = Barrier(4)
    for _ in range(5):
        url, table = sa.make_url(postgres_database()), ledger_sql.table()
        engines = [ledger_sql.connect(url) for _ in range(4)]
        for engine in engines:
            engine.connect().close()

        def create(engine: sa.Engine, table: sa.Table = table) -> None:
            together.wait(60)
            ledger_sql.create(engine, table, None)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, engines))
        with engines[0].connect() as connection:
            assert len(ledger_sql.columns(connection, table)) == len(table.columns)
        for engine in engines:
            engine.dispose()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_an_address_may_be_written_as_people_write_it(postgres_database: Database, scheme: str) -> None:
    ledger = SqlLedger(postgres_database().replace("postgresql+psycopg2", scheme))
    assert ledger.events() == []
    assert ledger.append(draft()).sequence == 1
    ledger.close()


def test_a_table_from_before_the_algorithm_is_read_as_it_is_and_written_on(postgres_database: Database) -> None:
    url = postgres_database()
    ledger = SqlLedger(url)
    for number in range(3):
        ledger.append(draft(number))
    ledger.close()
    execute(url, "ALTER TABLE pilotage_ledger DROP COLUMN algorithm")
    ledger = SqlLedger(url)
    assert broken_link(ledger.events()) is None
    ledger.append(draft(3))
    assert [event.algorithm for event in ledger.events()] == ["sha256"] * 4
    assert broken_link(ledger.events()) is None
    ledger.close()


def test_a_role_that_may_only_read_and_insert_is_enough(postgres_database: Database) -> None:
    url = postgres_database()
    owner = SqlLedger(url)
    owner.append(draft(1))
    owner.close()
    database = sa.make_url(url).database
    name = f"writer_{database}"
    execute(url, f"CREATE ROLE {name} LOGIN", f"GRANT SELECT, INSERT ON pilotage_ledger TO {name}")
    writer = SqlLedger(url.replace("ledger@", f"{name}@"))
    assert writer.append(draft(2)).sequence == 2
    writer.close()
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        execute(url.replace("ledger@", f"{name}@"), "DELETE FROM pilotage_ledger")


@pytest.mark.parametrize(("lock_s", "statement_s"), [(0.2, 5), (0.6, 0.1)], ids=["alone", "beyond a statement's"])
def test_a_lock_that_nobody_gives_back_is_told_and_not_waited_for_ever(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, lock_s: float, statement_s: float
) -> None:
    """A writer may wait longer for the others than a statement may take."""
    monkeypatch.setattr(ledger_sql, "WAIT_S", lock_s)
    monkeypatch.setattr(ledger_sql, "STATEMENT_S", statement_s)
    url = postgres_database()
    ledger = SqlLedger(url)
    ledger.append(draft())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        ledger_sql.begin(connection)
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            ledger.append(draft())
    engine.dispose()
    assert ledger.append(draft()).sequence == 2
    ledger.close()


def test_a_read_that_hangs_fails_and_the_next_one_is_not_harmed(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_sql, "STATEMENT_S", 0.2)
    url = postgres_database()
    ledger = SqlLedger(url)
    ledger.append(draft())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE pilotage_ledger")
        with pytest.raises(LedgerUnavailable, match="statement timeout"):
            ledger.events()
    engine.dispose()
    assert len(ledger.events()) == 1
    ledger.close()


def told(url: str, *settings: str) -> tuple[dict[str, str], list[str]]:
    """How a connection was made, and what it has for some settings."""
    engine = ledger_sql.connect(ledger_sql.parse_url(url))
    with engine.connect() as connection:
        made = connection.connection.dbapi_connection.get_dsn_parameters()  # type: ignore[union-attr]
        found = [str(connection.exec_driver_sql(f"SHOW {setting}").scalar()) for setting in settings]
    engine.dispose()
    return made, found


def test_a_server_that_says_nothing_counts_as_gone_unless_the_address_says_otherwise(
    postgres_database: Database,
) -> None:
    url = postgres_database()
    made, found = told(url, "statement_timeout")
    assert (made["connect_timeout"], made["keepalives_idle"], made["tcp_user_timeout"]) == ("3", "3", "5000")
    assert found == ["5s"]
    made, found = told(
        f"{url}?connect_timeout=9&options=-c%20work_mem%3D5MB%20-c%20statement_timeout%3D61s",
        "statement_timeout",
        "work_mem",
    )
    assert (made["connect_timeout"], made["tcp_user_timeout"]) == ("9", "5000")
    assert found == ["61s", "5MB"]
    _, found = told(f"{url}?options=-c%20work_mem%3D5MB", "statement_timeout", "work_mem")
    assert found == ["5s", "5MB"]


def test_a_server_that_takes_connections_and_does_not_answer_fails() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ledger = SqlLedger(f"postgresql://ledger@127.0.0.1:{silent.getsockname()[1]}/ledger")
        with pytest.raises(LedgerUnavailable, match="timeout expired"):
            ledger.events()


@pytest.fixture
def freezing(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which goes on in the end."""
    yield postgres_server
    postgres_server.thaw()


@pytest.mark.parametrize("ask", [lambda ledger: ledger.events(), lambda ledger: ledger.append(draft())])
def test_a_server_that_stops_while_it_is_connected_fails_and_serves_again(
    freezing: PostgresServer,
    ask: Callable[[SqlLedger], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_sql, "GRACE_S", 0.2 - ledger_sql.STATEMENT_S)
    ledger = SqlLedger(freezing.database())
    ledger.append(draft())
    freezing.freeze()
    with pytest.raises(LedgerUnavailable, match="timeout expired"):
        # It hangs up, and finds nobody who takes a new connection.
        ask(ledger)
    freezing.thaw()
    assert len(ledger.events()) == 1
    ledger.close()


def test_a_statement_that_the_server_never_answers_is_given_up(
    freezing: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_sql, "GRACE_S", 0.2 - ledger_sql.STATEMENT_S)
    engine = ledger_sql.connect(sa.make_url(freezing.database()))
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        freezing.freeze()
        with pytest.raises(sa.exc.OperationalError, match=r"did not answer within 0\.2 s"):
            connection.exec_driver_sql("SELECT 1")
    engine.dispose()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        SqlLedger("postgresql://ledger:hunter2@127.0.0.1:1/ledger").append(draft())
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_address_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="PILOTAGE_LEDGER_URL") as caught:
        SqlLedger("my secret: hunter2")
    assert "hunter2" not in str(caught.value)
