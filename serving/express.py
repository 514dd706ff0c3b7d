"""Single predictions on the shorter way: from the bytes of a request to those of its answer without a task.

The same steps as by way of the gateway, in the same order and by the same functions, for all that came together
(``cohort.py``). A request that is anything else than plain (another content type, a query, an id of the client's) is
left to the gateway, and so is every other route.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from serving.cohort import Plain, answer_together
from serving.connections import Turn
from serving.endpoints import LARGEST_BODY, Predict
from serving.exchange import Exchange
from serving.worker import Core

TOGETHER = 64
"""Requests that are answered together at most, in 4 ms: others want the loop as well."""
_PASSED_ON = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))


class Express:
    """See above."""

    def __init__(self, endpoints: Mapping[str, Predict], core: Callable[[], Core | None]) -> None:
        """Prepares the routes.

        Args:
            endpoints: Path → endpoint.
            core: Gives the worker's parts, once it has started.
        """
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._core = core
        self._waiting: list[Plain] = []
        self._gathering = False
        self._gathered = 0
        """Requests that waited a turn ago."""
        self._alone = False
        """Whether the last one came alone."""

    def takes(self, url: bytes) -> bool:
        """Whether a ``POST`` there may be a plain prediction."""
        return url in self._endpoints

    def answer(self, turn: Turn, scope: Any, body: bytes) -> bool:
        """Begins to answer; ``False`` if the request is not plain, or the worker not ready."""
        core = self._core()
        if core is None or len(body) > LARGEST_BODY:
            return False
        exchange = Exchange(core, scope)
        exchange.read_headers()
        if exchange.kind != b"application/json" or (core.ring.open and _passed_on(exchange)):
            return False
        endpoint = self._endpoints[scope["path"].encode()]
        exchange.model = endpoint.model
        request = Plain(turn, exchange, endpoint, body)
        if request.enter():
            self._waiting.append(request)
            self._notice(core)
        return True

    def _notice(self, core: Core) -> None:
        """One more waits: at once, if nobody else is being answered, nor was the last time; else with others."""
        if self._gathering:
            return
        if self._alone and core.metrics.in_flight == 1:
            self._begin(core)
            return
        self._gathering, self._gathered = True, 0
        asyncio.get_running_loop().call_soon(self._gather, core)

    def _gather(self, core: Core) -> None:
        """Begins when a turn of the event loop brought nothing more, or enough."""
        waiting = len(self._waiting)
        if self._gathered < waiting < TOGETHER:
            self._gathered = waiting
            asyncio.get_running_loop().call_soon(self._gather, core)
            return
        self._gathering = False
        self._begin(core)

    def _begin(self, core: Core) -> None:
        together, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        self._alone = len(together) == 1
        if self._waiting:
            self._notice(core)
        answer_together(core, together)


def _passed_on(exchange: Exchange) -> bool:
    """Whether a proxy told for whom it asks, which only uvicorn's middleware hears, and matters only without keys."""
    return not _PASSED_ON.isdisjoint(name for name, _ in exchange.scope["headers"])
