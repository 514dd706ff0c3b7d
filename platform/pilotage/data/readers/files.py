"""Landed files: CSV, Parquet and NDJSON, plain or in ``.gz`` or ``.zip``. They are read, never moved or deleted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from pilotage.data import cells
from pilotage.data.readers import Offer, Parcel, Rows
from pilotage.data.readers.container import too_large, unpack
from pilotage.data.readers.csv_text import CsvText, utf8
from pilotage.data.schema_changes import SchemaChange, compare_names, refuse
from pilotage.data.source import Files, SourceSpec
from pilotage.errors import UnreadableFile

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")
"""Names that writers give to a file until it is whole; also those that start with a dot."""


_LINK = ("it is a link to what is outside of its landing folder", "Land the file itself.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A landed file that belongs to no day of the source."""

    name: str
    reason: str
    fix: str


class FilesReader:
    """The files in one landing folder.

    Args:
        folder: ``<landing>/<source>``; one that does not exist holds no files.
    """

    def __init__(self, spec: SourceSpec, read: Files, folder: Path) -> None:
        self._spec = spec
        self._read = read
        self._folder = folder

    def offers(self, days: Sequence[date] | None, *, position: int | None = None) -> list[Offer]:  # noqa: ARG002
        wanted = None if days is None else set(days)
        return [offer for offer in self.listing()[0] if wanted is None or offer.day is None or offer.day in wanted]

    def listing(self) -> tuple[list[Offer], list[Misfit]]:
        """Every landed file, sorted by name, without opening one; and those that fit no day."""
        pattern = re.compile(self._read.pattern)
        offers: list[Offer] = []
        misfits: list[Misfit] = []
        if not self._folder.is_dir():
            return [], []
        with os.scandir(self._folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                match = pattern.fullmatch(entry.name)
                # A folder may be somebody's own, unless it has the name of a file.
                left_alone = match is None and entry.is_dir()
                if left_alone or entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                    continue
                problem = self._problem(match) or self._odd(entry)
                if match is None or problem is not None:
                    reason, fix = problem or ("", "")
                    misfits.append(Misfit(name=entry.name, reason=reason, fix=fix))
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # Renamed or removed since the folder was listed.
                    continue
                day = date.fromisoformat(match["day"]) if self._spec.daily else None
                offers.append(Offer(name=entry.name, day=day, modified_ns=stat.st_mtime_ns, size=stat.st_size))
        return offers, misfits

    def fetch(self, offer: Offer, *, position: int | None = None) -> Parcel:  # noqa: ARG002
        path = (self._folder / offer.name).resolve()
        if self._leads_out(path):
            raise UnreadableFile(f"{offer.name}: {_LINK[0]}.", fix=_LINK[1], file=offer.name)
        try:
            if path.stat().st_size > self._read.largest:
                raise too_large(offer.name, self._read.largest)
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableFile(
                f"{offer.name} can't be read: {error.strerror}.",
                fix="Give read access to it, or land it again.",
                file=offer.name,
            ) from None
        return Parcel(sha256=hashlib.sha256(data).hexdigest(), rows=lambda: self._rows(data, offer.name))

    def _leads_out(self, path: Path) -> bool:
        """Whether a path, its links followed, is none of this landing folder.

        What a file says is quoted in reports. Who may land files must not have others read to them.
        """
        return not path.is_relative_to(self._folder.resolve())

    def _odd(self, entry: os.DirEntry[str]) -> tuple[str, str] | None:
        if entry.is_symlink() and self._leads_out(Path(entry.path).resolve()):
            return _LINK
        return None if entry.is_file() else ("it is no file", "Land a file of that name.")

    def _problem(self, match: re.Match[str] | None) -> tuple[str, str] | None:
        if match is None:
            return (
                f"its name does not match {self._read.pattern}",
                f"Rename it, or correct read.pattern of the source {self._spec.name}.",
            )
        daily = self._spec.daily
        if daily is None:
            return None
        try:
            day = date.fromisoformat(match["day"])
        except ValueError:
            return f"{match['day']} in its name is no day", "Rename it with the day that it holds, YYYY-MM-DD."
        if not daily.first <= day <= daily.newest:
            return (
                f"{day} is outside the days of the source, {daily.first} to {daily.last or 'today'}",
                f"Move it away, or widen `daily` of the source {self._spec.name}.",
            )
        return None

    def _rows(self, data: bytes, name: str) -> Rows:
        content = unpack(data, name, largest=self._read.largest)
        match self._read.format:
            case "csv":
                return self._csv(content, name)
            case "parquet":
                return self._parquet(content, name)
            case "ndjson":
                return self._ndjson(content, name)

    def _csv(self, content: bytes, name: str) -> Rows:
        columns = self._spec.columns
        text = CsvText(
            content, name, separator=self._read.separator, null_values=self._read.null_values, expected=columns
        )
        changes = compare_names(
            columns,
            text.header,
            optional=self._spec.optional,
            fits=lambda column, dtype: cells.reads_as(text.sample(column), dtype),
        )
        refuse(changes, name)
        return self._typed(text.frame(columns), changes, name)

    def _parquet(self, content: bytes, name: str) -> Rows:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            about = parquet.read_metadata(io.BytesIO(content))
            groups = (about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            # A value that repeats itself takes no room in the file, and eight bytes a row in memory.
            if max(sum(groups), about.num_rows * about.num_columns * 8) > self._read.largest:
                raise too_large(name, self._read.largest)
            frame = pl.read_parquet(io.BytesIO(content))
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
            raise UnreadableFile(
                f"{name} can't be read as Parquet: {str(error).splitlines()[0]}.",
                fix="Land it again, whole.",
                file=name,
            ) from None
        return self._framed(frame, name)

    def _ndjson(self, content: bytes, name: str) -> Rows:
        content = utf8(content, name)
        try:
            frame = pl.read_ndjson(content, infer_schema_length=None)
        except pl.exceptions.PolarsError:
            return self._json_lines(content, name)  # Types that change from line to line, or a line that is broken.
        return self._framed(frame, name)

    def _json_lines(self, content: bytes, name: str) -> Rows:
        records = []
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                record = None
            if not isinstance(record, dict):
                raise UnreadableFile(
                    f"{name}, line {number} is no JSON object: {line[:60]!r}.",
                    fix="Land the file again, whole.",
                    file=name,
                )
            records.append(record)
        names = list(dict.fromkeys(key for record in records for key in record))
        changes = compare_names(self._spec.columns, names, optional=self._spec.optional)
        refuse(changes, name)
        frame, retyped = cells.from_records(records, self._spec.columns)
        refuse([*retyped, *changes], name)
        return Rows(frame=frame, extra=tuple(changes))

    def _framed(self, frame: pl.DataFrame, name: str) -> Rows:
        if frame.height == 0:
            raise UnreadableFile(
                f"{name} is empty: it has no rows.",
                fix="Land it again with its rows; a day that has none needs no file.",
                file=name,
            )
        changes = compare_names(
            self._spec.columns,
            frame.columns,
            optional=self._spec.optional,
            fits=lambda column, dtype: cells.reads_as(frame[column], dtype),
        )
        refuse(changes, name)
        return self._typed(frame, changes, name)

    def _typed(self, frame: pl.DataFrame, changes: list[SchemaChange], name: str) -> Rows:
        typed, retyped = cells.typed(frame, self._spec.columns)
        refuse([*retyped, *changes], name)
        return Rows(frame=typed, extra=tuple(changes))
