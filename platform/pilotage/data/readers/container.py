"""Bytes of a landed file → bytes of its content, out of ``.gz`` or ``.zip``. Knows no formats and no sources."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from typing import IO

from pilotage.errors import UnreadableFile

_PIECE = 1024 * 1024
_AGAIN = "Land the file again, whole; the broken one stays where it is until then."


def unpack(data: bytes, name: str, *, largest: int) -> bytes:
    """The content of a file, whatever it is packed in. What it is packed in is seen in its first bytes.

    Args:
        data: The file's bytes.
        name: Its name.
        largest: Bytes that it may have unpacked.

    Raises:
        UnreadableFile: It is empty, truncated, corrupt, too large, or not what its name says.
    """
    if not data:
        raise UnreadableFile(f"{name} is empty: 0 bytes.", fix=_AGAIN, file=name)
    if data.startswith(b"\x1f\x8b"):
        return _gunzip(data, name, largest)
    if data.startswith(b"PK\x03\x04") or data.startswith(b"PK\x05\x06"):
        return _unzip(data, name, largest)
    for ending, kind in ((".gz", "gzip"), (".zip", "zip")):
        if name.endswith(ending):
            raise UnreadableFile(
                f"{name} is no {kind} file, though its name says so.",
                fix=f"Land it packed, or without {ending}.",
                file=name,
            )
    return data


def too_large(name: str, largest: int) -> UnreadableFile:
    """The error of a file that has more bytes than it may."""
    return UnreadableFile(
        f"{name} holds more than {largest:,} bytes.",
        fix="Land it in parts, or set read.largest of the source to what its files may have.",
        file=name,
    )


def _read(packed: gzip.GzipFile | IO[bytes], name: str, largest: int) -> bytes:
    """All of it; nobody knows how much that is before it is there."""
    pieces, size = [], 0
    while piece := packed.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            raise too_large(name, largest)
    return b"".join(pieces)


def _gunzip(data: bytes, name: str, largest: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            return _read(packed, name, largest)
    except EOFError:
        raise UnreadableFile(
            f"{name} is truncated: the gzip stream ends after {len(data)} bytes without its end marker.",
            fix=_AGAIN,
            file=name,
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableFile(f"{name} is a corrupt gzip file: {error}.", fix=_AGAIN, file=name) from None


def _unzip(data: bytes, name: str, largest: int) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__")]
            if len(members) != 1:
                listed = ", ".join(item.filename for item in members[:5]) or "none"
                raise UnreadableFile(
                    f"{name} holds {len(members)} files ({listed}) instead of one.",
                    fix="Land each file in a zip of its own.",
                    file=name,
                )
            with archive.open(members[0]) as packed:
                return _read(packed, name, largest)
    except zipfile.BadZipFile as error:
        raise UnreadableFile(f"{name} is a truncated or corrupt zip file: {error}.", fix=_AGAIN, file=name) from None
    except (zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError: a member with a password. NotImplementedError: a compression that Python does not know.
        raise UnreadableFile(f"{name} can't be unzipped: {error}.", fix=_AGAIN, file=name) from None
