"""Single predictions on the shorter way: from the bytes of a request to those of its answer without a task.

The same steps as by way of the gateway, in the same order and by the same functions; all up to the log is done at
once, and the rest when the record is on disk. A request that is anything else than plain (another content type, a
query, an id of the client's) is left to the gateway, and so is every other route.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pilotage.errors import LogUnavailable
from pilotage.runtime.log import unavailable
from pilotage.runtime.scribe import Drafted
from serving import reception
from serving.connections import Turn, header_lines
from serving.endpoints import LARGEST_BODY, Predict
from serving.exchange import Exchange
from serving.replies import encoded
from serving.watch import timed_out
from serving.worker import Core

_PASSED_ON = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))
_ANSWERED = b"content-type: application/json\r\nx-request-id: %b\r\n"


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
        _Prediction(turn, exchange, endpoint).begin(body)
        return True


class _Prediction:
    """One that is being answered."""

    __slots__ = ("_drafted", "_endpoint", "_exchange", "_turn")

    def __init__(self, turn: Turn, exchange: Exchange, endpoint: Predict) -> None:
        self._turn = turn
        self._exchange = exchange
        self._endpoint = endpoint
        self._drafted: Drafted

    def begin(self, body: bytes) -> None:
        """Does all up to the log."""
        exchange = self._exchange
        core = exchange.core
        try:
            exchange.patience = core.watch.enter(_nothing)
        except Exception as error:
            self._refuse(error)
            return
        core.metrics.in_flight += 1
        try:
            reception.admit(exchange, self._endpoint.role)
            core.watch.has_read(exchange.patience)
            self._drafted = self._endpoint.begin(exchange, body)
            core.log.submit_then(self._logged, self._drafted.payload)
        except LogUnavailable as error:
            self._end(error)
        except Exception as error:
            self._leave()
            self._refuse(error)
        else:
            exchange.patience.break_off = self._break_off

    def _break_off(self) -> None:
        """The disk took too long."""
        self._leave()
        self._refuse(timed_out())

    def _logged(self, reason: str | None) -> None:
        """The record is on disk, or will not be."""
        if not self._exchange.patience.over:
            self._end(None if reason is None else unavailable(reason))

    def _end(self, error: LogUnavailable | None) -> None:
        """Answers.

        Args:
            error: Why the record is not on disk, if it is not.
        """
        exchange, endpoint, drafted = self._exchange, self._endpoint, self._drafted
        answer = drafted.answer
        self._leave()
        try:
            if error is not None:
                answer = exchange.core.unlogged(answer, error)
            endpoint.end(exchange, drafted, answer)
            content = encoded(answer)
        except Exception as failure:
            self._refuse(failure)
            return
        self._turn.reply(200, _ANSWERED % exchange.request_id.encode(), content)
        reception.finish(exchange, endpoint.route)
        # The client has its answer; from here on nobody waits.
        exchange.core.shadows.offer(drafted)

    def _refuse(self, error: Exception) -> None:
        reply = reception.refuse(self._exchange, self._endpoint, error)
        self._turn.reply(reply.status, header_lines(reply.headers), reply.body)
        reception.finish(self._exchange, self._endpoint.route)

    def _leave(self) -> None:
        core, patience = self._exchange.core, self._exchange.patience
        core.metrics.in_flight -= 1
        core.watch.leave(patience)
        # What refers to itself waits for the collector of garbage, which then stops everybody.
        patience.break_off = _nothing


def _passed_on(exchange: Exchange) -> bool:
    """Whether a proxy told for whom it asks, which only uvicorn's middleware hears, and matters only without keys."""
    return not _PASSED_ON.isdisjoint(name for name, _ in exchange.scope["headers"])


def _nothing() -> None:
    """There is nothing to break off yet: what comes first takes no time."""
