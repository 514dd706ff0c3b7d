"""The routes that predict, and that take outcomes: from a body to an answer, by way of the responder and the log."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from pilotage.errors import InvalidRequest, LogUnavailable, PilotageError, RateLimited
from pilotage.runtime.access.caller import Role
from pilotage.runtime.answer import Answer
from pilotage.runtime.desk import Drafted
from pilotage.runtime.log import encode
from pilotage.spec import ModelSpec, RequestField
from serving import logs
from serving.exchange import Exchange
from serving.protocols import Codec, Rendered, error_record, json_answer, outcomes
from serving.replies import encoded, send_json, send_reply
from serving.worker import EXPLAINING, Core

LARGEST_BODY = 64 * 1024
"""Bytes of one request; a single prediction needs about one thousand."""
LARGEST_BATCH = 1024 * 1024
"""Bytes of many requests."""
_JSON = b"application/json"
_BINARY = (b"", b"application/octet-stream", b"application/vnd.mlflow+json")
"""What clients of the other protocols send, Triton's own among them; never what a page's form can."""
_AT_ONCE = 100
"""Rows of a batch that are answered before others get their turn: 2 ms."""
_decode = msgspec.json.Decoder().decode
_TRUTH = {"true": True, "1": True, "": True, "false": False, "0": False}


class Endpoint:
    """A route that takes a body."""

    role: Role = "predict"
    route: str
    """Its template, for metrics and traces."""
    json_only = True
    """Whether a body of another kind is refused."""
    counted = True
    """Whether a call counts as one request of its key; else the endpoint counts."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def answer(self, exchange: Exchange) -> None:
        """Answers. Errors are the gateway's to tell."""
        raise NotImplementedError

    def refuse(self, error: PilotageError, *, status: int | None = None) -> Rendered:
        """How this route tells an error."""
        return json_answer(error_record(error), status or error.http_status)


class Predict(Endpoint):
    """``POST /<model>/predict``: one request, as a JSON object of fields."""

    route = "/{model}/predict"

    async def answer(self, exchange: Exchange) -> None:
        """Answers one request."""
        core = exchange.core
        body = await exchange.body(LARGEST_BODY)
        explain = bool(exchange.scope["query_string"]) and _wants_explanation(exchange)
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"The body is not JSON: {error}.", fix="Send one JSON object of fields.") from None
        parsed = time.perf_counter_ns()
        drafted = core.responder.answer(self.model, request, request_id=exchange.request_id, caller=exchange.caller.id)
        decided = time.perf_counter_ns()
        waiting = decided
        if explain:
            await _explain(core, drafted)
            waiting = time.perf_counter_ns()
        answer = await core.settle(drafted)
        logged = time.perf_counter_ns()
        await send_json(exchange.send, encoded(answer), exchange.request_id.encode())
        started, prepared = exchange.started, drafted.prepared_ns or decided
        exchange.answer = answer
        exchange.seconds = seconds = (
            (parsed - started) * 1e-9,
            None,
            (prepared - parsed) * 1e-9,
            (decided - prepared) * 1e-9,
            (logged - waiting) * 1e-9,
            (time.perf_counter_ns() - started) * 1e-9,
        )
        core.metrics.answered(answer, seconds)
        core.shadows.offer(drafted)


class Many(Endpoint):
    """A route that takes many rows, in the form of a codec."""

    json_only = False
    counted = False

    def __init__(self, model: str, codec: Codec, route: str, *, version: str | None = None) -> None:
        super().__init__(model)
        self.route = route
        self._codec = codec
        self._version = version

    async def answer(self, exchange: Exchange) -> None:
        """Answers all rows."""
        core, model = exchange.core, self.model
        body = await exchange.body(LARGEST_BATCH)
        spec = core.specs[model]
        parsed = self._codec.parse(
            body, exchange.headers(), request_fields(core, model), largest=spec.serving.largest_batch
        )
        core.limiter.take(exchange.caller, cost=len(parsed.rows))
        results = await _answer_rows(core, model, parsed.rows, exchange, whole=parsed.whole)
        board = core.follower.boards.get(model)
        version = board.champion.version if board is not None and board.champion is not None else None
        rendered = self._codec.render(parsed, results, model=model, version=version)
        exchange.status = rendered.status
        await send_rendered(exchange, rendered)

    def refuse(self, error: PilotageError, *, status: int | None = None) -> Rendered:
        """In the protocol's form."""
        return self._codec.refuse(error, status=status)


