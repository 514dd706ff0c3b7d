"""Connections: uvicorn's, with bounds for clients that do not end, and a shorter way for plain requests.

uvicorn waits for a head as long as its client likes, and keeps all of it: a few thousand connections that send a byte
now and then take all file descriptors of a worker, and one that never stops sending headers takes its memory. From the
head's end on, ``in_flight.py`` and the exchange have the time and the size, until there is an answer; but for the
trailers of a body in chunks, which uvicorn keeps as well. With the answer it is the connection again: for a body that
still comes though nobody reads it, and for a client that does not read.

A plain request that came whole, or nearly at once, need not be one of ASGI's, with a task, four messages and a timer: a
quarter of the time of a prediction. Which are plain, ``express.py`` says; whatever is unusual goes the ordinary way.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from serving.known_heads import KnownHead, known_head_of
from serving.reading import LARGEST_HEAD, ReadingProtocol

HEAD_S = 10.0
"""Seconds that a client gets to send a head, or to begin with one; for the rest of a body that has its answer; and to
read on. Twice that at most, as nobody counts each."""
LARGEST_CHUNKED = 16 * 1024 * 1024
"""Bytes that a body in chunks may take with its framing and its trailers, whoever reads it; the largest that any route
takes has one million, and six times that in chunks of one."""
HELD_S = 0.05
"""Seconds for which a plain request may be incomplete, twice that at most: many clients send head and body apart."""
MOST_HELD = 64 * 1024
"""Bytes of its body until then."""
_FIRST = object()
_ENDING = object()


class Express(Protocol):
    """Answers plain requests."""

    def takes(self, url: bytes) -> bool:
        """Whether a ``POST`` there may be one of its."""

    def answer(self, turn: "Turn", scope: Any, body: bytes) -> bool:
        """Begins to answer a request, by ``turn.reply``; ``False`` if it is none of its, and nothing was done.

        Args:
            turn: Its own.
            scope: ASGI's, with all but ``raw_path``.
            body: Its body.
        """


def use_connections(express: Express | None) -> None:
    """Lets uvicorn make such connections from now on. BentoML has no setting for it; uvicorn's table is public."""
    Connection.express = express
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Connection"


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent, each with its end."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class Turn:
    """A connection's request that is no cycle of ASGI's, though uvicorn takes it for one."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "message_event", "response_complete")

    more_body = False
    """It came whole."""

    def __init__(self, connection: "Connection", *, keep_alive: bool, never: asyncio.Event) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self.message_event = never
        """Nobody waits for it."""
        self.disconnected = False
        self.response_complete = False

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Answers. Call it once, in the loop's thread.

        Args:
            status: HTTP's.
            headers: Of ``header_lines``, without the length of the body.
            body: The body.
        """
        self.response_complete = True
        self._connection.write_reply(self, status, headers, body)


