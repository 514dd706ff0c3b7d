"""The service of ``flight_delay`` with one part left out or changed, as ``BENCH_PART`` says. For the bench alone."""

import asyncio
import os
from typing import Any

import serving.build as building
from assets.models.flight_delay import MODEL
from pilotage.runtime.log.files import RealFiles
from pilotage.runtime.log.kernel_sync import KernelSync, calls_of_this_machine, open_kernel_sync
from pilotage.runtime.log.queue import Told
from serving.worker import Core

PART = os.environ.get("BENCH_PART", "")


class _Undone(KernelSync):
    """The kernel is asked for the sync of something that is on no disk."""

    def __init__(self) -> None:
        super().__init__(calls_of_this_machine())
        self._nothing = os.memfd_create("nothing")

    def start(self, file: int) -> None:
        """Begins nothing."""
        super().start(self._nothing)


class _Unsynced(RealFiles):
    """Writes, and never waits for the disk."""

    def sync(self, file: int) -> None:
        """Does not."""

    def kernel_sync(self) -> KernelSync | None:
        """As the kernel does, without the disk."""
        return _Undone() if open_kernel_sync() is not None else None


class _Altered(Core):
    """The parts of a worker, but for one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if PART == "unsynced":
            named["filesystem"] = _Unsynced()
        super().__init__(*arguments, **named)
        if PART == "unlogged":
            self.log.submit = _at_once  # type: ignore[method-assign]
            self.log.submit_then = _soon  # type: ignore[method-assign]
            for desk in self.responder.desks.values():
                desk.writer._encode = _nothing


def _at_once(*_: bytes) -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _soon(told: Told, *_: bytes) -> None:
    asyncio.get_running_loop().call_soon(told, None)


def _nothing(_: object) -> bytes:
    return b""


building.Core = _Altered  # type: ignore[misc]
_spec = MODEL
if PART == "uncached":
    _spec = MODEL.model_copy(update={"serving": MODEL.serving.model_copy(update={"cached_answers": 0})})
PartsService = building.build({MODEL.name: _spec}, name="PartsService")
