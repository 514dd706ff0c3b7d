"""A table of numbers in a file that several processes share: one 64-bit number for each name, changed under a lock.

What the numbers mean is ``limiter.py``'s business, but for one thing: a number that is not above the clock is worth
nothing, so a slot that holds one may be given to another name when there is no free one.

    header    magic, number of slots, hash of the boot it is of (32 bytes)
    slot      128-bit hash of its name, number, spare (32 bytes); all zero while it is free

The file is mapped, so reading and writing are no system calls; a range lock on the slot is (two, 1.5 µs together). On
Linux, locks belong to the open file, not the process: two tables in one process keep out of each other's way too.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

COUNT = 8192
"""Slots of a new file, twice as many as there may be keys; 256 KB."""
_MAGIC = int.from_bytes(b"pltslot1", "little")
_SLOT_BYTES = 32
_LARGEST_BYTES = 64 * 1024 * 1024
_WORDS = _SLOT_BYTES // 8
NUMBER = 2
"""Word of a slot that is its number."""
_PATIENCE_S = 0.25
"""Seconds to wait for somebody else's lock. It is held for microseconds, and longer by a process that has to wait for a
processor meanwhile; one that is stopped may hold it for ever."""
_PAUSE_S = 0.0001
_STUCK_S = 10.0
"""Seconds for which nobody waits again for a lock that was waited for in vain: all other requests would wait too."""
_OFD: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Place(NamedTuple):
    """Where a name's slot is, and what locks it."""

    word: int
    """First 64-bit word of the slot."""
    first: int
    second: int
    """Halves of the name's hash."""
    lock: bytes
    unlock: bytes


