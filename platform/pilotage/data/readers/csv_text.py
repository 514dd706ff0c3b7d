"""CSV bytes → a frame, refused where CSV readers are too kind: a wrong separator or encoding, a row cut in half.

Polars fills a short row with nulls and reads a file with the wrong separator as one column; both would look like data.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from pilotage.errors import UnreadableFile

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class CsvText:
    """One CSV text whose header is read.

    Args:
        data: The content, unpacked.

    Raises:
        UnreadableFile: No UTF-8, no header, or a header with another separator.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        *,
        separator: str,
        null_values: tuple[str, ...],
        expected: Mapping[str, pl.DataType],
    ) -> None:
        self._name = name
        self._separator = separator
        self._nulls = list(null_values)
        self._data = utf8(data, name)
        self.header = self._header(expected)

    def frame(self, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The declared columns that are there, of their types where every cell fits, or else as text.

        Raises:
            UnreadableFile: A row has another number of fields than the header, or there are no rows.
        """
        # Times are read as text: Polars only reads its own few formats of them here.
        plain = {
            name: pl.String() if dtype.is_temporal() or dtype == pl.Boolean else dtype
            for name, dtype in columns.items()
            if name in self.header
        }
        try:
            frame = self._read(plain)
        except pl.exceptions.PolarsError:
            self._check_fields()
            try:
                frame = self._read(dict.fromkeys(plain, pl.String()))
            except pl.exceptions.PolarsError as error:
                raise UnreadableFile(
                    f"{self._name} can't be read as CSV: {str(error).splitlines()[0]}.",
                    fix="Land the file again, written by a CSV writer.",
                    file=self._name,
                ) from None
        if frame.height == 0:
            raise UnreadableFile(
                f"{self._name} is empty: a header and no rows.",
                fix="Land it again with its rows; a day that has none needs no file.",
                file=self._name,
            )
        fields = (frame.height + 1) * (len(self.header) - 1)
        if b'"' in self._data or self._data.count(self._separator.encode()) != fields:
            self._check_fields()
        return frame

    def sample(self, column: str) -> pl.Series:
        """The first values of a column, as text."""
        return pl.read_csv(
            self._data,
            columns=[column],
            separator=self._separator,
            null_values=self._nulls,
            infer_schema=False,
            n_rows=200,
            truncate_ragged_lines=True,
        ).to_series()

    def _read(self, plain: Mapping[str, pl.DataType]) -> pl.DataFrame:
        frame = pl.read_csv(
            self._data,
            columns=list(plain),
            schema_overrides=plain,
            separator=self._separator,
            null_values=self._nulls,
            infer_schema=False,
        )
        return frame.select(list(plain))

    def _header(self, expected: Mapping[str, pl.DataType]) -> list[str]:
        first = self._data.split(b"\n", 1)[0].decode().rstrip("\r")
        names = self._names(first, self._separator)
        if not any(name in expected for name in names):
            for other, called in _SEPARATORS.items():
                found = set(self._names(first, other)) & set(expected)
                if other != self._separator and len(found) * 2 > len(expected):
                    raise UnreadableFile(
                        f"{self._name} has its columns separated by {called}, not by "
                        f"{_SEPARATORS.get(self._separator, repr(self._separator))}.",
                        fix=f"Land it with {self._separator!r}, or set separator={other!r} in the source.",
                        file=self._name,
                    )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UnreadableFile(
                f"{self._name} has more than one column {twice[0]!r}.",
                fix="Land it with each column once.",
                file=self._name,
            )
        return names

    def _names(self, first: str, separator: str) -> list[str]:
        try:
            return next(_fields([first], delimiter=separator), [])
        except csv.Error as error:
            raise UnreadableFile(
                f"{self._name}: its header can't be read ({str(error).split(' - ')[0]}).",
                fix="Land it with a header of one line, and lines that end in \\n or \\r\\n.",
                file=self._name,
            ) from None

    def _check_fields(self) -> None:
        """Names the first row whose number of fields is not the header's."""
        rows = _fields(io.StringIO(self._data.decode(), newline=""), delimiter=self._separator, strict=True)
        ends_cleanly = self._data.endswith(b"\n")
        try:
            previous: tuple[int, int] | None = None
            for row in rows:
                if previous is not None:
                    self._wrong_fields(*previous, last=False)
                previous = (rows.line_num, len(row)) if len(row) != len(self.header) else None
            if previous is not None:
                self._wrong_fields(*previous, last=not ends_cleanly)
        except csv.Error as error:
            raise UnreadableFile(
                f"{self._name}, line {rows.line_num}: {error}; a quoted field is probably cut off.",
                fix="Land the file again, whole.",
                file=self._name,
            ) from None

    def _wrong_fields(self, line: int, fields: int, *, last: bool) -> None:
        if last and fields < len(self.header):
            raise UnreadableFile(
                f"{self._name} ends in the middle of line {line}: {fields} of {len(self.header)} fields.",
                fix="Land the file again, whole.",
                file=self._name,
            )
        raise UnreadableFile(
            f"{self._name}, line {line} has {fields} fields instead of {len(self.header)}.",
            fix="Correct that line (a separator in a text must be quoted) and land the file again.",
            file=self._name,
        )


def _fields(lines: Iterable[str], **how: Any) -> Any:
    """A CSV reader for fields of any length; Python's own stops at 131,072 characters."""
    csv.field_size_limit(sys.maxsize)
    return csv.reader(lines, **how)


def utf8(data: bytes, name: str) -> bytes:
    """The bytes without a byte-order mark, Windows line ends and blank lines at the end, if they are UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data:
        raise UnreadableFile(
            f"{name} is not UTF-8: it looks like UTF-16 or binary data.", fix="Land it as UTF-8.", file=name
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableFile(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02X} in line {line} (Latin-1 or Windows-1252?).",
            fix="Land it as UTF-8.",
            file=name,
        ) from None
    plain = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in plain:
        plain = plain.replace(b"\r\n", b"\n")
    stripped = plain.rstrip(b"\n")
    if not stripped.strip():
        raise UnreadableFile(f"{name} is empty: no header and no rows.", fix="Land it again, whole.", file=name)
    return stripped + b"\n" if plain.endswith(b"\n") else stripped
