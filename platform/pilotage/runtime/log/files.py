"""What the prediction log asks of the operating system, and nothing else: the seam that faults are injected at.

No rule of the log lives here. ``pilotage.testing.faulty_files`` is the other implementation.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pilotage.runtime.log.kernel_sync import KernelSync, open_kernel_sync

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""macOS: its ``fsync`` leaves the data in the disk's own cache."""


class Files(Protocol):
    """Each method raises ``OSError`` as the call of the same name does."""

    def make_folder(self, path: Path) -> None:
        """With its parents, if it isn't there."""

    def create(self, path: Path) -> int:
        """A new file, open for reading and writing; it must not exist."""

    def open(self, path: Path) -> int:
        """A file that exists, for reading and writing."""

    def lock(self, file: int) -> bool:
        """Takes the file for as long as it is open; whether nobody else has it."""

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        """Writes from a byte on, over what is there; how many bytes, which can be fewer."""

    def sync(self, file: int) -> None:
        """Returns when the file's bytes are on the disk."""

    def kernel_sync(self) -> KernelSync | None:
        """Syncs that nobody has to wait for; ``None`` if there is only ``sync``."""

    def sync_folder(self, path: Path) -> None:
        """Returns when the names in the folder are on the disk."""

    def named(self, file: int) -> bool:
        """Whether the open file still has a name; bytes written to one without are gone when it is closed."""

    def truncate(self, file: int, length: int) -> None: ...

    def rename(self, source: Path, target: Path) -> None:
        """Replaces what has the target's name."""

    def link(self, source: Path, target: Path) -> None:
        """A second name of the same file; the target must not exist."""

    def remove(self, path: Path) -> None: ...

    def close(self, file: int) -> None: ...


class RealFiles:
    """The operating system itself."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def lock(self, file: int) -> bool:
        # flock, not fcntl's record locks: those are lost when the process closes any other descriptor of the file, and
        # a reader in the same process does.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        return os.pwrite(file, data, at)

    def sync(self, file: int) -> None:
        if _FULL_SYNC is not None:
            fcntl.fcntl(file, _FULL_SYNC)
        elif hasattr(os, "fdatasync"):
            # The file's length is part of what fdatasync writes; its times are not.
            os.fdatasync(file)
        else:
            os.fsync(file)

    def kernel_sync(self) -> KernelSync | None:
        # Whoever syncs in a way of its own is asked, and not the kernel.
        return open_kernel_sync() if type(self).sync is RealFiles.sync else None

    def sync_folder(self, path: Path) -> None:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def named(self, file: int) -> bool:
        return os.fstat(file).st_nlink > 0

    def truncate(self, file: int, length: int) -> None:
        os.ftruncate(file, length)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        target.hardlink_to(source)

    def remove(self, path: Path) -> None:
        path.unlink()

    def close(self, file: int) -> None:
        os.close(file)


def write_all(files: Files, file: int, data: bytes, at: int = 0) -> None:
    """Writes all of it from a byte on; what was written before an error stays."""
    rest = memoryview(data)
    while rest:
        written = files.write(file, rest, at)
        rest, at = rest[written:], at + written


def begin_new(files: Files, path: Path) -> int:
    """A new, empty, locked file, where only the caller makes files of this name; a left-over one is replaced."""
    with suppress(FileNotFoundError):
        files.remove(path)
    file = files.create(path)
    if files.lock(file) and still_named(file, path):
        return file
    # Somebody cleans up, and found it between its creation and its lock.
    files.close(file)
    raise BlockingIOError(errno.EWOULDBLOCK, "another process took the new file", str(path))


def write_new(files: Files, path: Path, data: bytes) -> None:
    """Writes a file beside its place, to the disk, and renames it there: whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    file = begin_new(files, new)
    try:
        write_all(files, file, data)
        files.sync(file)
        files.rename(new, path)
        files.sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            files.remove(new)
        raise
    finally:
        with suppress(OSError):
            files.close(file)


def still_named(file: int, path: Path) -> bool:
    """Whether the open file is what has this name now. One that was opened by name can have been renamed since."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file), there)
