"""Plain predictions that came together: answered step by step, each step for all of them.

A prediction runs through more code and data than the processor's first cache holds, so sixteen predictions one after
another fetch all of it sixteen times. Here each step does its work for all of them before the next one begins, and
what can be done once for all (to count them for their key, to ask the model, to commit) is. Nothing else is shared:
each request has its own answer, record and error.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from pilotage.errors import LogUnavailable
from pilotage.runtime.log import unavailable
from pilotage.runtime.scribe import Asked, Drafted
from serving import logs, reception
from serving.connections import Turn, header_lines
from serving.endpoints import Predict
from serving.exchange import Exchange
from serving.replies import encoded
from serving.watch import timed_out
from serving.worker import Core

_ANSWERED = b"content-type: application/json\r\nx-request-id: %b\r\n"


class Plain:
    """A request for one prediction, with all that there is of it."""

    __slots__ = ("body", "content", "drafted", "endpoint", "exchange", "turn")

    def __init__(self, turn: Turn, exchange: Exchange, endpoint: Predict, body: bytes) -> None:
        self.turn = turn
        self.exchange = exchange
        self.endpoint = endpoint
        self.body = body
        self.drafted: Drafted
        self.content: bytes | None = None
        """The answer as it is sent, once it is written."""

    def enter(self) -> bool:
        """Whether there is room for it; it was refused if not."""
        core = self.exchange.core
        try:
            self.exchange.patience = core.watch.enter(self._break_off, read=True)
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
        core.watch.leave(patience)
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
            self.content = encoded(self.drafted.answer)
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
        exchange = self.exchange
        try:
            reception.finish(exchange, self.endpoint.route)
            exchange.core.shadows.offer(self.drafted)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        """The others have nothing to do with it."""
        exchange = self.exchange
        logs.failure(error, status=500, request=exchange.request_id, model=exchange.model, what="prediction's end")

    def _break_off(self) -> None:
        """The disk took too long."""
        self.end(timed_out())


def answer_together(core: Core, requests: Sequence[Plain]) -> None:
    """Begins to answer requests that were entered; the rest follows when their records are on disk."""
    try:
        drafted = [each for one_model in _by_model(_admitted(core, requests)) for each in _drafted(core, one_model)]
        if drafted:
            _submit(core, drafted)
    except Exception as error:
        # A fault of ours. Nobody may wait for ever because of it.
        for each in requests:
            if not each.turn.response_complete:
                each.end(error)


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
    for each, error in zip(known, refused, strict=True):
        if error is not None:
            each.end(error)
    return [each for each, error in zip(known, refused, strict=True) if error is None]


def _by_model(requests: Sequence[Plain]) -> Iterable[list[Plain]]:
    models: dict[str, list[Plain]] = {}
    for each in requests:
        models.setdefault(each.endpoint.model, []).append(each)
    return models.values()


def _drafted(core: Core, requests: Sequence[Plain]) -> list[Plain]:
    """Those that got an answer, by one model."""
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
        return parsed
    drafts: Sequence[Drafted | Exception]
    try:
        drafts = core.responder.answer_each(parsed[0].endpoint.model, asked)
    except Exception as error:
        drafts = [error] * len(parsed)
    drafted: list[Plain] = []
    for each, draft in zip(parsed, drafts, strict=True):
        if isinstance(draft, Drafted):
            each.drafted = draft
            each.endpoint.has_decided(each.exchange)
            drafted.append(each)
        else:
            each.end(draft)
    return drafted


def _submit(core: Core, requests: Sequence[Plain]) -> None:
    try:
        core.log.submit_then(partial(_logged, core, requests), *[each.drafted.payload for each in requests])
    except LogUnavailable as error:
        _answer(core, requests, error)
        return
    # The disk takes longer than this.
    for each in requests:
        each.write()


def _logged(core: Core, requests: Sequence[Plain], reason: str | None) -> None:
    """Their records are on disk, or will not be."""
    # Not those that were told something already, as their time was up.
    left = [each for each in requests if not each.turn.response_complete]
    _answer(core, left, None if reason is None else unavailable(reason))


def _answer(core: Core, requests: Sequence[Plain], error: LogUnavailable | None) -> None:
    """Sends answers.

    Args:
        core: The worker's parts.
        requests: That were drafted.
        error: Why their records are not on disk, if they are not.
    """
    ready: list[tuple[Plain, bytes]] = []
    for each in requests:
        each.leave()
        answer, content = each.drafted.answer, each.content
        try:
            if error is not None:
                answer, content = core.unlogged(answer, error), None
            each.endpoint.end(each.exchange, each.drafted, answer)
            ready.append((each, content or encoded(answer)))
        except Exception as failure:
            each.refuse(failure)
    for each, content in ready:
        each.tell(content)
    # The clients have their answers; from here on nobody waits.
    for each, _ in ready:
        each.finish()


def _nothing() -> None:
    """It was left: there is nothing to break off any more."""
