"""A disk that fails as disks do, for the prediction log: full, broken, or gone dark in the middle of a write.

The files are real ones in a folder of the test's. What this adds is the difference between what a program wrote and
what a disk has: until a file is synced, a crash may take its newest sectors, any of them; until its folder is synced, a
crash may take its name. Which faults come when is drawn from a seed, or told.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pilotage.runtime.log.files import RealFiles

_SECTOR = 16
"""Bytes that a disk writes all or none of. Fewer than a real one's, as records in tests are short."""


class Crashed(BaseException):
    """The process ends here. No ``Exception``, so that no handler goes on as if it lived."""


@dataclass(slots=True)
class _Disk:
    """What the disk has of one file."""

    synced: bytes = b""
    """Content at the last sync."""
    dropped: bool = False
    """Whether the kernel gave up writing what came after it, and will say "written" when asked again."""


class FaultyFiles(RealFiles):
    """See ``pilotage.runtime.log.files.Files``.

    Args:
        folder: The log's.
        seed: Of everything that is drawn.
        faults: Operation → chance, 0..1, that a call of it fails: ``"create"``, ``"write"`` (after a part of it),
            ``"sync"``, ``"sync_folder"``, ``"truncate"``, ``"rename"``, ``"link"``, ``"remove"``.
        errors: What they fail with: numbers of ``errno``.
        crash_after: The call after so many operations ends the process, a write in the middle; ``None`` for never.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        faults: dict[str, float] | None = None,
        errors: Iterable[int] = (errno.ENOSPC, errno.EIO),
        crash_after: int | None = None,
    ) -> None:
        self._folder = folder
        self.random = random.Random(seed)  # noqa: S311 - for tests
        self.faults = dict(faults or {})
        self.errors = tuple(errors)
        self.crash_after = crash_after
        self.calls: list[str] = []
        """Operations so far."""
        self.before: Callable[[str], None] = lambda _: None
        """Called with each operation before it is done; what it raises, the operation raises."""
        self._disks: dict[int, _Disk] = {}
        """By inode."""
        self._undo: list[Callable[[], None]] = []
        """Takes back, newest last, what the folder's names lost since it was synced."""
        self._open: set[int] = set()
        self.crashed = False

    def create(self, path: Path) -> int:
        self._step("create")
        file = super().create(path)
        self._open.add(file)
        self._disks[os.fstat(file).st_ino] = _Disk()
        self._undo.append(lambda: path.unlink(missing_ok=True))
        return file

    def open(self, path: Path) -> int:
        self._step("open")
        file = super().open(path)
        self._open.add(file)
        self._disks.setdefault(os.fstat(file).st_ino, _Disk(synced=path.read_bytes()))
        return file

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        part = self.random.randrange(len(data) + 1)
        try:
            self._step("write")
        except (OSError, Crashed):
            super().write(file, bytes(data)[:part], at)
            raise
        # A short write is no error; the rest comes with the next call.
        return super().write(file, bytes(data)[: max(1, part)] if self.random.random() < 0.2 else data, at)

    def sync(self, file: int) -> None:
        disk = self._disks[os.fstat(file).st_ino]
        try:
            self._step("sync")
        except OSError:
            disk.dropped = True
            raise
        if not disk.dropped:
            disk.synced = _content(file)

    def sync_folder(self, path: Path) -> None:  # noqa: ARG002 - there is one folder
        self._step("sync_folder")
        self._undo.clear()

    def truncate(self, file: int, length: int) -> None:
        self._step("truncate")
        super().truncate(file, length)
        disk = self._disks[os.fstat(file).st_ino]
        disk.dropped = disk.dropped and length > len(disk.synced)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        kept = self._keep(target)
        super().rename(source, target)

        def undo() -> None:
            target.replace(source)
            if kept is not None:
                _put_back(kept, target)

        self._undo.append(undo)

    def link(self, source: Path, target: Path) -> None:
        self._step("link")
        super().link(source, target)
        self._undo.append(target.unlink)

    def remove(self, path: Path) -> None:
        self._step("remove")
        kept = self._keep(path)
        super().remove(path)
        if kept is not None:
            self._undo.append(lambda: _put_back(kept, path))

    def close(self, file: int) -> None:
        self._open.discard(file)
        super().close(file)

    def crash(self, *, power: bool) -> None:
        """The process is gone, with the locks that it held; whoever uses this next is another one.

        Args:
            power: Whether the machine is gone too: then what was not synced is lost, all or some of it.
        """
        for file in self._open:
            os.close(file)
        self._open.clear()
        if power:
            # A journal keeps the order of names: the newest changes are lost, up to any point.
            while self._undo and self.random.random() < 0.7:
                self._undo.pop()()
            for path in self._folder.iterdir():
                self._lose(path)
        self._undo.clear()
        self._disks.clear()
        self.crashed, self.crash_after = False, None

    def _lose(self, path: Path) -> None:
        """Leaves of a file what the disk could have of it."""
        disk = self._disks.get(path.stat().st_ino)
        if disk is None:
            return
        now = path.read_bytes()
        same = next((at for at, (one, two) in enumerate(zip(disk.synced, now, strict=False)) if one != two), None)
        if same is None:
            same = min(len(disk.synced), len(now))
        if len(now) < len(disk.synced) and self.random.random() < 0.5:
            path.write_bytes(disk.synced)  # It was cut, and the cut is lost.
            return
        length = self.random.randint(max(same, min(len(disk.synced), len(now))), len(now))
        # Sectors reach the disk in any order: one that did not is as it was, or zeros.
        lost = self.random.choice((0.0, 0.3, 1.0))
        left, before = bytearray(now[:length]), disk.synced.ljust(length, b"\0")
        for at in range(same - same % _SECTOR, length, _SECTOR):
            if self.random.random() < lost:
                left[at : at + _SECTOR] = before[at : min(length, at + _SECTOR)]
        path.write_bytes(left)

    def _keep(self, path: Path) -> Path | None:
        """A second name, out of the way, of what is about to lose its own."""
        if not path.exists():
            return None
        kept = self._folder.with_name(f"{self._folder.name}-kept") / str(len(self.calls))
        kept.parent.mkdir(exist_ok=True)
        kept.hardlink_to(path)
        return kept

    def _step(self, operation: str) -> None:
        if self.crashed:
            raise Crashed
        self.calls.append(operation)
        if self.crash_after is not None and len(self.calls) > self.crash_after:
            self.crashed = True
            raise Crashed
        self.before(operation)
        if self.random.random() < self.faults.get(operation, 0.0):
            number = self.random.choice(self.errors)
            raise OSError(number, os.strerror(number))


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def _put_back(kept: Path, path: Path) -> None:
    kept.replace(path)
