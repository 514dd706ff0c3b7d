"""The HTTP boundary: the one place where errors become answers, and the routes that BentoML has no decorator for."""

import logging
import re
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilotage.errors import InvalidRequest, PilotageError, UnknownModel

logger = logging.getLogger("bentoml.pilotage")

LARGEST_BODY = 64 * 1024
"""Bytes of a request; a single prediction needs about one thousand."""
_PREDICT = re.compile(r"/([^/]+)/predict")
_encoder = msgspec.json.Encoder()


def json_response(content: Any, status: int = 200) -> Response:
    """An answer as JSON; times in ISO 8601."""
    return Response(_encoder.encode(content), status_code=status, media_type="application/json")


def error_response(error: Exception, status: int | None = None) -> Response:
    """The answer for an error: its own status and words if it is one of ours, and nothing about the inside if not."""
    if isinstance(error, PilotageError):
        content = {
            "error": type(error).__name__,
            "message": error.message,
            "fix": error.fix,
            "field": error.details.get("field"),
        }
        if (code := status or error.http_status) >= 500:
            logger.error("%s: %s", type(error).__name__, error)
        return json_response(content, code)
    logger.exception("Unexpected error", exc_info=error)
    content = {
        "error": "InternalError",
        "message": "The prediction failed.",
        "fix": "Look at the service's log.",
        "field": None,
    }
    return json_response(content, 500)


def parse(raw: bytes) -> Any:
    """Decodes a request's JSON. Strict: no NaN, no infinity, no number that does not fit.

    Raises:
        InvalidRequest: It is no JSON.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", fix="Send one JSON object of fields.") from None


class Boundary:
    """ASGI middleware around BentoML's routes: lists the models, and turns away what no route should have to read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        models: tuple[str, ...],
        status: Callable[[], list[dict[str, object]]],
        page: Callable[[], dict[str, Any]],
    ) -> None:
        self._app = app
        self._models = models
        self._status = status
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        called = _PREDICT.fullmatch(scope["path"])
        if (answer := self._own(scope)) is None and called is not None:
            answer = self._refusal(called[1], scope)
            if answer is None:
                try:
                    body = await _read(receive)
                except ClientDisconnect:
                    return
                answer = _too_large() if body is None else None
                receive = _replay(body or b"", receive)
        await (answer or self._app)(scope, receive, send)

    def _own(self, scope: Scope) -> Response | None:
        """The routes that are answered here."""
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if scope["path"] == "/models":
            return json_response({"models": self._status()})
        return json_response(self._page()) if scope["path"] == "/docs.json" else None

    def _refusal(self, model: str, scope: Scope) -> Response | None:
        if model not in self._models:
            return error_response(
                UnknownModel(f"There is no model {model[:100]!r}.", fix=f"Use one of: {', '.join(self._models)}.")
            )
        if scope["method"] != "POST":
            answer = error_response(InvalidRequest(f"{scope['method']} predicts nothing.", fix="Send it by POST."), 405)
            answer.headers["Allow"] = "POST"
            return answer
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
        if kind != b"application/json":
            return error_response(
                InvalidRequest(
                    f"The body is {kind.decode('latin-1')[:100]!r}.", fix="Send it with Content-Type: application/json."
                ),
                415,
            )
        length = headers.get(b"content-length", b"0")
        return _too_large() if length.isdigit() and int(length) > LARGEST_BODY else None


async def _read(receive: Receive) -> bytes | None:
    """A request's body; ``None`` if it is too large, whatever its length was said to be.

    Raises:
        ClientDisconnect: The client left before it was whole.
    """
    body = bytearray()
    more = True
    while more and len(body) <= LARGEST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body) if len(body) <= LARGEST_BODY else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then whatever else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _too_large() -> Response:
    return error_response(
        InvalidRequest(f"The body has more than {LARGEST_BODY:,} bytes.", fix="Send one request at a time."), 413
    )