class Connection(ReadingProtocol):
    """See above. A timer for heads, one for idleness, and one for what is held; none for a request."""

    express: Express | None = None
    """Of this process."""
    _said: object = None
    """The server's headers, as ``_lines`` has them."""
    _lines = b""

    _head = -1
    """Bytes of a head after the first piece; -1 between heads."""
    _chunked: object = None
    """The request whose body comes in chunks."""
    _chunks = 0
    """Bytes that came of it."""
    _resumed = 0
    """How often the client read on, after what is written had to wait for it."""
    _seen: object = None
    """What was due when the timer last looked."""
    _timer: asyncio.TimerHandle | None = None
    _held: list[bytes] | None = None
    """The body so far of a request that may go the shorter way."""
    _known_head: KnownHead | None = None
    """The head that its requests have."""
    _lessons = 4
    """Heads that are still learned: a client that sends another one each time is not worth it."""
    _holding: asyncio.TimerHandle | None = None
    """Looks whether it came."""
    _idle_since: float | None = None
    """When the last answer was given, by the loop's clock; ``None`` since data came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look."""
        super().connection_made(transport)
        self._never = asyncio.Event()
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends it."""
        for timer in (self._timer, self._holding, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        self._held = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes of a head, or of a body in chunks, that goes on."""
        before: Any = self.cycle
        between = self._held is None and type(before) is Turn and before.response_complete and not self._waits()
        if between and self._known_head is not None and self._answer_again(self._known_head, data):
            return
        scope = self.scope
        self._idle_since = None
        self._perhaps_long = self._head >= 0 or len(data) > LARGEST_HEAD
        self.read(data)
        now: Any = self.cycle
        if between and self._lessons and type(now) is Turn and now is not before:
            self._lessons -= 1
            self._known_head = known_head_of(data, self.scope)
        if self._held is not None:
            self._hold_on(self._held)
        if not self._waits():
            self._head = -1
            if self._chunked is self.scope:
                self._chunks += len(data)
                if self._chunks > LARGEST_CHUNKED:
                    self.transport.close()
        elif self._head < 0 or self.scope is not scope:
            # This piece may have had the end of a request before it.
            self._head = 0
        elif (head := self._head + len(data)) <= LARGEST_HEAD:
            self._head = head
        else:
            self.end(431)

    def _answer_again(self, known: KnownHead, data: bytes) -> bool:
        """Answers a request that came whole with a head that is known; ``False`` if it is anything else."""
        body = known.read(data)
        if body is None or self.express is None or self.flow.write_paused:
            return False
        self.scope = known.scope  # type: ignore[assignment]
        self._unset_keepalive_if_required()
        # A head that ends the connection is not known to it afterwards.
        turn = Turn(self, keep_alive=True, never=self._never)
        before, self.cycle = self.cycle, turn  # type: ignore[assignment]
        if self.express.answer(turn, self.scope, body):
            return True
        self.cycle = before
        return False

    def resume_writing(self) -> None:
        """Counts it."""
        self._resumed += 1
        super().resume_writing()

    def shutdown(self) -> None:
        """Ends after the request that is under way."""
        if self._held is not None:
            self._go_the_ordinary_way()
        super().shutdown()

    def on_headers_complete(self) -> None:
        """Begins a cycle of ASGI's, or waits for the body first."""
        parser, cycle, express = self.parser, self.cycle, self.express
        if (
            express is None
            or self._unusual
            or self._hosts != 1
            or (self._perhaps_long and self._is_long())
            or self.root_path
            or not express.takes(self.url)
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or self.flow.write_paused
            or not (cycle is None or cycle.response_complete)
        ):
            super().on_headers_complete()
            return
        self.scope["method"] = "POST"
        self.scope["path"] = self.url.decode("ascii")
        self.scope["query_string"] = b""
        self._held = []

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        """Answers, or has the cycle know that all is there."""
        if self._held is not None:
            held = self._held
            turn = Turn(self, keep_alive=self.parser.should_keep_alive(), never=self._never)
            before, self.cycle = self.cycle, turn  # type: ignore[assignment]
            if self.express is not None and self.express.answer(turn, self.scope, b"".join(held)):
                self._held = None
                return
            self.cycle = before
            self._go_the_ordinary_way()
            if self.transport.is_closing():
                return
        super().on_message_complete()

    def write_reply(self, turn: Turn, status: int, headers: bytes, body: bytes) -> None:
        """For the turn alone."""
        if self.transport.is_closing():
            return
        end = b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n"
        length = b"content-length: %d\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], self._own_headers(), headers, length, end, body)))
        if not turn.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Goes on with the next request, or begins to be idle."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_when_idle(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Closes what was idle for so long. uvicorn sets a timer anew with each answer."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            super().timeout_keep_alive_handler()
        else:
            self._close_when_idle(left)

    def on_chunk_header(self) -> None:
        """Notes that there are chunks; httptools calls it for each."""
        if self._chunked is not self.scope:
            self._chunked, self._chunks = self.scope, 0

    def _own_headers(self) -> bytes:
        """Those of the server, as lines."""
        said = self.server_state.default_headers
        if said is not Connection._said:
            # The date is another one each second.
            Connection._said, Connection._lines = said, header_lines(said)
        return Connection._lines

    def _close_when_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _hold_on(self, held: list[bytes]) -> None:
        """More is to come of a request, for which there is little time and room."""
        if sum(map(len, held)) > MOST_HELD:
            self._go_the_ordinary_way()
        elif self._holding is None:
            # It is not taken back when the rest comes, but finds another request, or none.
            self._holding = self.loop.call_later(HELD_S, self._held_for_long, held)

    def _held_for_long(self, held: list[bytes]) -> None:
        self._holding = None
        if self._held is held:
            self._go_the_ordinary_way()
        elif self._held is not None:
            self._hold_on(self._held)

    def _go_the_ordinary_way(self) -> None:
        """Makes a cycle of ASGI's, after all, of what was held."""
        held, self._held = self._held, None
        if self.transport.is_closing():
            return
        super().on_headers_complete()
        for part in held or ():
            super().on_body(part)

    def _waits(self) -> bool:
        """Whether a head is due: none began yet, or it has not ended. uvicorn notes the method when it has."""
        return self.scope is None or "method" not in self.scope

    def _due(self) -> object:
        """What the client owes; ``None`` for nothing."""
        cycle = self.cycle
        if self.transport.is_closing():
            return _ENDING
        if self.flow.write_paused:
            # The same as long as nothing is read.
            return self._resumed, self.transport.get_write_buffer_size()
        if cycle is not None and not cycle.response_complete:
            return None
        if self._waits():
            return self.scope or _FIRST
        return cycle if cycle is not None and cycle.more_body else None

    def _look(self) -> None:
        due, seen = self._due(), self._seen
        unread = isinstance(due, tuple) and due == seen
        if due is None or not (due is seen or unread):
            self._seen = due
        elif unread or due is _ENDING:
            self.transport.abort()
            return
        elif self._waits():
            self.end(408)
        else:
            self.transport.close()
        self._timer = self.loop.call_later(HEAD_S, self._look)


def hang_up(send: object) -> bool:
    """Ends the connection of a request that can't be answered any more, as its answer has begun or nobody reads it.

    Args:
        send: ASGI's.

    Returns:
        Whether it did.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not (cycle.response_started or cycle.flow.write_paused):
        return False
    cycle.disconnected = True
    cycle.transport.abort()
    return True