class Outcomes(Endpoint):
    """``POST /<model>/outcomes``: what became of what was predicted."""

    role: Role = "outcomes"
    route = "/{model}/outcomes"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.name)
        self._entity = [field for field in spec.request if field.name in spec.entity]

    async def answer(self, exchange: Exchange) -> None:
        """Puts the outcomes on the disk, all or none."""
        core = exchange.core
        body = await exchange.body(LARGEST_BATCH)
        records = outcomes.parse(
            body,
            model=self.model,
            entity=self._entity,
            caller=exchange.caller.id,
            now=datetime.now(UTC),
            protect=core.responder.desks[self.model].protect,
        )
        await core.log.submit(*(encode(record) for record in records))
        core.metrics.took_outcomes(self.model, len(records))
        rendered = outcomes.render(records)
        exchange.status = rendered.status
        await send_rendered(exchange, rendered)


def request_fields(core: Core, model: str) -> Mapping[str, RequestField]:
    """The fields of the version that answers; of the spec, if there is none."""
    board = core.follower.boards.get(model)
    answering = (board.champion or board.previous) if board is not None else None
    if answering is not None:
        return answering.predictor.contract.fields
    return {field.name: field for field in core.specs[model].request}


async def send_rendered(exchange: Exchange, rendered: Rendered) -> None:
    """Sends what a codec wrote."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in rendered.headers]
    headers.append((b"x-request-id", exchange.request_id.encode()))
    await send_reply(exchange.send, rendered.status, rendered.body, headers=headers)


def takes(endpoint: Endpoint, kind: bytes) -> bool:
    """Whether a route takes a body of a ``Content-Type``."""
    if kind == _JSON:
        return True
    plain = kind.split(b";", 1)[0].strip().lower()
    return plain == _JSON or (not endpoint.json_only and plain in _BINARY)


def _wants_explanation(exchange: Exchange) -> bool:
    value = exchange.query("explain").get("explain", "false")
    if value.lower() not in _TRUTH:
        raise InvalidRequest(f"explain={value[:20]!r} is neither true nor false.", fix="Send ?explain=true.")
    return _TRUTH[value.lower()]


async def _explain(core: Core, drafted: Drafted) -> None:
    """Adds the explanation to an answer.

    Raises:
        RateLimited: Enough of them are being computed already.
    """
    if core.explaining >= EXPLAINING:
        raise RateLimited(
            f"{EXPLAINING} explanations are being computed already.",
            fix="Come again in a second, or ask without explain.",
            retry_after_s=0,
        )
    core.explaining += 1
    answer = drafted.answer
    try:
        explanation = await core.explanation(drafted)
    except Exception as error:
        # The answer is right all the same.
        logs.failure(error, status=500, request=drafted.asked.request_id, model=answer.model, what="explanation")
        told = (*answer.reasons, "no explanation could be computed")
        drafted.answer = msgspec.structs.replace(answer, reasons=told)
        return
    finally:
        core.explaining -= 1
    if explanation is not None:
        core.metrics.explained(answer.model)
        drafted.answer = msgspec.structs.replace(answer, explanation=explanation)


async def _answer_rows(
    core: Core, model: str, rows: Sequence[object], exchange: Exchange, *, whole: bool
) -> list[Answer | PilotageError]:
    """Answers rows, each with its own answer or error, all on the disk with one commit."""
    started = exchange.started
    drafts: list[Drafted | PilotageError] = []
    for first in range(0, len(rows), _AT_ONCE):
        if first:
            # Others wait for the loop as well.
            await asyncio.sleep(0)
        drafts += core.responder.answer_many(
            model, rows[first : first + _AT_ONCE], request_id=exchange.request_id, caller=exchange.caller.id
        )
    drafted = [each for each in drafts if isinstance(each, Drafted)]
    for each in drafts:
        if isinstance(each, PilotageError):
            core.metrics.failed(model, each)
    if whole and len(drafted) < len(drafts):
        return [each.answer if isinstance(each, Drafted) else each for each in drafts]
    lost: PilotageError | None = None
    if drafted:
        try:
            await core.log.submit(*(each.payload for each in drafted))
        except LogUnavailable as error:
            lost = error
    answers: list[Answer | PilotageError] = []
    spent = (time.perf_counter_ns() - started) * 1e-9
    for each in drafts:
        if isinstance(each, Drafted):
            answer = each.answer if lost is None else core.unlogged(each.answer, lost)
            core.metrics.answered(answer, (None, None, None, None, None, spent))
            core.shadows.offer(each)
            answers.append(answer)
        else:
            answers.append(each)
    return answers
