"""Tables of another system's database, read by SQLAlchemy URL above a cursor. Reads only; never shows a password."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pilotage.data import cells
from pilotage.data.readers import Offer, Parcel, Rows
from pilotage.data.schema_changes import compare_names, refuse
from pilotage.data.source import SourceSpec, SqlTable
from pilotage.errors import DeclarationError, SourceUnavailable, UnreadableFile

if TYPE_CHECKING:
    from sqlalchemy import URL, Column, Connection, Table

CHUNK = 100_000
"""Rows that are read, and committed, at once."""

LATE = timedelta(seconds=1)
"""How far below the position a time is looked for again: rows share a time, and databases store it to the second."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SqlReader:
    """The rows of a table above a cursor, in the cursor's order, a chunk at a time.

    Args:
        url: SQLAlchemy URL.

    Raises:
        DeclarationError: The cursor is neither an integer nor a time.
    """

    def __init__(self, spec: SourceSpec, read: SqlTable, url: str) -> None:
        kind = spec.columns[read.cursor]
        if not (kind.is_integer() or isinstance(kind, pl.Datetime)):
            raise DeclarationError(
                f"SourceSpec({spec.name!r}): the cursor {read.cursor} is {kind}, which has no order to continue from.",
                fix="Use an integer or a Datetime column that only grows.",
            )
        self._spec = spec
        self._read = read
        self._url = url
        self.table, self.cursor = read.table, read.cursor

    def offers(self, days: Sequence[date] | None, *, position: int | None) -> list[Offer]:  # noqa: ARG002
        """The table, once, if it has rows above ``position``. A database is not asked by days, but by its cursor."""
        from sqlalchemy import literal, select

        with self._connection() as (connection, table):
            query = self._above(select(literal(1)).select_from(table), table, position).limit(1)
            found = connection.execute(query).first()
        return [] if found is None else [Offer(name=self.table, day=None)]

    def fetch(self, offer: Offer, *, position: int | None) -> Parcel:
        found = self._rows(lambda query, table: self._above(query, table, position), limit=CHUNK + 1)
        if found is None:
            raise SourceUnavailable(
                f"{offer.name} in {self._shown} has lost the rows above {self.cursor}={position}.",
                fix="Ask its owner who deletes rows from it.",
            )
        records, rows = found
        cursor = self._positions(rows.frame)
        if len(records) > CHUNK:
            records, rows, cursor = self._whole_values(records, rows, cursor)
        reached = int(cursor.max())  # type: ignore[arg-type]
        if position is not None and reached <= position:
            raise SourceUnavailable(
                f"{offer.name} in {self._shown} gives rows with {self.cursor} {self.value_of(reached)} as above "
                f"{self.value_of(position)}, for ever.",
                fix=f"Store {self.cursor} as a number or a time, or write every text of it in one way "
                "(YYYY-MM-DD HH:MM:SS.ffffff).",
            )
        return Parcel(sha256=_digest(records), rows=lambda: rows, position=reached)

    def late(self, position: int) -> Parcel | None:
        """The rows of the last second up to a position, for a cursor that is a time: others may share it, and be
        committed later. ``None`` for an integer, which is taken once."""
        if not isinstance(self._spec.columns[self.cursor], pl.Datetime):
            return None
        since, until = self.value_of(self.before(position)), self.value_of(position)

        def of_last_second(query: Any, table: Table) -> Any:
            column = table.c[self.cursor]
            return query.where(column > since, column <= until)

        found = self._rows(of_last_second)
        if found is None:
            return None
        records, rows = found
        return Parcel(sha256=_digest(records), rows=lambda: rows, position=position)

    def _rows(
        self, chosen: Callable[[Any, Table], Any], limit: int | None = None
    ) -> tuple[list[dict[str, Any]], Rows] | None:
        """The first of the chosen rows, by the cursor; ``None`` if there are none."""
        with self._connection() as (connection, table):
            names = [column.name for column in table.columns]
            changes = compare_names(self._spec.columns, names, optional=self._spec.optional)
            where = f"{self.table} in {self._shown}"
            refuse(changes, where)
            declared = [table.c[name] for name in self._spec.columns if name in names]
            records = _records(
                connection,
                declared,
                lambda query: chosen(query, table).order_by(table.c[self.cursor]).limit(limit),
            )
        if not records:
            return None
        frame, retyped = cells.from_records(records, self._spec.columns)
        refuse([*retyped, *changes], where)
        return records, Rows(frame=frame, extra=tuple(changes))

    def _positions(self, frame: pl.DataFrame) -> pl.Series:
        cursor = frame[self.cursor]
        if cursor.null_count():
            raise UnreadableFile(
                f"{self.table}: {self.cursor} of {cursor.null_count()} rows is no {cursor.dtype}.",
                fix="Correct those rows in the database, or declare the column as it is.",
            )
        return cursor.cast(pl.Int64)  # A Datetime is its microseconds.

    def _whole_values(
        self, records: list[dict[str, Any]], rows: Rows, cursor: pl.Series
    ) -> tuple[list[dict[str, Any]], Rows, pl.Series]:
        """What is within a chunk: without the rows of the highest cursor, between which the limit may have cut."""
        highest = int(cursor.max())  # type: ignore[arg-type]
        whole = cursor < highest
        if not whole.any():
            raise SourceUnavailable(
                f"{self.table} in {self._shown} has more than {CHUNK:,} rows with "
                f"{self.cursor}={self.value_of(highest)}: they can't be told apart to be read in chunks.",
                fix="Use a cursor that fewer rows share, such as the id.",
            )
        kept = [record for record, keep in zip(records, whole, strict=True) if keep]
        return kept, Rows(frame=rows.frame.filter(whole), extra=rows.extra), cursor.filter(whole)

    def value_of(self, position: int) -> int | datetime:
        """A position as a value of the cursor column: itself, or a time that many microseconds after 1970."""
        kind = self._spec.columns[self.cursor]
        if not isinstance(kind, pl.Datetime):
            return position
        moment = _EPOCH + timedelta(microseconds=position)
        return moment if kind.time_zone else moment.replace(tzinfo=None)

    @staticmethod
    def before(position: int) -> int:
        """The position above which ``late`` looks."""
        return position - LATE // timedelta(microseconds=1)

    def _above(self, query: Any, table: Table, position: int | None) -> Any:
        """The query of the rows beyond a position. Of a row without a cursor nobody knows: it is among them, each time,
        and is refused by name."""
        if position is None:
            return query
        cursor = table.c[self.cursor]
        beyond = cursor > self.value_of(position)
        return query.where(beyond | cursor.is_(None) if cursor.nullable and not cursor.primary_key else beyond)

    @contextmanager
    def _connection(self) -> Iterator[tuple[Connection, Table]]:
        """A connection and the reflected table. Errors name the server and never the password."""
        from sqlalchemy import MetaData, Table, create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

        setting = self._read.url_setting
        try:
            engine = create_engine(self._existing())
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
            raise SourceUnavailable(
                f"The setting {setting} is no usable SQLAlchemy URL ({type(error).__name__}).",
                fix=f"Correct {setting} (dialect://user:password@host/database), and install the dialect's driver.",
            ) from None
        try:
            with engine.connect() as connection:
                schema, _, name = self.table.rpartition(".")
                yield connection, Table(name, MetaData(), schema=schema or None, autoload_with=connection)
        except NoSuchTableError:
            raise SourceUnavailable(
                f"{self._shown} has no table {self.table}.",
                fix=f"Correct read.table of the source {self._spec.name}, or grant access to it.",
            ) from None
        except SQLAlchemyError as error:
            raise SourceUnavailable(
                f"{self._shown} can't be read: {self._without_secrets(error)}.",
                fix=f"Start the database, or correct the setting {setting}; nothing was ingested from it.",
            ) from None
        finally:
            engine.dispose()

    def _existing(self) -> URL:
        """The URL. SQLite would make an empty database where there is none, and then miss the table."""
        from sqlalchemy import make_url

        url = make_url(self._url)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
            raise SourceUnavailable(
                f"There is no database {url.database}, which the source {self._spec.name} is read from.",
                fix=f"Make it, or correct the setting {self._read.url_setting}.",
            )
        return url

    @property
    def _shown(self) -> str:
        """The URL without its secrets."""
        from sqlalchemy import make_url

        return make_url(self._url).set(query={}).render_as_string(hide_password=True)

    def _without_secrets(self, error: Exception) -> str:
        """The first line of the driver's own words."""
        from sqlalchemy import make_url

        url = make_url(self._url)
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
        for secret in (url.password, *(value for value in url.query.values() if isinstance(value, str))):
            cause = cause.replace(str(secret), "***") if secret else cause
        return cause


def _records(connection: Connection, columns: Sequence[Column[Any]], of: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The rows of a query over these columns. Where one value is not of its column's type, for which SQLite does not
    care, all are taken as the driver gives them, and the cell is named when it is read as its declared type."""
    from sqlalchemy import select, type_coerce
    from sqlalchemy.types import NullType

    try:
        return [dict(row) for row in connection.execute(of(select(*columns))).mappings()]
    except (ValueError, TypeError, ArithmeticError):
        plain = [type_coerce(column, NullType()).label(column.name) for column in columns]
        return [dict(row) for row in connection.execute(of(select(*plain))).mappings()]


def _digest(records: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(records, default=str, sort_keys=True).encode()).hexdigest()
