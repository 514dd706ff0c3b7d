"""One HTTP request, as the endpoints see it: who asks, what was sent, and how the answer gets out."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from pilotage.errors import InvalidRequest, RequestTooLarge
from pilotage.runtime.access.caller import Caller
from pilotage.runtime.answer import Answer
from serving.in_flight import Patience

if TYPE_CHECKING:
    from serving.worker import Core

LONGEST_ID = 100
"""Characters of a request id."""
_MOST_DIGITS = 20
"""Of a length. The parser takes any number of zeros, and Python no number of so many digits."""
_ID_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/=+@,~|#")


class Disconnected(ConnectionError):
    """The client left before its request was whole."""


class MalformedHead(InvalidRequest):
    """The head of a request can't be read."""

    http_status = 400


class CodedBody(InvalidRequest):
    """The body is compressed, or coded in another way that nobody here undoes."""

    http_status = 415


class Head(NamedTuple):
    """What is needed of a request's headers."""

    kind: bytes
    """``Content-Type``, as sent."""
    length: int
    """``Content-Length``; 0 if there is none, -1 if it has too many digits."""
    chosen_id: bytes | None
    """``X-Request-Id``."""
    traceparent: bytes | None
    coding: bytes | None
    """``Content-Encoding``, or ``Transfer-Encoding``, if the body is another one because of it."""


_PLAIN = {b"content-encoding": b"identity", b"transfer-encoding": b"chunked"}
"""How a body may be coded, by the header that says so."""
HEAD = "pilotage.head"
"""Where it is in a scope, if it was read before."""


def head_of(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Reads headers, as ASGI has them."""
    kind, length, chosen, traceparent, coding = b"", 0, None, None, None
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = -1 if len(value) > _MOST_DIGITS else int(value) if value.isdigit() else 0
        elif name == b"x-request-id":
            chosen = value
        elif name == b"traceparent":
            traceparent = value
        elif name in _PLAIN and value.strip().lower() != _PLAIN[name]:
            coding = value
    return Head(kind, length, chosen, traceparent, coding)


class Exchange:
    """A request that is being answered."""

    __slots__ = (
        "answer",
        "caller",
        "chose_id",
        "committed",
        "core",
        "decided",
        "error",
        "kind",
        "length",
        "model",
        "parsed",
        "patience",
        "receive",
        "request_id",
        "scope",
        "seconds",
        "send",
        "started",
        "status",
        "traceparent",
        "waiting",
        "wrong",
    )

    def __init__(self, core: "Core", scope: Scope, receive: Receive | None = None, send: Send | None = None) -> None:
        """Begins.

        Args:
            core: The worker's parts.
            scope: ASGI's.
            receive: ASGI's; ``None`` if the body is there already.
            send: ASGI's; ``None`` if somebody else sends the answer.
        """
        self.core = core
        self.scope = scope
        self.receive = receive or _absent
        self.send = send or _absent
        self.started = time.perf_counter_ns()
        self.parsed = self.decided = self.waiting = 0
        """When the body was parsed, the answer decided, and the log begun to be waited for."""
        self.request_id: str = ""
        """The client's, or ours."""
        self.chose_id = False
        """Whether it is the client's."""
        self.kind = b""
        """``Content-Type``, as sent."""
        self.length = 0
        self.traceparent: bytes | None = None
        self.wrong: InvalidRequest | None = None
        """What is wrong with the headers; told to who may ask."""
        self.committed: Sequence[bytes] = ()
        """Records of its predictions that are in the log."""
        self.caller: Caller
        self.patience: Patience
        self.model: str | None = None
        self.status = 200
        self.answer: Answer | None = None
        self.seconds: tuple[float, ...] | None = None
        """What each phase took."""
        self.error: str | None = None

    def read_headers(self) -> None:
        """Takes what is needed of the headers; ``check_headers`` comes once it is known who asks."""
        head = self.scope.get(HEAD) or head_of(self.scope["headers"])
        self.kind, self.length, chosen, self.traceparent, coding = head
        if chosen is None:
            self.request_id = self.core.responder.ids()
        elif 0 < len(chosen) <= LONGEST_ID and _ID_CHARACTERS.issuperset(chosen):
            self.request_id, self.chose_id = chosen.decode("ascii"), True
        else:
            self.request_id = self.core.responder.ids()
            self.wrong = InvalidRequest(
                f"X-Request-Id has more than {LONGEST_ID} characters, or others than letters, digits and punctuation.",
                fix="Send a UUID, or leave it out.",
                field="X-Request-Id",
            )
        if self.length < 0:
            self.wrong = MalformedHead(
                f"Content-Length has more than {_MOST_DIGITS} digits.", fix="Send it without zeros before the number."
            )
        if coding is not None:
            self.wrong = CodedBody(f"The body is coded: {coding.decode('latin-1')[:100]!r}.", fix="Send it as it is.")

    def check_headers(self) -> None:
        """Refuses headers that can't be used.

        Raises:
            InvalidRequest: The request id is none.
            MalformedHead: The length is none.
            CodedBody: The body is compressed.
        """
        if self.wrong is not None:
            raise self.wrong

    def headers(self) -> dict[str, str]:
        """The headers by name, lower case."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    def query(self, *known: str) -> dict[str, str]:
        """The query's parameters.

        Raises:
            InvalidRequest: One is not known.
        """
        found = dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if unknown := found.keys() - set(known):
            name = min(unknown)[:100]
            raise InvalidRequest(
                f"There is no parameter {name!r}.",
                fix=f"Use only: {', '.join(known)}." if known else "Leave it out; there is none here.",
                field=name,
            )
        return found

    async def body(self, largest: int) -> bytes:
        """Reads the body.

        Raises:
            RequestTooLarge: It has more bytes than that, whatever was announced.
            Disconnected: The client left.
        """
        if self.length > largest:
            raise _too_large(largest)
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            parts = bytearray(body)
            while len(parts) <= largest:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                parts += message.get("body", b"")
                if not message.get("more_body", False):
                    break
            body = bytes(parts)
        if len(body) > largest:
            raise _too_large(largest)
        self.core.in_flight.has_read(self.patience)
        return body


async def _absent(*_: object) -> Any:
    raise RuntimeError("This request is not ASGI's.")


def _too_large(largest: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body has more than {largest:,} bytes.", fix="Send less at a time.", largest=largest)
