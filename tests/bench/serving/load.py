"""A closed loop of HTTP/1.1 clients: each connection sends its next request when it has its answer, and never sooner.

Raw protocol on uvloop, so that the generator costs less than what it measures (about 20 µs a request).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True, kw_only=True)
class Load:
    """What the clients saw."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds from the last byte sent to the last byte received, one an answer."""
    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    """Connections that ended before their answer was whole."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered by 200."""
        return self.broken + sum(count for status, count in self.statuses.items() if status != 200)

    def percentile(self, q: float) -> float:
        """Latency in milliseconds."""
        return float(np.percentile(self.latencies, q)) * 1000


def request_bytes(path: str, body: bytes, *, headers: Sequence[str] = ()) -> bytes:
    """One POST of JSON."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def closed_loop(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    on_answer: Callable[[int, bytes], None] | None = None,
) -> Load:
    """Sends requests for some seconds.

    Args:
        port: Of the server, on loopback.
        requests: Sent in turn by all connections together.
        connections: Clients at once.
        seconds: Of sending; answers to what was sent are waited for.
        on_answer: Called with the request's number and the body of each answer.
    """
    import uvloop

    load = Load(seconds=seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(port, requests, connections, seconds, load, on_answer))
    return load


async def _run(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    load: Load,
    on_answer: Callable[[int, bytes], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    numbers = itertools.cycle(range(len(requests)))
    began = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(requests, numbers, began + seconds, load, on_answer), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), seconds + 60)
    load.seconds = time.perf_counter() - began


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        requests: Sequence[bytes],
        numbers: itertools.cycle[int],
        until: float,
        load: Load,
        on_answer: Callable[[int, bytes], None] | None,
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests, self._numbers, self._until, self._load = requests, numbers, until, load
        self._on_answer = on_answer
        self._buffer = bytearray()
        self._wanted = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._wanted < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            self._wanted = end + 4 + length
            self._body = end + 4
        if len(self._buffer) < self._wanted:
            return
        self._load.latencies.append(time.perf_counter() - self._sent)
        status = int(self._buffer[9:12])
        self._load.statuses[status] = self._load.statuses.get(status, 0) + 1
        if self._on_answer is not None:
            self._on_answer(self._number, bytes(self._buffer[self._body : self._wanted]))
        self._buffer.clear()
        self._wanted = -1
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._load.broken += 1
            self._finish()

    def _send(self) -> None:
        self._number = next(self._numbers)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._number])  # type: ignore[attr-defined]

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
