"""HTTP answers as ASGI messages, and the one place where errors become them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from starlette.types import Send

from pilotage.errors import InternalError, Overloaded, PilotageError, RateLimited, Unauthenticated
from serving import logs
from serving.protocols import Rendered, error_record

Headers = list[tuple[bytes, bytes]]


class Reply(NamedTuple):
    """An answer to be sent."""

    status: int
    headers: Headers
    """Without the length of the body."""
    body: bytes


_JSON_TYPE = (b"content-type", b"application/json")
_DEFECT = InternalError("The request failed.", fix="Look at the service's log.")
_BUSY_S = 1
"""Seconds after which a client that found the service busy may come again."""
_encode = msgspec.json.Encoder().encode


async def send_json(send: Send, body: bytes, request_id: bytes) -> None:
    """Sends an answer of status 200 that is JSON."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                _JSON_TYPE,
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_reply(
    send: Send, status: int, body: bytes, *, headers: Iterable[tuple[bytes, bytes]] = (_JSON_TYPE,)
) -> None:
    """Sends an answer."""
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def encoded(content: Any) -> bytes:
    """JSON; times in ISO 8601."""
    return _encode(content)


def as_told(error: BaseException) -> PilotageError:
    """An error as a client is told of it; of one that is none of ours, nothing about the inside."""
    return error if isinstance(error, PilotageError) else _DEFECT


def status_of(error: BaseException, status: int | None = None) -> int:
    """The HTTP status of an error."""
    return (status or error.http_status) if isinstance(error, PilotageError) else 500


def headers_of(error: BaseException, request_id: bytes) -> Headers:
    """The headers of an error's answer."""
    headers: Headers = [(b"x-request-id", request_id)]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, (RateLimited, Overloaded)):
        wait = error.details.get("retry_after_s")
        # Whole seconds, and never too early.
        seconds = int(wait) + 1 if isinstance(wait, (int, float)) else _BUSY_S
        headers.append((b"retry-after", b"%d" % seconds))
    return headers


def error_reply(
    error: BaseException,
    *,
    request_id: bytes,
    status: int | None = None,
    model: str | None = None,
    more: Iterable[tuple[bytes, bytes]] = (),
    rendered: Rendered | None = None,
) -> Reply:
    """The answer of an error; says in the log what is ours to mend.

    Args:
        error: What went wrong.
        request_id: Of the request.
        status: Another than the error's own.
        model: That was asked.
        more: Further headers.
        rendered: The error as the route's protocol tells it.
    """
    code = rendered.status if rendered is not None else status_of(error, status)
    logs.failure(error, status=code, request=request_id.decode("latin-1"), model=model)
    headers = [*headers_of(error, request_id), *more]
    if rendered is None:
        return Reply(code, [_JSON_TYPE, *headers], _encode(error_record(as_told(error))))
    written = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in rendered.headers]
    return Reply(code, [*written, *headers], rendered.body)
