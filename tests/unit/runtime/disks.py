"""A disk for tests of the prediction log: the real one, told to hang or to fail, whoever syncs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pilotage.runtime.log.files import RealFiles
from pilotage.runtime.log.kernel_sync import KernelSync, calls_of_this_machine


class Disk(RealFiles):
    """The real disk, which can be told to hang or to fail, and says when it was asked for what."""

    kernel = False
    """Whether the kernel syncs beside us."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Semaphore(0)
        self.sealed = threading.Semaphore(0)
        self.error: int | None = None
        self.syncs = 0

    def sync(self, file: int) -> None:
        self.asked.release()
        self.go.wait()
        self.syncs += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().sync(file)

    def kernel_sync(self) -> KernelSync | None:
        return DisksKernel(self) if self.kernel else None

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        if any(path.glob("*.sealed")):
            self.sealed.release()


class DisksKernel(KernelSync):
    """The real kernel, on that disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(calls_of_this_machine())
        self._disk = disk

    def start(self, file: int) -> None:
        self._disk.asked.release()
        if self._disk.go.is_set():
            super().start(file)
        else:
            threading.Thread(target=self._when_it_goes, args=(file,)).start()

    def result(self) -> int | None:
        number = super().result()
        return number if number is None else self._ended(number)

    def wait(self) -> int:
        return self._ended(super().wait())

    def _when_it_goes(self, file: int) -> None:
        self._disk.go.wait()
        super().start(file)

    def _ended(self, number: int) -> int:
        self._disk.syncs += 1
        return self._disk.error or number
