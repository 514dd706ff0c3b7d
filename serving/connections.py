"""Connections whose requests must begin: a head that does not end is cut off by its time, and by its size.

uvicorn waits for a head as long as its client likes, and keeps all of it: a few thousand connections that send a byte
now and then take all file descriptors of a worker, and one that never stops sending headers takes its memory. From the
head's end on, ``watch.py`` and the exchange have the time and the size; but for the trailers of a body in chunks, which
uvicorn keeps as well and shows to nobody.
"""

import asyncio

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_S = 10.0
"""Seconds that a client gets to send a head, or to begin with one; twice that at most, as nobody counts each."""
LARGEST_HEAD = 64 * 1024
"""Bytes that may follow the first ones of a head before it ends."""
LARGEST_CHUNKED = 16 * 1024 * 1024
"""Bytes that a body in chunks may take with its framing and its trailers, whoever reads it; the largest that any route
takes has one million, and six times that in chunks of one."""
_NOT_WAITING = object()


def bound_heads() -> None:
    """Lets uvicorn make such connections from now on. BentoML has no setting for it; uvicorn's table is public."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Connection"


class Connection(HttpToolsProtocol):
    """uvicorn's, with bounds. One timer for each connection, and none for a request."""

    _head = -1
    """Bytes of a head after the first piece; -1 between heads."""
    _chunked: object = None
    """The request whose body comes in chunks."""
    _chunks = 0
    """Bytes that came of it."""
    _seen: object = _NOT_WAITING
    """The head that was waited for when the timer last looked."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes of a head, or of a body in chunks, that goes on."""
        super().data_received(data)
        if not self._waits():
            self._head = -1
            if self._chunked is self.scope:
                self._chunks += len(data)
                if self._chunks > LARGEST_CHUNKED:
                    self.transport.close()
        elif self._head < 0:
            # This piece may have had the end of a request before it.
            self._head = 0
        elif (head := self._head + len(data)) <= LARGEST_HEAD:
            self._head = head
        else:
            self._refuse(431)

    def on_chunk_header(self) -> None:
        """Notes that there are chunks; httptools calls it for each."""
        if self._chunked is not self.scope:
            self._chunked, self._chunks = self.scope, 0

    def _waits(self) -> bool:
        """Whether a head is due: none began yet, or it has not ended. uvicorn notes the method when it has."""
        return self.scope is None or "method" not in self.scope

    def _look(self) -> None:
        # One that became a WebSocket is in other hands.
        if self not in self.connections or self.transport.is_closing():
            return
        if not self._waits():
            self._seen = _NOT_WAITING
        elif self._seen is not self.scope:
            self._seen = self.scope
        elif self.cycle is None or self.cycle.response_complete:
            self._refuse(408)
            return
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        # To who never sent anything there is nothing to answer; nor into the answer to the request before.
        if self.scope is not None and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
