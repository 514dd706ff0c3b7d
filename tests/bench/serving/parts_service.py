"""The service of ``flight_delay`` with one part left out or changed, as ``BENCH_PART`` says. For the bench alone."""

import asyncio
import os
from typing import Any

import serving.build as building
from assets.models.flight_delay import MODEL
from pilotage.runtime.log.files import RealFiles
from serving.worker import Core

PART = os.environ.get("BENCH_PART", "")


class _Unsynced(RealFiles):
    """Writes, and never waits for the disk."""

    def sync(self, file: int) -> None:
        """Does not."""


class _Altered(Core):
    """The parts of a worker, but for one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if PART == "unsynced":
            named["filesystem"] = _Unsynced()
        super().__init__(*arguments, **named)
        if PART == "unlogged":
            self.log.submit = _at_once  # type: ignore[method-assign]
            for desk in self.responder.desks.values():
                desk.scribe._encode = _nothing


def _at_once(*_: bytes) -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _nothing(_: object) -> bytes:
    return b""


building.Core = _Altered  # type: ignore[misc]
_spec = MODEL
if PART == "uncached":
    _spec = MODEL.model_copy(update={"serving": MODEL.serving.model_copy(update={"cached_answers": 0})})
PartsService = building.build({MODEL.name: _spec}, name="PartsService")
