"""The same service on a disk whose faults are switched on and off by a file: ``<home>/bad-disk.json``.

``{"seed": 7, "write": [0.1, "EIO"], "sync": [0.05, "EIO"]}`` gives operation → chance and error. Only the prediction
log is on that disk. Reading what a disk gave up on must not show it: after a failed sync, what was not synced before is
zeros, as it is once the kernel has dropped its pages.
"""

import errno
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import serving.build
from pilotage.runtime.log.files import RealFiles
from pilotage.runtime.log.kernel_sync import KernelSync, calls_of_this_machine, open_kernel_sync
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from serving.worker import Core
from tests.faults.bad_disk_switch import SWITCH
from tests.faults.models import SPECS


class BadDisk(RealFiles):
    """See above."""

    def __init__(self, switch: Path) -> None:
        self._switch = switch
        self._known = 0
        self._faults: dict[str, tuple[float, int]] = {}
        self._random = random.Random()
        self._unsynced: dict[int, tuple[int, int]] = {}
        """Inode → from which to which byte it was written since the last sync that went well."""

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        error = self._fault("write")
        inode = os.fstat(file).st_ino
        begin, end = self._unsynced.get(inode, (at, at))
        self._unsynced[inode] = min(begin, at), max(end, at + len(data))
        if error is None:
            return super().write(file, data, at)
        super().write(file, bytes(data)[: self._random.randrange(len(data))], at)
        raise error

    def sync(self, file: int) -> None:
        super().sync(file)
        self.synced(file)

    def kernel_sync(self) -> KernelSync | None:
        return _BadKernel(self) if open_kernel_sync() is not None else None

    def synced(self, file: int) -> None:
        """After a sync that the real disk did well: this one may not have.

        Raises:
            OSError: It has not, and lost what it should have written.
        """
        found = os.fstat(file)
        error = self._fault("sync")
        if error is None:
            self._unsynced.pop(found.st_ino, None)
            return
        begin, end = self._unsynced.get(found.st_ino, (0, 0))
        end = min(end, found.st_size)
        if end > begin and self._random.random() < 0.5:
            os.pwrite(file, bytes(end - begin), begin)
        raise error

    def create(self, path: Path) -> int:
        error = self._fault("create")
        if error is not None:
            raise error
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        error = self._fault("rename")
        if error is not None:
            raise error
        super().rename(source, target)

    def _fault(self, operation: str) -> OSError | None:
        try:
            changed = self._switch.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if changed != self._known:
            self._known = changed
            told = json.loads(self._switch.read_text())
            self._random.seed(f"{told.pop('seed')} {os.getpid()}")
            self._faults = {name: (chance, getattr(errno, code)) for name, (chance, code) in told.items()}
        chance, number = self._faults.get(operation, (0.0, 0))
        return OSError(number, os.strerror(number)) if self._random.random() < chance else None


class _BadKernel(KernelSync):
    """Syncs beside the worker, to the same disk."""

    def __init__(self, disk: BadDisk) -> None:
        super().__init__(calls_of_this_machine())
        self._disk = disk
        self._file = -1

    def start(self, file: int) -> None:
        self._file = file
        super().start(file)

    def result(self) -> int | None:
        number = super().result()
        return number if number is None else self._and_well(number)

    def wait(self) -> int:
        return self._and_well(super().wait())

    def _and_well(self, number: int) -> int:
        try:
            self._disk.synced(self._file)
        except OSError as error:
            return error.errno or errno.EIO
        return number


def _on_a_bad_disk(specs: Mapping[str, ModelSpec], settings: Settings, **arguments: Any) -> Core:
    return Core(specs, settings, filesystem=BadDisk(settings.home / SWITCH), **arguments)


serving.build.Core = _on_a_bad_disk  # type: ignore[assignment,misc]

BadDiskService = serving.build.build(SPECS, name="BadDiskService")