class Slots:
    """The table. For one thread at a time."""

    def __init__(self, path: Path, *, report: Callable[[str], None], count: int = COUNT) -> None:
        """Opens or makes the file. Where that can't be done, the table is this process's own, and that is reported."""
        self._places: dict[bytes, _Place] = {}
        self._stuck: dict[bytes, float] = {}
        """Locks that are done without, and until when."""
        self._held = False
        self._report = report
        self._file = -1
        try:
            self._open(path, count)
        except OSError as error:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            report(f"The rate limits in {path} can't be shared ({error}): they hold for each worker by itself.")
            self._map(mmap.mmap(-1, (1 + count) * _SLOT_BYTES), count)

    @property
    def shared(self) -> bool:
        """Whether other processes see the same numbers."""
        return self._file >= 0

    def close(self) -> None:
        """Lets go of the file. The table can't be used any more."""
        self.numbers.release()
        self._mapped.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def acquire(self, name: bytes, now: int) -> int:
        """Locks the slot of a name, finding one if it has none. ``release`` it.

        A lock that somebody does not let go of is done without, which is reported: two changes at the same time may
        then count as one, and that is better than to refuse whoever uses this name.

        Args:
            name: Any bytes.
            now: The clock: numbers up to here are worth nothing.

        Returns:
            The index of its number in ``numbers``.

        Raises:
            OSError: There is no free slot, or none can be looked for.
        """
        place = self._places.get(name)
        while True:
            if place is None:
                place = self._find(name, now)
            self._held = self._lock_at_once(place) or self._try_lock(name, place)
            if self.numbers[place.word] == place.first and self.numbers[place.word + 1] == place.second:
                return place.word + NUMBER
            # It was given to another name.
            self.release(name)
            place = None

    def release(self, name: bytes) -> None:
        """Unlocks the slot that was acquired."""
        if self._held:
            self._unlock(self._places[name].unlock)

    def _lock_at_once(self, place: _Place) -> bool:
        """Whether the lock was free, and nothing is amiss."""
        if _OFD is None or self._file < 0 or self._stuck:
            return False
        try:
            fcntl.fcntl(self._file, _OFD, place.lock)
        except OSError:
            return False
        return True

    def _try_lock(self, name: bytes, place: _Place) -> bool:
        if self._stuck and time.monotonic() < self._stuck.get(name, 0.0):
            return False
        try:
            self._lock(place.lock)
        except TimeoutError as error:
            self._stuck[name] = time.monotonic() + _STUCK_S
            self._report(f"The rate limit of {name.decode()} is counted without its lock for a while: {error}.")
            return False
        self._stuck.pop(name, None)
        return True

    def _open(self, path: Path, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lock(_range(0, fcntl.F_WRLCK))
        try:
            boot = _boot()
            header = struct.unpack("=QQQQ", os.pread(self._file, _SLOT_BYTES, 0).ljust(_SLOT_BYTES, b"\0"))
            there = os.fstat(self._file).st_size
            if there > _LARGEST_BYTES:
                raise OSError(f"it has {there:,} bytes")
            good = header == (_MAGIC, there // _SLOT_BYTES - 1, boot, 0) and there % _SLOT_BYTES == 0 and header[1] > 0
            if not good:
                # Never shorter: whoever has the rest mapped would die of it. Never without blocks on the disk, for the
                # same reason.
                count = max(count, there // _SLOT_BYTES)
                os.ftruncate(self._file, (1 + count) * _SLOT_BYTES)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file, 0, (1 + count) * _SLOT_BYTES)
            size = os.fstat(self._file).st_size
            self._map(mmap.mmap(self._file, size), size // _SLOT_BYTES - 1)
            if not good:
                self._mapped[:] = bytes(size)
                self._mapped[:_SLOT_BYTES] = struct.pack("=QQQQ", _MAGIC, self._count, boot, 0)
        finally:
            self._unlock(_range(0, fcntl.F_UNLCK))

    def _map(self, mapped: mmap.mmap, count: int) -> None:
        self._mapped = mapped
        self._count = count
        self.numbers = memoryview(mapped).cast("Q")

    def _find(self, name: bytes, now: int) -> _Place:
        """The slot of a name, or else a free one, or else one whose number is worth nothing: then it is the name's."""
        first, second = struct.unpack("=QQ", blake2b(name, digest_size=16).digest())
        self._lock(_range(0, fcntl.F_WRLCK))
        try:
            stale = None
            for step in range(self._count):
                place = _place(1 + (first + step) % self._count, first, second)
                owner = (self.numbers[place.word], self.numbers[place.word + 1])
                if owner == (first, second):
                    self._places[name] = place
                    return place
                if owner == (0, 0):
                    # Slots are never freed, so behind a free one there is nothing.
                    return self._claim(name, place)
                if stale is None and self.numbers[place.word + NUMBER] <= now:
                    stale = place
            if stale is None:
                raise OSError(f"all {self._count} slots are taken")
            return self._claim(name, stale)
        finally:
            self._unlock(_range(0, fcntl.F_UNLCK))

    def _claim(self, name: bytes, place: _Place) -> _Place:
        self._lock(place.lock)
        try:
            # The number first: a slot that has the name has its number.
            self.numbers[place.word + NUMBER] = 0
            self.numbers[place.word] = place.first
            self.numbers[place.word + 1] = place.second
        finally:
            self._unlock(place.unlock)
        self._places[name] = place
        return place

    def _lock(self, lock: bytes) -> None:
        if self._file < 0:
            return
        deadline = 0.0
        while True:
            try:
                _change(self._file, lock)
            except (BlockingIOError, PermissionError):
                if not deadline:
                    deadline = time.monotonic() + _PATIENCE_S
                elif time.monotonic() > deadline:
                    raise TimeoutError("another worker holds it, and does not let go") from None
                time.sleep(_PAUSE_S)
            else:
                return

    def _unlock(self, unlock: bytes) -> None:
        if self._file >= 0:
            _change(self._file, unlock)


def _place(slot: int, first: int, second: int) -> _Place:
    start = slot * _SLOT_BYTES
    return _Place(slot * _WORDS, first, second, _range(start, fcntl.F_WRLCK), _range(start, fcntl.F_UNLCK))


def _range(start: int, kind: int) -> bytes:
    """A ``struct flock`` of 64-bit Linux: kind, from the start of the file, offset, length, no process."""
    return struct.pack("=hhxxxxqqixxxx", kind, os.SEEK_SET, start, _SLOT_BYTES, 0)


def _change(file: int, lock: bytes) -> None:
    if _OFD is not None:
        fcntl.fcntl(file, _OFD, lock)
    else:
        kind, _, start, length, _ = struct.unpack("=hhxxxxqqixxxx", lock)
        command = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
        fcntl.lockf(file, command, length, start)


def _boot() -> int:
    """Tells one start of the machine from another, since the clock begins anew with each; 0 where it can't be told."""
    try:
        return int.from_bytes(blake2b(_BOOT.read_bytes(), digest_size=8).digest(), "little")
    except OSError:
        return 0
