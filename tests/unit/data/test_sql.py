"""Rows of another system's database are read above a cursor, each once, without ever showing the password."""

from __future__ import annotations

import socket
import sqlite3
import traceback
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.readers.sql import SqlReader
from pilotage.data.source import Daily, SourceSpec, SqlTable
from pilotage.errors import DeclarationError, SchemaChanged, SourceUnavailable, UnreadableFile
from pilotage.settings import Settings
from tests.unit.data.landing import source

READ = SqlTable(url_setting="loans", table="orders", cursor="id")


def orders(**changes: object) -> SourceSpec:
    columns = {"id": pl.Int64, "amount": pl.Float64, "note": pl.String}
    declared = {"read": READ, "columns": columns, "daily": None, "prepare": lambda raw: raw, "key": ("id",)}
    return source(**(declared | changes))


class Database:
    """A SQLite database with the table ``orders``, and a lake."""

    def __init__(self, home: Path) -> None:
        self.path = home / "orders.db"
        self.settings = Settings(home=home, loans_url=f"sqlite:///{self.path}")
        self.lake = Lake(str(home / "lake"))
        self.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, amount REAL, note TEXT)")

    def execute(self, sql: str, rows: object = ()) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.executemany(sql, rows) if rows else connection.execute(sql)
        connection.close()

    def add(self, *ids: int) -> None:
        self.execute("INSERT INTO orders VALUES (?, ?, ?)", [(number, number / 2, "ü") for number in ids])

    def ingest(self, spec: SourceSpec | None = None) -> int:
        return ingest(spec or orders(), lake=self.lake, settings=self.settings, days=None, run_id="r").rows

    def held(self) -> list[int]:
        return self.lake.scan("raw/trips").collect()["id"].sort().to_list()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def test_only_new_rows_are_added_and_each_once(database: Database) -> None:
    database.add(1, 2)
    assert [database.ingest(), database.ingest()] == [2, 0]
    database.add(5, 3)
    assert database.ingest() == 2
    assert database.held() == [1, 2, 3, 5]
    first = database.lake.scan("raw/trips").sort("id").collect().row(0, named=True)
    assert (first["amount"], first["note"], first["unparsed"], first["source_file"]) == (0.5, "ü", [], "orders to 2")
    assert len(first["source_sha256"]) == 64


def test_an_empty_table_makes_no_lake_table(database: Database) -> None:
    assert database.ingest() == 0
    assert not database.lake.exists("raw/trips")


def test_a_long_table_is_added_in_chunks_that_can_be_resumed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotage.data.readers.sql.CHUNK", 3)
    database.add(*range(1, 9))
    assert database.ingest() == 8
    assert database.held() == list(range(1, 9))
    assert database.lake.version("raw/trips") == 2


def test_a_run_that_another_one_overtook_reads_again_from_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.add(1, 2)
    fetch = SqlReader.fetch
    overtaken = []

    def overtake(self: SqlReader, offer: object, *, position: int | None) -> object:
        parcel = fetch(self, offer, position=position)  # type: ignore[arg-type]
        if not overtaken:
            overtaken.append(True)
            database.add(3)
            assert database.ingest() == 3  # The other run, which also saw row 3.
        return parcel

    monkeypatch.setattr(SqlReader, "fetch", overtake)
    assert database.ingest() == 0
    assert database.held() == [1, 2, 3]


def test_a_value_of_another_type_keeps_its_row(database: Database) -> None:
    database.execute("INSERT INTO orders VALUES (1, 'abc', 'x')")
    report = ingest(orders(), lake=database.lake, settings=database.settings, days=None, run_id="r")
    assert report.files[0].unparsed == 1
    assert database.lake.scan("raw/trips").collect()["unparsed"].to_list() == [["amount=abc"]]


