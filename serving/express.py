"""Single predictions on the shorter way: from the bytes of a request to those of its answer without a task.

The same steps as by way of the gateway, in the same order and by the same functions, for all that came together
(``micro_batch.py``). A request that is anything else than plain (another content type, a query, an id of the client's)
is left to the gateway, and so is every other route.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from serving.connections import Turn
from serving.endpoints import LARGEST_BODY, Predict
from serving.exchange import Exchange
from serving.gathering import Gathering
from serving.micro_batch import Plain, answer_together
from serving.worker import Core

TOGETHER = 64
"""Requests that are answered together at most, in 3 ms: others want the loop as well."""
_PASSED_ON = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))


class Express:
    """See above."""

    def __init__(self, endpoints: Mapping[str, Predict], core: Callable[[], Core | None]) -> None:
        """Prepares the routes.

        Args:
            endpoints: Path → endpoint.
            core: Gives the worker's parts, once it has started.
        """
        self._endpoints = endpoints
        self._urls = frozenset(path.encode() for path in endpoints)
        self._core = core
        self._waiting: list[Plain] = []
        self._gathering = Gathering(lambda: len(self._waiting), enough=self._enough)
        self._alone = False
        """Whether the last one came alone."""
        self._begun = 0
        self._at_disk: set[int] = set()
        """Groups whose records are not on the disk yet, by their number."""

    def takes(self, url: bytes) -> bool:
        """Whether a ``POST`` there may be a plain prediction."""
        return url in self._urls

    def answer(self, turn: Turn, scope: Any, body: bytes) -> bool:
        """Begins to answer; ``False`` if the request is not plain, or the worker not ready."""
        core = self._core()
        if core is None or len(body) > LARGEST_BODY:
            return False
        exchange = Exchange(core, scope)
        exchange.read_headers()
        if exchange.wrong is not None:
            # The gateway tells it.
            return False
        if exchange.kind != b"application/json" or (core.ring.open and _passed_on(exchange)):
            return False
        endpoint = self._endpoints[scope["path"]]
        exchange.model = endpoint.model
        request = Plain(turn, exchange, endpoint, body)
        if request.enter():
            self._waiting.append(request)
            self._notice(core)
        return True

    def _notice(self, core: Core) -> None:
        """Somebody waits: at once, if nobody else is being answered, nor was the last time; else with others."""
        if self._gathering.under_way:
            return
        if self._alone and core.metrics.in_flight == 1:
            self._begin(core)
        elif not self._at_disk or self._enough():
            # One sync at a time: what is answered meanwhile would only wait for it, and tear groups apart.
            self._gathering.start(partial(self._begin, core))

    def _enough(self) -> bool:
        return len(self._waiting) >= TOGETHER

    def _begin(self, core: Core) -> None:
        # Not those whose time was up meanwhile.
        waiting = [each for each in self._waiting if not each.turn.response_complete]
        together, self._waiting = waiting[:TOGETHER], waiting[TOGETHER:]
        if not together:
            return
        self._alone = len(together) == 1
        self._gathering.began(len(together))
        self._begun += 1
        self._at_disk.add(self._begun)
        answer_together(core, together, partial(self._end, core, self._begun))
        if self._waiting:
            self._notice(core)

    def _end(self, core: Core, group: int) -> None:
        """A group has its answers."""
        self._at_disk.discard(group)
        if self._waiting:
            self._notice(core)


def _passed_on(exchange: Exchange) -> bool:
    """Whether a proxy told for whom it asks, which only uvicorn's middleware hears, and matters only without keys."""
    return not _PASSED_ON.isdisjoint(name for name, _ in exchange.scope["headers"])
