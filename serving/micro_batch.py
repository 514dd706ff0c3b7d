"""Plain predictions that came together: answered step by step, each step for all of them.

A prediction runs through more code and data than the processor's first cache holds, so sixteen predictions one after
another fetch all of it sixteen times. Here each step does its work for all of them before the next one begins, and
what can be done once for all (to count them for their key, to ask the model, to commit) is. Nothing else is shared:
each request has its own answer, record and error.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

from pilotage.errors import LogUnavailable
from pilotage.runtime.answer import Answer
from pilotage.runtime.drafts import Asked, Drafted, DraftedRows
from pilotage.runtime.log import unavailable
from serving import logs, reception
from serving.connections import Turn, header_lines
from serving.endpoints import Predict
from serving.exchange import Exchange
from serving.in_flight import timed_out
from serving.replies import encoded
from serving.worker import Core

_ANSWERED = b"content-type: application/json\r\nx-request-id: %b\r\n"


class Plain:
    """A request for one prediction, with all that there is of it."""

    __slots__ = ("answer", "body", "content", "endpoint", "exchange", "prepared_ns", "turn")

    def __init__(self, turn: Turn, exchange: Exchange, endpoint: Predict, body: bytes) -> None:
        self.turn = turn
        self.exchange = exchange
        self.endpoint = endpoint
        self.body = body
        self.answer: Answer
        self.prepared_ns = 0
        """See ``Drafted``."""
        self.content: bytes | None = None
        """The answer as it is sent, once it is written."""

    def enter(self) -> bool:
        """Whether there is room for it; it was refused if not."""
        core = self.exchange.core
        try:
            self.exchange.patience = core.in_flight.enter(self._break_off, read=True)
        except Exception as error:
            self.refuse(error)
            return False
        core.metrics.in_flight += 1
        return True

    def end(self, error: Exception) -> None:
        """Gives up."""
        self.leave()
        self.refuse(error)

    def leave(self) -> None:
        """It needs no room any more."""
        core, patience = self.exchange.core, self.exchange.patience
        core.metrics.in_flight -= 1
        core.in_flight.leave(patience)
        # What refers to itself waits for the collector of garbage, which then stops everybody.
        patience.break_off = _nothing

    def refuse(self, error: Exception) -> None:
        """Answers an error."""
        reply = reception.refuse(self.exchange, self.endpoint, error)
        self.turn.reply(reply.status, header_lines(reply.headers), reply.body)
        reception.finish(self.exchange, self.endpoint.route)

    def write(self) -> None:
        """Writes its answer."""
        try:
            self.content = encoded(self.answer)
        except Exception:
            # It is tried again, and told, when it is to be sent.
            self.content = None

    def tell(self, content: bytes) -> None:
        """Sends its answer."""
        try:
            self.turn.reply(200, _ANSWERED % self.exchange.request_id.encode(), content)
        except Exception as error:
            self._report(error)

    def finish(self) -> None:
        """Does what is left to do when it has its answer."""
        try:
            reception.finish(self.exchange, self.endpoint.route)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        """The others have nothing to do with it."""
        exchange = self.exchange
        logs.failure(error, status=500, request=exchange.request_id, model=exchange.model, what="prediction's end")

    def _break_off(self) -> None:
        """The disk took too long."""
        self.end(timed_out())


class _Round(NamedTuple):
    """What came together, as its answers wait for their records to be on disk."""

    requests: list[Plain]
    """Without those that got an error."""
    payloads: list[bytes]
    """The records."""
    groups: list[Sequence[Drafted | Exception]]
    """What each model said."""
    over: Callable[[], object]
    """Called when they have their answers."""


def answer_together(core: Core, requests: Sequence[Plain], over: Callable[[], object]) -> None:
    """Begins to answer requests that were entered; the rest follows when their records are on disk.

    Args:
        core: The worker's parts.
        requests: That came together.
        over: Called when all have their answers, before this returns or later; after a fault of ours perhaps twice.
    """
    drafted = _Round([], [], [], over)
    try:
        for one_model in _by_model(_admitted(core, requests)):
            _draft(core, one_model, drafted)
        if drafted.requests:
            _submit(core, drafted)
        else:
            over()
    except Exception as error:
        # A fault of ours. Nobody may wait for ever because of it.
        for each in requests:
            if not each.turn.response_complete:
                each.end(error)
        over()


def _admitted(core: Core, requests: Sequence[Plain]) -> list[Plain]:
    """Those of somebody who may ask, and not too often."""
    known: list[Plain] = []
    for each in requests:
        try:
            reception.identify(each.exchange, each.endpoint.role)
        except Exception as error:
            each.end(error)
        else:
            known.append(each)
    refused = core.limiter.take_each([each.exchange.caller for each in known])
    for each, refusal in zip(known, refused, strict=True):
        if refusal is not None:
            each.end(refusal)
    return [each for each, refusal in zip(known, refused, strict=True) if refusal is None]


def _by_model(requests: Sequence[Plain]) -> Iterable[list[Plain]]:
    models: dict[str, list[Plain]] = {}
    for each in requests:
        models.setdefault(each.endpoint.model, []).append(each)
    return models.values()


def _draft(core: Core, requests: Sequence[Plain], drafted: _Round) -> None:
    """Has one model answer, and adds who got an answer."""
    parsed: list[Plain] = []
    asked: list[Asked] = []
    for each in requests:
        exchange = each.exchange
        try:
            fields = each.endpoint.parse(exchange, each.body)
        except Exception as error:
            each.end(error)
        else:
            parsed.append(each)
            asked.append(Asked(fields, exchange.request_id, exchange.caller.id, exchange.started))
    if not parsed:
        return
    try:
        many = core.responder.answer_each(parsed[0].endpoint.model, asked)
    except Exception as error:
        for each in parsed:
            each.end(error)
        return
    drafted.groups.append(many.results)
    drafted.payloads.extend(many.payloads)
    rows = many.results if type(many.results) is DraftedRows else None
    for each, result in zip(parsed, many.results if rows is None else rows.answers, strict=True):
        if isinstance(result, Drafted):
            each.answer, each.prepared_ns = result.answer, result.prepared_ns
        elif isinstance(result, Answer) and rows is not None:
            each.answer, each.prepared_ns = result, rows.prepared_ns
        else:
            each.end(cast("Exception", result))
            continue
        each.endpoint.has_decided(each.exchange)
        drafted.requests.append(each)


def _submit(core: Core, drafted: _Round) -> None:
    try:
        core.log.submit_then(partial(_logged, core, drafted), *drafted.payloads)
    except LogUnavailable as error:
        _answer(core, drafted, drafted.requests, error)
        drafted.over()
        return
    # The disk takes longer than this.
    for each in drafted.requests:
        each.write()


def _logged(core: Core, drafted: _Round, reason: str | None) -> None:
    """Their records are on disk, or will not be."""
    # Not those that were told something already, as their time was up.
    left = [each for each in drafted.requests if not each.turn.response_complete]
    try:
        _answer(core, drafted, left, None if reason is None else unavailable(reason))
    finally:
        drafted.over()


def _answer(core: Core, drafted: _Round, requests: Sequence[Plain], error: LogUnavailable | None) -> None:
    """Sends answers.

    Args:
        core: The worker's parts.
        drafted: What was drafted.
        requests: Those of it that wait.
        error: Why their records are not on disk, if they are not.
    """
    ready: list[tuple[Plain, bytes]] = []
    for each in requests:
        each.leave()
        answer, content = each.answer, each.content
        try:
            if error is not None:
                answer, content = core.unlogged(answer, error), None
            each.endpoint.end(each.exchange, answer, prepared_ns=each.prepared_ns)
            ready.append((each, content or encoded(answer)))
        except Exception as failure:
            each.refuse(failure)
    for each, content in ready:
        each.tell(content)
    # The clients have their answers; from here on nobody waits.
    for each, _ in ready:
        each.finish()
    for results in drafted.groups:
        core.shadows.offer_many(results)


def _nothing() -> None:
    """It was left: there is nothing to break off any more."""
