"""Syncs that the Linux kernel does beside us (``io_submit`` with ``IOCB_CMD_FDSYNC``, since 4.18).

To have a thread wait for the disk costs a worker two changes of threads and two fights for Python's lock, 70 µs, for
each commit. The kernel has threads of its own for that: it takes a sync in 3 µs and makes a descriptor readable when
the bytes are on the disk, which an event loop hears like any socket. Not io_uring, which containers' usual seccomp
profiles forbid. Where there is none of this (another system, a sandbox), ``open_kernel_sync`` says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

_FDSYNC = 3
"""``IOCB_CMD_FDSYNC``, of ``linux/aio_abi.h``; it fails and succeeds as ``fdatasync`` does."""
_RESFD = 1
"""``IOCB_FLAG_RESFD``: tell an eventfd."""


class Calls(NamedTuple):
    """Numbers of the system calls; glibc has no functions for them."""

    setup: int
    destroy: int
    submit: int
    getevents: int


_CALLS = {"x86_64": Calls(206, 207, 209, 208), "aarch64": Calls(0, 1, 2, 4)}


class _Request(ctypes.Structure):
    """``struct iocb`` of little-endian machines."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("file", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("told", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """``struct io_event``."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelSync:
    """One sync at a time. ``start`` and ``result`` never wait, whatever the disk does."""

    def __init__(self, calls: Calls) -> None:
        """Asks the kernel for its part.

        Raises:
            OSError: It has none to give.
        """
        # As C's long, which the kernel reads; an int's upper half is nobody's.
        setup, self._destroy, self._submit, self._getevents = map(ctypes.c_long, calls)
        # With Python's lock held: neither call waits, and to give the lock away and get it back costs more than both.
        self._at_once = ctypes.PyDLL(None, use_errno=True).syscall
        self._patiently = ctypes.CDLL(None, use_errno=True).syscall
        for call in (self._at_once, self._patiently):
            call.restype = ctypes.c_long
        self._none, self._one = ctypes.c_long(0), ctypes.c_long(1)
        self._context = ctypes.c_ulong(0)
        self._event = _Event()
        self._to_event = ctypes.byref(self._event)
        self._check(self._at_once(setup, self._one, ctypes.byref(self._context)))
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = _Request(opcode=_FDSYNC, flags=_RESFD, told=self._told)
        self._to_request = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))

    def listen(self, loop: asyncio.AbstractEventLoop, over: Callable[[], object]) -> None:
        """Has a loop call when a sync is over; then there is a ``result``."""
        loop.add_reader(self._told, over)

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends that, and everything. In the loop's thread."""
        loop.remove_reader(self._told)
        self.close()

    def start(self, file: int) -> None:
        """Begins to sync a file.

        Raises:
            OSError: It was not begun: the kernel has no room (``EAGAIN``), or the file is of a kind that can't.
        """
        self._request.file = file
        self._check(self._at_once(self._submit, self._context, self._one, self._to_request))

    def result(self) -> int | None:
        """The error's number of the sync that is over, 0 for none; ``None`` if it is not over."""
        asked = self._at_once(self._getevents, self._context, self._none, self._one, self._to_event, None)
        if self._check(asked) == 0:
            return None
        return self._over()

    def wait(self) -> int:
        """``result``, when it is there."""
        while True:
            with suppress(InterruptedError):
                self._check(self._patiently(self._getevents, self._context, self._one, self._one, self._to_event, None))
                return self._over()

    def close(self) -> None:
        """Gives all back; waits for a sync that was begun."""
        self._patiently(self._destroy, self._context)
        os.close(self._told)

    def _over(self) -> int:
        # ``suppress`` costs three calls, with each commit.
        try:  # noqa: SIM105
            os.eventfd_read(self._told)
        except BlockingIOError:
            pass
        return max(0, -int(self._event.result))

    def _check(self, answered: Any) -> int:
        if answered < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(answered)


def open_kernel_sync() -> KernelSync | None:
    """The kernel's syncs; ``None`` where there are none, so that a thread has to wait for the disk."""
    sync = None
    try:
        sync = KernelSync(calls_of_this_machine())
        _try(sync)
    except OSError:
        if sync is not None:
            sync.close()
        return None
    return sync


def calls_of_this_machine() -> Calls:
    """The system calls' numbers.

    Raises:
        OSError: It has none.
    """
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or sys.byteorder != "little" or calls is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return calls


def _try(sync: KernelSync) -> None:
    """Syncs something once: kernels and sandboxes that have the calls may still not have this use of them.

    Raises:
        OSError: They don't.
    """
    file = os.memfd_create("pilotage-sync", os.MFD_CLOEXEC)
    try:
        sync.start(file)
        if number := sync.wait():
            raise OSError(number, os.strerror(number))
    finally:
        os.close(file)
