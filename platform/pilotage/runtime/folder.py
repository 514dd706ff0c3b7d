"""A folder of files under a manifest: written whole or not at all, and read only when every byte is right.

What the files mean is ``bundle.py``'s business.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.durable import sync_folder
from pilotage.errors import BundleCorrupt, PilotageError

MANIFEST = "manifest.json"
RESTORE = "Restore the bundle from a backup (docs/how-to/back-up-and-restore.md); never edit one."
_MANIFEST_LIMIT = 1_000_000
_FILE_LIMIT = 500_000_000
"""Bytes. A model of 300 trees with 63 leaves has about two million."""


def publish_folder(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes a folder of files beside its place, to the disk, and renames it there: whole or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.with_name(f".{directory.name}.{os.getpid()}.{os.urandom(4).hex()}")
    work.mkdir()
    try:
        for name, data in contents.items():
            with (work / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        work.rename(directory)
    except BaseException:
        for path in work.iterdir():
            path.unlink()
        work.rmdir()
        raise
    sync_folder(directory.parent)


def read_verified(
    directory: Path, names: Collection[str], *, sha256: str | None
) -> tuple[dict[str, Any], dict[str, bytes], str]:
    """Manifest, files and the manifest's SHA-256. What is returned is what was hashed: nothing is read twice.

    Args:
        directory: The folder.
        names: The files that it must hold beside the manifest, and no others.
        sha256: What the manifest's SHA-256 must be; ``None`` for any.

    Raises:
        BundleCorrupt: A file is missing, is too many, or has other bytes than the manifest says.
    """
    with as_corrupt(directory):
        manifest_bytes = _read(directory / MANIFEST, _MANIFEST_LIMIT)
        digest = sha256_of(manifest_bytes)
        if sha256 is not None and digest != sha256:
            raise _corrupt(directory, f"{MANIFEST} has SHA-256 {digest[:12]}…, not {sha256[:12]}…", MANIFEST)
        manifest = json.loads(manifest_bytes)
        present = {path.name for path in directory.iterdir()}
        wanted = {MANIFEST, *manifest["files"]}
        if set(manifest["files"]) != set(names) or present != wanted:
            odd = sorted((present ^ wanted) | (set(manifest["files"]) ^ set(names)))
            raise _corrupt(directory, f"{odd[0]} is missing, or should not be there", odd[0])
        contents = {}
        for name, facts in manifest["files"].items():
            size = facts["bytes"]
            if type(size) is not int or not 0 <= size <= _FILE_LIMIT:
                raise _corrupt(directory, f"{name} can't have {size!r} bytes", name)
            data = _read(directory / name, size)
            if len(data) != size or sha256_of(data) != facts["sha256"]:
                raise _corrupt(directory, f"{name} has other bytes than the manifest says", name)
            contents[name] = data
        return manifest, contents, digest


@contextmanager
def as_corrupt(where: Path | str) -> Iterator[None]:
    """Whatever a damaged bundle makes a parser raise, the answer is ``BundleCorrupt``."""
    try:
        yield
    except BundleCorrupt:
        raise
    except (
        PilotageError,
        pl.exceptions.PolarsError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise BundleCorrupt(
            f"The bundle in {where} can't be read: {type(error).__name__}: {error}.", fix=RESTORE
        ) from error


def _read(path: Path, limit: int) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise _corrupt(path.parent, f"{path.name} is no plain file", path.name)
    with path.open("rb") as file:
        # One byte more than allowed tells a file that is too long, without reading all of it.
        return file.read(limit + 1)


def _corrupt(where: Path | str, what: str, file: str) -> BundleCorrupt:
    return BundleCorrupt(f"The bundle in {where} is corrupt: {what}.", fix=RESTORE, file=file)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
