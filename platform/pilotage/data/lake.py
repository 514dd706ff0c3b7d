"""The lake: Delta tables named ``<room>/<table>``, read by Polars and DuckDB, written by delta-rs.

Every write is one atomic commit that either happened or did not. Nothing here knows sources, contracts or models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from pilotage.data.lake_commits import CONFIGURATION, DAY, commit, day_ranges, onto_disk, plain, properties
from pilotage.data.lake_types import other_types, recast, same_types, scan_folder, storable
from pilotage.data.table_folder import TableFolder, stored_tables
from pilotage.errors import CommitConflict, ConfigError, LakeError, UnpublishedData

if TYPE_CHECKING:
    from deltalake import DeltaTable

_NAME = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one write did."""

    table: str
    version: int
    rows: int
    """Rows written; a day that became empty counts none."""
    days: list[date]
    """Days replaced; empty for a table without days."""


class Lake:
    """The tables under one root: a folder, or ``s3://bucket/prefix``.

    Args:
        uri: The root.
        storage_options: Passed to the object store as they are (``AWS_ENDPOINT_URL``, …). Without them the store
            finds its credentials as its own tools do.

    Raises:
        ConfigError: The path of the folder has a character that Delta tables can't have there.
    """

    def __init__(self, uri: str, *, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        if not self.remote and (unusable := sorted(set(self.uri) & set("[]|^\\%"))):
            raise ConfigError(  # delta-rs panics on some of them, and reads %41 as A.
                f"The lake can't be kept in {uri}: Delta tables can't have {' '.join(unusable)} in their path.",
                fix="Set PILOTAGE_HOME or PILOTAGE_LAKE_URI to a path without it.",
            )
        self._options = dict(storage_options or {})

    # Reading

    @property
    def remote(self) -> bool:
        """Whether the tables are in an object store and not in a folder."""
        return "://" in self.uri

    def exists(self, table: str) -> bool:
        return self._open(table) is not None

    def tables(self) -> list[str]:
        """Every table of the lake, sorted."""
        if not self.remote:
            found = [f"{log.parent.parent.name}/{log.parent.name}" for log in Path(self.uri).glob("*/*/_delta_log")]
        else:
            found = self._stored()
        return sorted(name for name in found if _NAME.fullmatch(name) and self.exists(name))

    def version(self, table: str) -> int:
        """The newest version. Raises ``UnpublishedData`` if there is no such table."""
        return int(self._require(table).version())

    def versions(self, tables: Iterable[str]) -> dict[str, int]:
        return {table: self.version(table) for table in tables}

    def scan(
        self, table: str, *, first: date | None = None, last: date | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """The rows of one version (by default the newest), of the days ``first`` to ``last`` inclusive.

        Raises:
            UnpublishedData: There is no such table, or it has no such version.
            RowsErased: Rows of that version were erased since.
        """
        frame = self._scan(self._require(table, version=version), table, first, last)
        if first is not None:
            frame = frame.filter(pl.col(DAY) >= first)
        if last is not None:
            frame = frame.filter(pl.col(DAY) <= last)
        return frame

    def days(self, table: str) -> list[date]:
        """The days that hold rows, sorted; none if there is no such table."""
        opened = self._open(table)
        if opened is None:
            return []
        values = (partition.get(DAY) for partition in opened.partitions())
        return sorted(date.fromisoformat(value) for value in values if value)

    def rows_of_days(self, table: str) -> dict[date, int]:
        """Day → number of rows; empty if there is no such table."""
        if not self.exists(table):
            return {}
        counts = self.scan(table).group_by(DAY).agg(pl.len().alias("rows")).sort(DAY).collect()
        return dict(counts.iter_rows())

    def schema(self, table: str) -> pl.Schema:
        return self.scan(table).collect_schema()

    def file_uris(self, table: str, *, first: date | None = None, last: date | None = None) -> list[str]:
        """The Parquet files of the newest version, for engines that read Parquet themselves."""
        return self._files(self._require(table), table, first, last)

    def history(self, table: str, limit: int = 20) -> list[dict[str, Any]]:
        """The newest commits first, each with ``version``, ``timestamp``, ``operation`` and its note's keys."""
        return list(self._require(table).history(limit))

    # Writing

    def replace_days(
        self, table: str, frame: pl.DataFrame, days: Sequence[date], *, note: Mapping[str, str], retypes: bool = False
    ) -> Commit:
        """Replaces exactly these days in one commit; a day without rows becomes empty. Other days stay.

        Columns that the table does not have yet are added, null in the days that were there before.

        Args:
            frame: Rows of these days, with the Date column ``day``.
            note: Goes into the commit, where ``history`` shows it.
            retypes: Whether a column of another type changes the table's, in the same commit, where the rows of the
                other days lose nothing by it.

        Raises:
            CommitConflict: Other writers of the same days kept winning.
            StorageFull: No room was left; nothing was committed.
            LakeError: A column has another type than in the table, a type that Delta has not, or rows of other days.
        """
        wanted = sorted(set(days))
        if not wanted:
            raise LakeError(f"{table}: replace_days was called without days.", fix="Give the days to replace.")
        strangers = frame.filter(~pl.col(DAY).is_in(wanted) | pl.col(DAY).is_null())[DAY].unique().to_list()
        if strangers:
            raise LakeError(
                f"{table}: rows of {strangers[0]} are among those of {wanted[0]} … {wanted[-1]}.",
                fix="Give only rows of the days that are replaced.",
                days=strangers,
            )
        rows = storable(frame, table)

        def write(opened: DeltaTable | None) -> int:
            if opened is None:
                return self._create(table, rows, note, partition_by=[DAY])
            if retypes and (other := self._other(opened, table, rows, without=wanted)) is not None:
                return self._write(opened, other, note, mode="overwrite", schema_mode="overwrite")
            same_types(opened, rows, table)
            return self._write(opened, rows, note, mode="overwrite", schema_mode="merge", predicate=day_ranges(wanted))

        return Commit(table=table, version=commit(table, self._open, write), rows=rows.height, days=wanted)

    def replace(self, table: str, frame: pl.DataFrame, *, note: Mapping[str, str]) -> Commit:
        """Replaces a whole table that has no days, its columns included. Raises as ``replace_days`` does."""
        rows = storable(frame, table)

        def write(opened: DeltaTable | None) -> int:
            if opened is None:
                return self._create(table, rows, note)
            return self._write(opened, rows, note, mode="overwrite", schema_mode="overwrite")

        return Commit(table=table, version=commit(table, self._open, write), rows=rows.height, days=[])

    def append(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        note: Mapping[str, str],
        app_id: str,
        sequence: int,
        after: int | Literal["anything"] | None = "anything",
        by_day: bool = False,
        retypes: bool = False,
    ) -> Commit:
        """Adds rows once: what this ``app_id`` wrote with this or a higher ``sequence`` is not written again.

        Args:
            after: The sequence that this one follows (``None``: nothing before it). A table that is elsewhere is a
                ``CommitConflict`` at once, so that the caller reads again from where the table is.
            by_day: Whether a table that has to be made is partitioned by ``day``.
            retypes: As in ``replace_days``.

        Raises:
            CommitConflict: As said, or other writers kept winning.
            StorageFull: No room was left; nothing was committed.
        """
        from deltalake import Transaction

        rows = storable(frame, table)
        written = rows.height

        def write(opened: DeltaTable | None) -> int:
            nonlocal written
            at = None if opened is None else opened.transaction_version(app_id)
            if opened is not None and at is not None and at >= sequence:
                written = 0
                return int(opened.version())
            if after not in ("anything", at):
                raise CommitConflict(
                    f"{table}: {app_id} is at {at}, not at {after}.", fix="Read again from there.", table=table, at=at
                )
            mark = [Transaction(app_id, sequence)]
            if opened is None:
                return self._create(table, rows, note, partition_by=[DAY] if by_day else None, transactions=mark)
            if retypes and (other := self._other(opened, table, rows)) is not None:
                return self._write(opened, other, note, mode="overwrite", schema_mode="overwrite", transactions=mark)
            same_types(opened, rows, table)
            return self._write(opened, rows, note, mode="append", schema_mode="merge", transactions=mark)

        days = rows[DAY].drop_nulls().unique().sort().to_list() if by_day else []
        version = commit(table, self._open, write)
        return Commit(table=table, version=version, rows=written, days=days)

    def rewrite(
        self,
        table: str,
        change: Callable[[pl.DataFrame], pl.DataFrame],
        *,
        days: Sequence[date] = (),
        note: Mapping[str, str],
    ) -> int:
        """Replaces the rows of some days by what is made of them, of the whole table if none is named.

        Returns:
            The version that it made. Raises as ``replace_days`` does.
        """

        def write(opened: DeltaTable | None) -> int:
            opened = opened or self._require(table)
            rows = self._scan(opened, table, days[0], days[-1]) if days else self._scan(opened, table)
            rows = rows.filter(pl.col(DAY).is_in(list(days))) if days else rows
            how: dict[str, Any] = (
                {"schema_mode": "merge", "predicate": day_ranges(days)} if days else {"schema_mode": "overwrite"}
            )
            return self._write(opened, storable(change(rows.collect()), table), note, mode="overwrite", **how)

        return commit(table, self._open, write)

    def folder(self, table: str) -> TableFolder:
        """The files of a table, for what Delta can't do with them."""
        return TableFolder(self._path(table))

    def checkpoint(self, table: str) -> int:
        """Writes down the newest version as a whole, so that readers need not go through the log; gives its number."""
        opened = self._require(table)
        opened.create_checkpoint()
        return int(opened.version())

    def sequence(self, table: str, app_id: str) -> int | None:
        """The highest sequence that this ``app_id`` has appended, or ``None``."""
        opened = self._open(table)
        return None if opened is None else opened.transaction_version(app_id)

    def sync(self) -> None:
        """Returns when everything that was committed is on the disk. Needed before its only other copy is deleted:
        delta-rs leaves the writing to the system, and a power failure would take the last half minute with it."""
        if not self.remote:
            onto_disk(Path(self.uri))

    # Inside

    def _stored(self) -> list[str]:
        """The folders of an object store in which tables are."""
        try:
            return stored_tables(self.uri)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception, table: str | None = None) -> LakeError:
        fix = "Look at its _delta_log."
        if self.remote or table is None:
            fix = "See that the store answers, that the bucket is there, and that its AWS_… variables are right."
        return LakeError(f"{table or 'The lake'} can't be read in {self.uri}: {plain(error)}", fix=fix, table=table)

    def _scan(
        self, opened: DeltaTable, table: str, first: date | None = None, last: date | None = None
    ) -> pl.LazyFrame:
        if self.remote:
            return pl.scan_delta(opened, storage_options=self._options or None)
        return scan_folder(opened, self._files(opened, table, first, last))

    def _other(
        self, opened: DeltaTable, table: str, rows: pl.DataFrame, *, without: Sequence[date] = ()
    ) -> pl.DataFrame | None:
        """The whole table as it is after these rows change types of its columns; ``None`` if they change none."""
        kept = self._scan(opened, table)
        types = other_types(kept.collect_schema(), rows)
        if not types:
            return None
        kept = kept.filter(~pl.col(DAY).is_in(list(without))) if without else kept
        return pl.concat([recast(kept.collect(), types, table), rows], how="diagonal")

    def _files(self, opened: DeltaTable, table: str, first: date | None, last: date | None) -> list[str]:
        daily = DAY in opened.metadata().partition_columns
        bounds = [f"{DAY} {sign} '{day}'" for sign, day in ((">=", first), ("<=", last)) if day is not None and daily]
        uris = opened.file_uris(file_pruning_predicate=" AND ".join(bounds) or None)
        if not self.remote:
            # delta-rs gives the paths of a folder percent-encoded (a space as %20), which no other engine undoes.
            uris = [f"{self._path(table)}/{uri.rsplit(f'/{table}/', 1)[1]}" for uri in uris]
        return sorted(uris)

    def _path(self, table: str) -> str:
        if not _NAME.fullmatch(table):
            raise LakeError(
                f"{table!r} is no name of a table.", fix="Use <room>/<table> in lower_snake_case, as in raw/flights."
            )
        return f"{self.uri}/{table}"

    def _open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(self._path(table), version=version, storage_options=self._options or None)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            if version is not None:
                return None
            raise self._unreadable(error, table) from error
        except OSError as error:
            raise self._unreadable(error, table) from error

    def _require(self, table: str, *, version: int | None = None) -> DeltaTable:
        opened = self._open(table, version=version)
        if opened is None:
            which = table if version is None else f"version {version} of {table}"
            room, name = table.split("/")
            # A model's assets are called by the model first.
            asset = f"{name}/{room}" if room == "features" else table
            newest = self._open(table) if version is not None else None
            raise UnpublishedData(
                f"There is no {which} in the lake {self.uri}.",
                fix=f"Its newest version is {newest.version()}; one that is gone can come back from a backup only."
                if newest is not None
                else f"Materialise the asset {asset} first; `pilotage up` does it for the sample data.",
                table=table,
            )
        if version is not None:
            self.folder(table).require_whole(opened.file_uris(), table=table, version=version)
        return opened

    def _create(
        self,
        table: str,
        rows: pl.DataFrame,
        note: Mapping[str, str],
        *,
        partition_by: list[str] | None = None,
        transactions: list[Any] | None = None,
    ) -> int:
        from deltalake import write_deltalake

        write_deltalake(
            self._path(table),
            rows,
            mode="error",  # Of two that create at once, the second sees a conflict and writes into the first one's.
            partition_by=partition_by,
            configuration=CONFIGURATION,
            storage_options=self._options or None,
            commit_properties=properties(note, transactions, creates=True),
        )
        return 0

    def _write(
        self,
        opened: DeltaTable,
        rows: pl.DataFrame,
        note: Mapping[str, str],
        *,
        transactions: list[Any] | None = None,
        **how: Any,
    ) -> int:
        from deltalake import write_deltalake

        write_deltalake(opened, rows, commit_properties=properties(note, transactions), **how)
        return int(opened.version())