def test_a_time_can_be_the_cursor(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.execute("CREATE TABLE events (at TIMESTAMP, x INTEGER)")
    database.execute("INSERT INTO events VALUES ('2013-01-07 10:00:00.000001', 1)")
    spec = orders(
        read=SqlTable(url_setting="loans", table="events", cursor="at"),
        columns={"at": pl.Datetime("us"), "x": pl.Int64},
    )
    assert [database.ingest(spec), database.ingest(spec)] == [1, 0]
    database.execute("INSERT INTO events VALUES ('2013-01-07 10:00:00.000002', 2)")
    assert database.ingest(spec) == 1
    assert database.lake.scan("raw/trips").sort("at").collect()["x"].to_list() == [1, 2]


EVENTS = SqlTable(url_setting="loans", table="events", cursor="at")


def events(**changes: object) -> SourceSpec:
    return orders(**({"read": EVENTS, "columns": {"at": pl.Datetime("us"), "x": pl.Int64}} | changes))


def add_events(database: Database, *rows: tuple[str, int]) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS events (at TIMESTAMP, x INTEGER)")
    database.execute("INSERT INTO events VALUES (?, ?)", rows)


def events_held(database: Database) -> list[int]:
    return database.lake.scan("raw/trips").collect()["x"].sort().to_list()


def test_rows_that_share_the_cursor_at_the_end_of_a_chunk_are_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotage.data.readers.sql.CHUNK", 3)
    add_events(database, *((f"2013-01-07 10:00:0{number // 2}.000000", number) for number in range(8)))

    assert database.ingest(events()) == 8

    assert events_held(database) == list(range(8))


def test_more_rows_of_one_cursor_than_a_chunk_holds_are_refused_by_name(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotage.data.readers.sql.CHUNK", 3)
    add_events(database, *(("2013-01-07 10:00:00.000000", number) for number in range(4)))

    with pytest.raises(SourceUnavailable, match="more than 3 rows with at=2013-01-07 10:00:00"):
        database.ingest(events())


@pytest.mark.parametrize("time", ["2013-01-07 10:00:05", "2013-01-07 10:00:05.000000", "2013-01-07 10:00:04.250000"])
def test_a_row_that_is_committed_late_with_the_last_time_is_added_once(database: Database, time: str) -> None:
    add_events(database, ("2013-01-07 10:00:05", 1), ("2013-01-07 10:00:05", 1))
    assert database.ingest(events()) == 2
    add_events(database, (time, 2), ("2013-01-07 10:00:09", 3))

    assert [database.ingest(events()), database.ingest(events())] == [2, 0]

    assert events_held(database) == [1, 1, 2, 3]


def test_two_runs_that_see_the_same_late_row_add_it_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add_events(database, ("2013-01-07 10:00:05", 1))
    database.ingest(events())
    add_events(database, ("2013-01-07 10:00:05", 2))
    late = SqlReader.late
    overtaken = []

    def overtake(self: SqlReader, position: int) -> object:
        parcel = late(self, position)
        if not overtaken:
            overtaken.append(True)
            assert database.ingest(events()) == 1
        return parcel

    monkeypatch.setattr(SqlReader, "late", overtake)
    assert database.ingest(events()) == 0
    assert events_held(database) == [1, 2]


def test_a_late_row_of_a_table_with_another_column_declared_meanwhile_is_told_from_those_held(
    database: Database,
) -> None:
    add_events(database, ("2013-01-07 10:00:05", 1))
    database.ingest(events())
    database.execute("ALTER TABLE events ADD COLUMN gate INTEGER DEFAULT 7")

    assert database.ingest(events(columns={"at": pl.Datetime("us"), "x": pl.Float64, "gate": pl.Int64})) == 0


def test_a_cursor_that_the_database_orders_otherwise_ends_the_run_by_name(database: Database) -> None:
    add_events(database, ("2013-01-07T10:00:05", 1))  # SQLite compares texts, and "T" is above the blank.

    with pytest.raises(SourceUnavailable, match="rows with at 2013-01-07 10:00:05 as above 2013-01-07 10:00:05"):
        database.ingest(events())


def test_rows_of_a_daily_table_go_to_their_days(database: Database) -> None:
    database.execute("INSERT INTO orders VALUES (1, 0, '2013-01-07'), (2, 0, '2013-01-08'), (3, 0, 'who knows')")
    spec = orders(
        daily=Daily(column="day", first=date(2013, 1, 1)),
        prepare=lambda raw: raw.with_columns(day=pl.col("note").str.to_date(strict=False)),
    )
    report = ingest(spec, lake=database.lake, settings=database.settings, days=None, run_id="r")
    assert report.days == [date(2013, 1, 7), date(2013, 1, 8)]
    placed = dict(database.lake.scan("raw/trips").select("id", "day").collect().iter_rows())
    assert placed == {1: date(2013, 1, 7), 2: date(2013, 1, 8), 3: date(2013, 1, 8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER TABLE orders RENAME COLUMN amount TO amounts", "amount is renamed, probably to amounts"),
        ("ALTER TABLE orders DROP COLUMN note", "note is missing"),
    ],
)
def test_a_changed_table_is_refused_with_the_difference(database: Database, change: str, message: str) -> None:
    database.add(1)
    database.execute(change)
    with pytest.raises(SchemaChanged, match=message):
        database.ingest()
    assert not database.lake.exists("raw/trips")


def test_a_table_with_more_columns_is_read_and_they_are_named(database: Database) -> None:
    database.execute("ALTER TABLE orders ADD COLUMN gate TEXT DEFAULT 'A1'")
    database.execute("INSERT INTO orders (id) VALUES (1)")
    report = ingest(orders(), lake=database.lake, settings=database.settings, days=None, run_id="r")
    assert (report.rows, report.extra_columns) == (1, ["gate"])


def test_a_table_that_is_not_there_is_named(database: Database) -> None:
    spec = orders(read=SqlTable(url_setting="loans", table="orderz", cursor="id"))
    with pytest.raises(SourceUnavailable, match=r"orders\.db has no table orderz"):
        database.ingest(spec)


def test_a_sqlite_database_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.db"
    settings = Settings(home=tmp_path, loans_url=f"sqlite:///{missing}")
    with pytest.raises(SourceUnavailable, match=r"no database .*nowhere\.db"):
        ingest(orders(), lake=Lake(str(tmp_path / "lake")), settings=settings, days=None, run_id="r")
    assert not missing.exists()


def test_a_file_that_is_no_database_is_named(database: Database) -> None:
    database.path.write_bytes(b"this is no database, but it is long enough to look like one" * 10)
    with pytest.raises(SourceUnavailable, match="file is not a database"):
        database.ingest()


def test_a_cursor_that_is_no_number_is_refused(database: Database) -> None:
    database.execute("CREATE TABLE loose (id, amount, note)")
    database.execute("INSERT INTO loose VALUES ('abc', 1, 'x')")
    with pytest.raises(UnreadableFile, match="id of 1 rows is no Int64"):
        database.ingest(orders(read=SqlTable(url_setting="loans", table="loose", cursor="id")))


def test_a_cursor_without_an_order_is_a_wrong_declaration(database: Database) -> None:
    with pytest.raises(DeclarationError, match="cursor note is String"):
        database.ingest(orders(read=SqlTable(url_setting="loans", table="orders", cursor="note")))


def test_a_setting_that_does_not_exist_is_named(database: Database) -> None:
    with pytest.raises(DeclarationError, match="there is no setting warehouse that holds a database URL"):
        database.ingest(orders(read=SqlTable(url_setting="warehouse", table="orders", cursor="id")))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense-hunter2",
        "nosuchdb://me:hunter2@127.0.0.1/loans",
        "nosuch+driver://me:hunter2@127.0.0.1/loans",
        "postgresql+nosuchdriver://me:hunter2@127.0.0.1:1/loans",
        "sqlite:////nowhere/at/all.db?password=hunter2",
        "postgresql://me:hunter2@127.0.0.1:notaport/loans",
    ],
)
def test_no_error_shows_the_password(tmp_path: Path, url: str) -> None:
    settings = Settings(home=tmp_path, loans_url=url)
    with pytest.raises(SourceUnavailable) as refused:
        ingest(orders(), lake=Lake(str(tmp_path / "lake")), settings=settings, days=None, run_id="r")
    shown = "".join(traceback.format_exception(refused.value, chain=True)[-1:])
    assert "hunter2" not in shown
    assert "hunter2" not in str(refused.value.details)
    assert "loans" in str(refused.value)


