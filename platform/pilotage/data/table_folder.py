"""The files of one Delta table, in a folder or in an object store: listed, read, replaced and deleted one by one.

Only for what delta-rs can't do, which is to forget (``erasing.py``). What the files mean is not known here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.durable import replacing
from pilotage.errors import RowsErased

LOG = "_delta_log"
ERASED = "_erased.json"
"""Names of the files that were deleted because somebody is erased. Delta leaves names that begin so alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a table."""

    path: str
    """Below the table's folder."""
    modified: datetime
    """UTC."""

    @property
    def name(self) -> str:
        """Without the partition's folder; delta-rs never uses one twice."""
        return self.path.rsplit("/", 1)[-1]


def stored_tables(uri: str) -> list[str]:
    """The folders of a lake in an object store in which tables are: ``<room>/<table>``."""
    from pyarrow import fs

    store, root = fs.FileSystem.from_uri(uri)
    return [
        f"{room.base_name}/{table.base_name}"
        for room in store.get_file_info(fs.FileSelector(root, allow_not_found=True))
        for table in store.get_file_info(fs.FileSelector(room.path))
    ]


class TableFolder:
    """The folder of a table.

    Args:
        uri: ``Lake``'s address of it.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self._local = "://" not in uri
        self._store: Any
        if self._local:
            self._store, self._root = fs.LocalFileSystem(), uri
        else:
            self._store, self._root = fs.FileSystem.from_uri(uri)

    def data(self) -> list[StoredFile]:
        """Every Parquet file with rows, those of older versions and of writers that never finished included."""
        return [each for each in self._list("") if each.name.endswith(".parquet") and not each.path.startswith("_")]

    def log(self) -> list[str]:
        """The files of the table's log: its commits, the oldest first, and its checkpoints."""
        return sorted(each.path for each in self._list(LOG))

    def rows(self, path: str) -> pl.DataFrame:
        """What is in a Parquet file."""
        return pl.read_parquet(io.BytesIO(self.read(path)))

    def read(self, path: str) -> bytes:
        with self._store.open_input_file(self._full(path)) as file:
            content: bytes = file.readall()
        return content

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file: a reader sees the old one or the new one."""
        if not self._local:
            with self._store.open_output_stream(self._full(path)) as stream:
                stream.write(content)
            return
        with replacing(Path(self._full(path))) as aside:
            aside.write_bytes(content)

    def delete(self, path: str) -> None:
        """Deletes a file; one that is gone already is none to delete."""
        try:
            self._store.delete_file(self._full(path))
        except FileNotFoundError:
            return

    def erased(self) -> set[str]:
        """Names of the files that were deleted to forget somebody."""
        try:
            return set(json.loads(self.read(ERASED)))
        except FileNotFoundError:
            return set()

    def note_erased(self, names: Collection[str]) -> None:
        """Adds names to those; called before the files are deleted."""
        self.write(ERASED, json.dumps(sorted(self.erased() | set(names)), indent=0).encode())

    def require_whole(self, uris: Collection[str], *, table: str, version: int) -> None:
        """Refuses a version some of whose files were deleted to forget somebody.

        Raises:
            RowsErased: Says how many.
        """
        gone = self.erased()
        lost = sum(uri.rsplit("/", 1)[-1] in gone for uri in uris) if gone else 0
        if lost:
            files = "one of its files" if lost == 1 else f"{lost} of its files"
            raise RowsErased(
                f"Version {version} of {table} can't be read any more: {files} held rows of somebody who was erased.",
                fix="pilotage audit log shows who had them erased, and why; read a newer version.",
                table=table,
                version=version,
            )

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _list(self, below: str) -> list[StoredFile]:
        from pyarrow import fs

        folder = self._full(below).rstrip("/")
        found = self._store.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        start = len(self._root.rstrip("/")) + 1
        return [
            StoredFile(path=each.path[start:], modified=each.mtime) for each in found if each.type == fs.FileType.File
        ]
