"""How the workers of one service add up their metrics: each writes its own file, and whichever is asked reads them all.

    <folder>/<service>/<worker>.metrics

``<service>`` names the process that started the workers, so that a restarted service begins at zero (which Prometheus
takes for what it is) and two services never mix. A worker holds a lock on its file; the file of one that died keeps
its counters, or they would go backwards, and loses its gauges. Files are written in place, with a checksum: no rename
and no fsync, both of which would wait for the disk that the prediction log needs. Their room is made before: on a full
disk they are needed most. Only bytes are known here; what they mean is in ``metrics.py``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_HEADER = struct.Struct("<4sIQQ")
"""Mark, checksum, number of the write, bytes."""
_MAGIC = b"PMT1"
_SLOT = 1 << 20
"""Bytes of each of the two places in a file that are written by turns, so that one of them is always whole."""
_ROOM = 1 << 17
"""Bytes of each place that are on the disk from the beginning; the numbers of dozens of models."""
_RETIRED = "retired.metrics"


class MetricsFiles:
    """The files of one service's workers, of which one is ours."""

    def __init__(self, folder: Path, *, merge: Callable[[list[bytes]], bytes], service: str | None = None) -> None:
        """Touches no disk yet: a worker must start where there is no room for its numbers.

        Args:
            folder: Shared by the workers.
            merge: Adds up what several dead workers wrote.
            service: Names the service; default: ``service_of`` the process that started this worker.
        """
        self.folder = folder / (service or service_of(os.getppid()))
        """Where they are."""
        self._merge = merge
        self._writes = 0
        self._path: Path | None = None
        self._file: int | None = None
        self._unwritten: bytes | None = None
        """Numbers that the disk did not take."""

    def write(self, payload: bytes) -> None:
        """Puts this worker's numbers in the place of those before. From one thread at a time.

        Raises:
            OSError: They don't fit, or can't be written. On our own page they are all the same.
        """
        if len(payload) > _SLOT - _HEADER.size:
            raise OSError(errno.EFBIG, f"{len(payload)} bytes of metrics don't fit", str(self.folder))
        self._unwritten = payload
        if self._file is None:
            self._file = self._open()
        _put(self._file, payload, self._writes + 1)
        # Only now: what can't be written must not go on to the place of the last one that could.
        self._writes += 1
        self._unwritten = None

    def read(self) -> list[tuple[bytes, bool]]:
        """What every worker wrote last, and whether it lives.

        Raises:
            OSError: The files can't be read, and there is nothing of our own that is not in them either.
        """
        ours = self._unwritten
        found: list[tuple[bytes, bool]] = [] if ours is None else [(ours, True)]
        try:
            with self._locked(fcntl.LOCK_SH):
                paths = [path for path in sorted(self.folder.glob("*.metrics")) if ours is None or path != self._path]
                found += [(last[1], self._lives(path)) for path in paths if (last := _read(path)) is not None]
        except OSError:
            if ours is None:
                # A page without any number would look like a service that does nothing.
                raise
        return found

    def close(self) -> None:
        """Lets go of this worker's file, whose counters stay."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Makes this worker's file, removes those of services that are gone, and merges those of workers that are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_others(self.folder.parent, keep=self.folder)
        with self._locked(fcntl.LOCK_EX):
            self._retire()
            # Known to be ours before anybody can read it.
            self._path = self.folder / f"{os.getpid()}-{os.urandom(4).hex()}.metrics"
            file = _opened(self._path)
            fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _lives(self, path: Path) -> bool:
        return path == self._path or (path.name != _RETIRED and _is_locked(path))

    def _retire(self) -> None:
        """Merges the files of dead workers into one: a service may lose thousands of workers in its life."""
        dead = [path for path in self.folder.glob("*.metrics") if path.name != _RETIRED and not _is_locked(path)]
        retired = self.folder / _RETIRED
        before = _read(retired)
        file = _opened(retired)
        try:
            if found := [last[1] for path in dead if (last := _read(path)) is not None]:
                number, kept = (0, []) if before is None else (before[0], [before[1]])
                _put(file, self._merge([*kept, *found]), number + 1)
        except OSError:
            # No room: theirs count as they are, until somebody can.
            return
        finally:
            os.close(file)
        for path in dead:
            path.unlink()

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        # Opened each time: a lock belongs to what was opened, and would not hold between two threads that share it.
        lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, kind)
            yield
        finally:
            os.close(lock)


def service_of(pid: int) -> str:
    """Names a process that starts workers; with the time of its start, since process ids come again."""
    return f"{pid}-{int(psutil.Process(pid).create_time() * 1000)}"


def _remove_others(folder: Path, *, keep: Path) -> None:
    for other in folder.iterdir():
        pid, _, started = other.name.partition("-")
        if other == keep or not (pid.isdigit() and started.isdigit()):
            continue
        try:
            lives = service_of(int(pid)) == other.name
        except (psutil.NoSuchProcess, OverflowError):
            lives = False
        if not lives and not any(_is_locked(path) for path in other.glob("*.metrics")):
            shutil.rmtree(other, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _opened(path: Path) -> int:
    """A file with room for its numbers, if there is any."""
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    if hasattr(os, "posix_fallocate"):
        with suppress(OSError):
            for slot in (0, 1):
                os.posix_fallocate(file, slot * _SLOT, _ROOM)
    return file


def _put(file: int, payload: bytes, number: int) -> None:
    """Writes a payload into the place whose turn it is.

    Raises:
        OSError: There is no room for all of it; what was written before is still there.
    """
    framed = _HEADER.pack(_MAGIC, zlib.crc32(payload), number, len(payload)) + payload
    if (written := os.pwrite(file, framed, number % 2 * _SLOT)) < len(framed):
        raise OSError(errno.ENOSPC, f"only {written} of {len(framed)} bytes of metrics could be written")


def _read(path: Path) -> tuple[int, bytes] | None:
    """Number and payload of a file's last whole write; ``None`` if there is none."""
    best: tuple[int, bytes] | None = None
    try:
        with path.open("rb") as file:
            for slot in (0, 1):
                file.seek(slot * _SLOT)
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    continue
                magic, checksum, number, length = _HEADER.unpack(header)
                if magic != _MAGIC or length > _SLOT or (best is not None and best[0] > number):
                    continue
                payload = file.read(length)
                if len(payload) == length and zlib.crc32(payload) == checksum:
                    best = (number, payload)
    except FileNotFoundError:
        return None
    return best
