"""The routes that predict, and that take outcomes: from a body to an answer, by way of the responder and the log."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from pilotage.errors import InvalidRequest, PilotageError, RateLimited
from pilotage.runtime.access.caller import Role
from pilotage.runtime.answer import Answer, PredictionRecord
from pilotage.runtime.drafts import Drafted
from pilotage.runtime.log import encode
from pilotage.spec import ModelSpec, RequestField
from serving import logs
from serving.exchange import Exchange
from serving.idempotency import once
from serving.protocols import Codec, Rendered, error_record, json_answer, oip, outcomes
from serving.replies import encoded, send_json, send_reply
from serving.rows import answer_rows, repeat_rows
from serving.worker import EXPLAINING, Core

LARGEST_BODY = 64 * 1024
"""Bytes of one request; a single prediction needs about one thousand."""
LARGEST_BATCH = 1024 * 1024
"""Bytes of many requests."""
_JSON = b"application/json"
_BINARY = (b"", b"application/octet-stream", b"application/vnd.mlflow+json")
"""What clients of the other protocols send, Triton's own among them; never what a page's form can."""
_decode = msgspec.json.Decoder().decode
_TRUTH = {"true": True, "1": True, "": True, "false": False, "0": False}


class Endpoint:
    """A route that takes a body."""

    role: Role = "predict"
    route: str
    """Its template, for metrics and traces."""
    json_only = True
    """Whether a body of another kind is refused."""

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
        body = await exchange.body(LARGEST_BODY)
        if exchange.chose_id:
            await send_rendered(exchange, await once(exchange, self, body))
            return
        drafted = await self._predict(exchange, body)
        await send_json(exchange.send, encoded(drafted.answer), exchange.request_id.encode())
        # The client has its answer; from here on nobody waits.
        exchange.core.shadows.offer(drafted)

    async def reply(self, exchange: Exchange, body: bytes, logged: Sequence[PredictionRecord] | None) -> Rendered:
        """Answers one request with an id."""
        if logged:
            # There are more where one came to the disk although its worker had given it up: each answers this request.
            record = logged[0]
            return json_answer(exchange.core.responder.desks[self.model].writer.repeat(record, _decoded(body)))
        drafted = await self._predict(exchange, body)
        exchange.core.shadows.offer(drafted)
        return json_answer(drafted.answer)

    def begin(self, exchange: Exchange, body: bytes) -> Drafted:
        """The answer of one request, which waits for its record to be on disk.

        Raises:
            PilotageError: There is none.
        """
        request = self.parse(exchange, body)
        drafted = exchange.core.responder.answer(
            self.model, request, request_id=exchange.request_id, caller=exchange.caller.id
        )
        self.has_decided(exchange)
        return drafted

    def parse(self, exchange: Exchange, body: bytes) -> Any:
        """The fields of one request.

        Raises:
            InvalidRequest: It is not JSON.
        """
        request = _decoded(body)
        exchange.parsed = time.perf_counter_ns()
        return request

    def has_decided(self, exchange: Exchange) -> None:
        """Takes note that the answer is there, and that it waits for the log."""
        exchange.decided = exchange.waiting = time.perf_counter_ns()

    def end(self, exchange: Exchange, answer: Answer, *, prepared_ns: int) -> None:
        """Takes note of the answer as it leaves, and of what it took.

        Args:
            exchange: The request.
            answer: As it is sent.
            prepared_ns: See ``Drafted``.
        """
        logged = time.perf_counter_ns()
        exchange.answer = answer
        started, parsed, decided = exchange.started, exchange.parsed, exchange.decided
        prepared = prepared_ns or decided
        exchange.seconds = seconds = (
            (parsed - started) * 1e-9,
            (prepared - parsed) * 1e-9,
            (decided - prepared) * 1e-9,
            (logged - exchange.waiting) * 1e-9,
            (logged - started) * 1e-9,
        )
        exchange.core.metrics.answered(answer, seconds)

    async def _predict(self, exchange: Exchange, body: bytes) -> Drafted:
        explain = bool(exchange.scope["query_string"]) and _wants_explanation(exchange)
        drafted = self.begin(exchange, body)
        if explain:
            await _explain(exchange.core, drafted)
            exchange.waiting = time.perf_counter_ns()
        drafted.answer = await exchange.core.settle(drafted)
        if drafted.answer.logged:
            exchange.committed = (drafted.payload,)
        self.end(exchange, drafted.answer, prepared_ns=drafted.prepared_ns)
        return drafted


class Many(Endpoint):
    """A route that takes many rows, in the form of a codec."""

    json_only = False

    def __init__(self, model: str, codec: Codec, route: str, *, largest: int, version: str | None = None) -> None:
        super().__init__(model)
        self.route = route
        self._version = version
        self._codec = codec
        self._largest = largest

    async def answer(self, exchange: Exchange) -> None:
        """Answers all rows."""
        body = await exchange.body(LARGEST_BATCH)
        rendered = await (once(exchange, self, body) if exchange.chose_id else self.reply(exchange, body, None))
        exchange.status = rendered.status
        await send_rendered(exchange, rendered)

    async def reply(self, exchange: Exchange, body: bytes, logged: Sequence[PredictionRecord] | None) -> Rendered:
        """The answer of all rows, in the protocol's form."""
        core, model = exchange.core, self.model
        fields = request_fields(core, model, self._version)
        parsed = self._codec.parse(body, exchange.headers(), fields, largest=self._largest)
        # The gateway counted one request before anything was read.
        core.limiter.take(exchange.caller, cost=max(len(parsed.rows), 1), paid=1)
        board = core.follower.boards.get(model)
        if logged is None:
            number = None if self._version is None else version_named(core, model, self._version)
            results = await answer_rows(exchange, model, parsed.rows, whole=parsed.whole, version=number)
        else:
            results = await repeat_rows(exchange, model, parsed.rows, logged)
        version = board.champion.version if board is not None and board.champion is not None else None
        return self._codec.render(parsed, results, model=model, version=version)

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
        writer = core.responder.desks[self.model].writer
        records = outcomes.parse(
            body,
            model=self.model,
            entity=self._entity,
            caller=exchange.caller.id,
            now=datetime.now(UTC),
            protect=partial(writer.protect, board=core.follower.boards.get(self.model)),
        )
        await core.log.submit(*(encode(record) for record in records))
        core.metrics.took_outcomes(self.model, len(records))
        rendered = outcomes.render(records)
        exchange.status = rendered.status
        await send_rendered(exchange, rendered)


def request_fields(core: Core, model: str, asked: str | None = None) -> Mapping[str, RequestField]:
    """The fields of the version that an address names, else of the one that answers; of the spec, if there is none."""
    board = core.follower.boards.get(model)
    answering = (board.champion or board.previous) if board is not None else None
    if board is not None and board.canary is not None and str(board.canary.loaded.version) == asked:
        answering = board.canary.loaded
    if answering is not None:
        return answering.predictor.contract.fields
    return {field.name: field for field in core.specs[model].request}


def versions(core: Core, model: str) -> list[int]:
    """The versions of a model that answer now."""
    board = core.follower.boards.get(model)
    if board is None:
        return []
    canary = board.canary.loaded if board.canary else None
    return [each.version for each in (board.champion, canary) if each is not None]


def version_named(core: Core, model: str, asked: str) -> int | None:
    """The version that an address names; ``None`` while the model is killed: its rule answers, whoever is asked.

    Raises:
        UnknownModel: It names none, or one that is not served.
    """
    board = core.follower.boards.get(model)
    if board is not None and board.killed is not None and oip.VERSION.fullmatch(asked):
        return None
    return oip.check_version(model, asked, versions(core, model))


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


def _decoded(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", fix="Send one JSON object of fields.") from None
