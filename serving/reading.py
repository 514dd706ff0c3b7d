"""Requests as uvicorn's connection reads them, with what it leaves open: offers, and what is no request.

httptools takes no body of a request that offers another protocol (``Upgrade``), for the bytes after its head are then
in that protocol; uvicorn goes on in HTTP, so that they would be the next request, whoever wrote them. No offer is
accepted here: such a request is read again without it, and answered as if it had made none.

What is no request ends the connection, as does a client that says that it asks no more: after the answers to what was
asked before it, with a refusal where there is nothing else to answer, and without a line in the log.
"""

from typing import Any

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving import logs

LARGEST_HEAD = 64 * 1024
"""Bytes of a head, or of those that may follow its first piece before it ends."""
_LEFT_S = 60.0
"""Seconds for which a connection stays at most whose client asks no more."""
_NOTED = frozenset((b"expect", b"host", b"transfer-encoding", b"upgrade", b"x-request-id"))
_REFUSAL = b"content-length: 0\r\nconnection: close\r\n\r\n"


class _Refused(Exception):
    """Raised to the parser: what comes is not taken."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Nothing:
    """The parser of a connection that is ending."""

    def feed_data(self, data: bytes) -> None:
        """Drops it."""


class ReadingProtocol(HttpToolsProtocol):
    """See above."""

    _unusual = False
    """Whether a header is unusual: the request comes in another form, or is more than a question."""
    _hosts = 0
    """``Host`` headers so far."""
    _perhaps_long = False
    """Whether the head that is read now may have more than ``LARGEST_HEAD``."""
    _answering: RequestResponseCycle | None = None
    """What the application answers, which ``cycle`` may be behind."""
    _again: bytes | None = None
    """The head of a request that made an offer, without it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever answers. uvicorn tells the last request alone."""
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answers what was asked, to who says that they ask no more, and only then closes. uvicorn closes at once."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return None
        self.end(400)
        # No request takes so long; one that a defect of ours left without an answer must not keep the connection.
        self.loop.call_later(_LEFT_S, self.transport.abort)
        return True

    def read(self, data: bytes) -> None:
        """Has the parser read what came."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._read_again(memoryview(data)[offer.args[0] :])
        except HttpParserError as error:
            self._give_up(error)

    def on_message_begin(self) -> None:
        """Forgets the request before."""
        super().on_message_begin()
        self._unusual = False
        self._hosts = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes a header."""
        name = name.lower()
        if name not in _NOTED:
            self.headers.append((name, value))
        elif name == b"host":
            self._hosts += 1
            self.headers.append((name, value))
        else:
            self._unusual = True
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begins a cycle of ASGI's, or notes that the head is to be read again.

        Raises:
            _Refused: The head is too long, does not say once for which host it is, or asks for a tunnel.
        """
        parser = self.parser
        if self._is_long():
            raise _Refused(431)
        if self._hosts > 1 or (not self._hosts and parser.get_http_version() >= "1.1"):
            raise _Refused(400)
        if parser.get_method() == b"CONNECT" or (not self.url.startswith(b"/") and parse_url(self.url).path is None):
            # uvicorn takes each address for one with a path.
            raise _Refused(400)
        if parser.should_upgrade():
            self._again = self._without_offer()
            return
        super().on_headers_complete()
        # What follows a body in chunks is no header of the request, though it has the same form.
        self.headers = []

    def on_message_complete(self) -> None:
        """Has the cycle know that all is there."""
        if self._again is not None:
            return
        super().on_message_complete()
        if isinstance(self.cycle, RequestResponseCycle):
            # uvicorn says it only while there is no answer.
            self.cycle.more_body = False

    def end(self, status: int) -> None:
        """Refuses what is no request, when what was asked before is answered, and closes.

        Args:
            status: That it is refused with.
        """
        self.parser = _Nothing()  # type: ignore[assignment]
        cycle: Any = self.cycle
        if self.transport.is_closing():
            return
        if cycle is None or cycle.response_complete:
            # To who never sent anything there is nothing to answer, nor what has its answer already.
            self._close(None if self.scope is None or (cycle is not None and cycle.more_body) else status)
        elif not cycle.more_body:
            cycle.keep_alive = False
        elif self.pipeline:
            self.pipeline[0] = cycle, _refusing(status)
        else:
            self._close(None if cycle.response_started else status)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _close(self, status: int | None) -> None:
        if status is not None:
            self.transport.write(STATUS_LINE[status] + _REFUSAL)
        self.transport.close()

    def _is_long(self) -> bool:
        """Whether the head that was just read is longer than any may be; what is between its parts is not counted."""
        if not self._perhaps_long:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > LARGEST_HEAD

    def _without_offer(self) -> bytes:
        """The head that was just read."""
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join((first, *lines, b"\r\n"))

    def _read_again(self, rest: memoryview) -> None:
        """Reads a request without its offer, and what came after its head."""
        try:
            while self._again is not None:
                again, self._again = self._again, None
                self.parser = HttpRequestParser(self)
                # As uvicorn has it.
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(again)
                try:
                    self.parser.feed_data(rest)
                except HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
        except HttpParserError as error:
            self._give_up(error)

    def _give_up(self, error: HttpParserError) -> None:
        """Ends what can't be read; if we could not, it is a defect of ours, which the log has."""
        why, status = error.__context__, 400
        if isinstance(why, _Refused):
            status = why.status
        elif isinstance(error, HttpParserCallbackError) and not isinstance(why, (HttpParserError, UnicodeError)):
            status = 500
            logs.failure(why or error, status=status)
        self.end(status)


def _refusing(status: int) -> Any:
    """An application that refuses whatever it is asked."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return refuse
