"""SQL over the lake, by DuckDB: reads the newest version of the tables, and nothing else on the machine.

DuckDB is the query engine only: in memory, never a database file, and it finds nothing but the Parquet files of the
tables that a statement names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.lake_commits import DAY
from pilotage.errors import ConfigError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_CATALOGUE = re.compile(r"\bshow\b|information_schema|duckdb_|pg_catalog|sqlite_", re.IGNORECASE)
"""Statements about the tables themselves, which need all of them."""

_FOREIGN = re.compile(r"\bINTERVAL\b|\bUNION\(|\bUHUGEINT\b|\bBIT\b")
"""DuckDB's types that Polars has not, or would give other values of."""

_UNKNOWN = re.compile(r"Table with name \"?([\w.]+)\"? does not exist")

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)


def query(lake: Lake, sql: str) -> pl.DataFrame:
    """Answers one ``SELECT`` over tables called ``<room>.<table>``, as in ``raw.flights``. Times are UTC.

    Raises:
        ConfigError: It is no single reading statement, names a table that is not there, or is wrong.
    """
    import duckdb

    with duckdb.connect(":memory:") as connection:
        # Extensions are downloads: none is needed, and none may be loaded.
        connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        connection.execute("SET TimeZone = 'UTC'")
        try:
            _only_reads(connection, sql)
            tables = lake.tables()
            shown = _show(connection, lake, [table for table in tables if _names(sql, table)])
            connection.execute("SET temp_directory = ''")
            connection.execute("SET allowed_paths = $paths", {"paths": shown})
            connection.execute("SET python_enable_replacements = false; SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            frame = _frame(connection.sql(sql))
        except duckdb.CatalogException as error:
            if "does not exist" not in str(error):
                raise _wrong(error) from None
            there = ", ".join(table.replace("/", ".") for table in tables) or "none yet"
            named = _UNKNOWN.search(str(error))
            # DuckDB knows the tables that the statement names, and says that there is no room of another.
            what = f"There is no table {named[1]}." if named else _first_line(error)
            raise ConfigError(what, fix=f"The tables of the lake are: {there}.") from None
        except duckdb.Error as error:
            raise _wrong(error) from None
    return frame.with_columns(
        pl.col(name).dt.convert_time_zone("UTC")
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC")
    )


class Views:
    """Answers ``SELECT`` statements over views of one frame, and of nothing else on the machine.

    Args:
        frame: What the views are of.
        name: What statements call it.

    Use as a context; a view lasts until the next one.
    """

    def __init__(self, frame: pl.DataFrame, name: str) -> None:
        self._frame, self._name = frame, name

    def __enter__(self) -> Self:
        import duckdb

        self._connection = duckdb.connect(":memory:")
        # Settled before any statement is run: none of this can be undone by one.
        for setting in (
            "SET autoinstall_known_extensions = false",
            "SET autoload_known_extensions = false",
            "SET TimeZone = 'UTC'",
            "SET temp_directory = ''",
            "SET python_enable_replacements = false",
        ):
            self._connection.execute(setting)
        self._connection.register("_everything", self._frame.to_arrow())
        self._connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def select(self, sql: str, *, where: str = "true") -> pl.DataFrame:
        """Answers one statement over the rows for which ``where`` holds.

        Raises:
            ConfigError: It is no single reading statement, or is wrong.
        """
        import duckdb

        try:
            _only_reads(self._connection, sql)
            self._connection.execute(
                f'CREATE OR REPLACE VIEW "{self._name}" AS SELECT * FROM _everything WHERE {where}'  # noqa: S608
            )
            return _frame(self._connection.sql(sql))
        except duckdb.Error as error:
            raise _wrong(error) from None


def _frame(answer: DuckDBPyRelation) -> pl.DataFrame:
    """The rows of an answer. Of columns of one name the later ones are numbered; a type that Polars lacks is text."""
    names = _distinct(answer.columns)
    foreign = [_FOREIGN.search(str(kind)) is not None for kind in answer.types]
    if names != answer.columns or any(foreign):
        columns = (f"CAST(#{at} AS VARCHAR)" if text else f"#{at}" for at, text in enumerate(foreign, start=1))
        quoted = (name.replace('"', '""') for name in names)
        answer = answer.project(
            ", ".join(f'{column} AS "{name}"' for column, name in zip(columns, quoted, strict=True))
        )
    return pl.DataFrame(answer.to_arrow_table())


def _distinct(names: Sequence[str]) -> list[str]:
    """``day``, ``day_1``, …: each name once. DuckDB does not tell names apart by their case."""
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    distinct = []
    for name in names:
        own, number = name, 0
        while own.lower() in seen or (number and own.lower() in taken):
            number += 1
            own = f"{name}_{number}"
        seen.add(own.lower())
        distinct.append(own)
    return distinct


def _only_reads(connection: DuckDBPyConnection, sql: str) -> None:
    from duckdb import StatementType

    try:
        sql.encode()
    except UnicodeEncodeError:
        raise ConfigError("The statement is no UTF-8.", fix="Write it in UTF-8.") from None
    statements = connection.extract_statements(_EXPLAIN.sub("", sql, count=1))
    # PIVOT is MULTI: it asks for the values of its column first.
    if len(statements) != 1 or statements[0].type not in (StatementType.SELECT, StatementType.MULTI):
        raise ConfigError(
            "The lake is read with one SELECT at a time, and never written.", fix='Give one, as in "SELECT …".'
        )


def _names(sql: str, table: str) -> bool:
    return _CATALOGUE.search(sql) is not None or table.split("/")[1] in sql.lower()


def _show(connection: DuckDBPyConnection, lake: Lake, tables: list[str]) -> list[str]:
    """Makes a view of each table. Returns the files that they read."""
    shown: list[str] = []
    for table in tables:
        room, name = table.split("/")
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{room}"')
        files = [] if lake.remote else lake.file_uris(table)
        if files:
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            by_day = f", hive_partitioning = true, hive_types = {{'{DAY}': DATE}}" if f"/{DAY}=" in files[0] else ""
            # By name, since days that were written before a column came do not have it.
            source = f"read_parquet([{listed}], union_by_name = true{by_day})"
        else:
            # Empty, or in an object store, which DuckDB would need an extension for.
            connection.register(table, lake.scan(table).collect().to_arrow())
            source = f'"{table}"'
        connection.execute(f'CREATE VIEW "{room}"."{name}" AS FROM {source}')
        shown += files
    return shown


def _wrong(error: Exception) -> ConfigError:
    """The first line says what is wrong; more of them, if there are, show where."""
    where = str(error).strip().splitlines()[1:]
    return ConfigError(_first_line(error), fix="\n".join(["Correct the statement.", *where]))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") + "."