def test_the_time_zone_of_a_cursor_is_kept() -> None:
    spec = orders(
        read=SqlTable(url_setting="loans", table="events", cursor="at"), columns={"at": pl.Datetime("us", "UTC")}
    )
    assert isinstance(spec.read, SqlTable)
    reader = SqlReader(spec, spec.read, "sqlite://")
    assert reader.value_of(1_000_000) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


class _Unreachable:
    """The DB-API of a server that nobody runs, as a driver: a real socket to a closed port, and a talkative error."""

    paramstyle = "named"
    Error = OperationalError = type("OperationalError", (Exception,), {})

    @classmethod
    def connect(cls, *, host: str, port: int, password: str, **_options: object) -> None:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            raise cls.OperationalError(f"{error} (dsn: host={host} password={password})") from None


class UnreachableDialect(DefaultDialect):
    driver = name = "unreachable"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> type[_Unreachable]:
        return _Unreachable


def test_a_server_that_can_not_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    registry.register("unreachable", __name__, "UnreachableDialect")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else gets this port, and nobody answers.
        port = closed.getsockname()[1]
        settings = Settings(home=tmp_path, loans_url=f"unreachable://me:hunter2@127.0.0.1:{port}/loans")
        with pytest.raises(SourceUnavailable) as refused:
            ingest(orders(), lake=Lake(str(tmp_path / "lake")), settings=settings, days=None, run_id="r")
    assert f"unreachable://me:***@127.0.0.1:{port}/loans can't be read: [Errno 111] Connection refused" in str(
        refused.value
    )
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__
    assert not (tmp_path / "lake").exists()
