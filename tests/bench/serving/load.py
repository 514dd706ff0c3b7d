"""A closed loop of HTTP/1.1 clients: each connection sends its next request when it has its answer, and never sooner.

What is measured is the server, so the clients cost little (20 µs a request, most of it the kernel's), and never sleep:
to wake a process on another core of a virtual machine takes the server's core tens of microseconds, which no client on
another machine asks of it. An answer's time is that of the look at the sockets that found it, not when its turn came.
Linux.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_PATIENCE_S = 60.0
"""After the last request was sent."""


@dataclass(slots=True, kw_only=True)
class Load:
    """What the clients saw."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds from before a request was sent to its answer's last byte, one an answer."""
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


def closed_loop(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Sends requests for some seconds.

    Args:
        port: Of the server, on loopback.
        requests: Sent in turn by all connections together.
        connections: Clients at once.
        seconds: Of sending; answers to what was sent are waited for.

    Raises:
        TimeoutError: They did not come.
    """
    load = Load(seconds=seconds)
    turns = itertools.cycle(requests)
    clients: dict[int, _Client] = {}
    try:
        with select.epoll() as sockets:
            for _ in range(connections):
                client = _Client(port, turns)
                clients[client.number] = client
                sockets.register(client.number, select.EPOLLIN)
            _run(sockets, clients, load)
    finally:
        for client in clients.values():
            client.close()
    return load


def _run(sockets: select.epoll, clients: dict[int, _Client], load: Load) -> None:
    began = now = time.perf_counter()
    until = began + load.seconds
    for client in clients.values():
        client.send()
    while clients:
        found = sockets.poll(0)
        now = time.perf_counter()
        if not found and now > until + _PATIENCE_S:
            raise TimeoutError(f"{len(clients)} requests were not answered within {_PATIENCE_S:g} s.")
        for number, _ in found:
            client = clients[number]
            status = client.receive()
            if status is None:
                continue
            if status:
                load.latencies.append(now - client.sent)
                load.statuses[status] = load.statuses.get(status, 0) + 1
                if now < until:
                    client.send()
                    continue
            else:
                load.broken += 1
            sockets.unregister(number)
            clients.pop(number).close()
    load.seconds = now - began


class _Client:
    """One connection."""

    __slots__ = ("_data", "_requests", "_socket", "_whole", "number", "sent")

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self._socket.fileno()
        self._requests = requests
        self._data = b""
        self._whole = 0

    def send(self) -> None:
        request = next(self._requests)
        self.sent = time.perf_counter()
        self._socket.sendall(request)

    def receive(self) -> int | None:
        """Reads what is there: the status of the answer if it is whole, 0 if the connection ended before."""
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionError:
            return 0
        if not data:
            return 0
        self._data = data = self._data + data if self._data else data
        if not self._whole:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = data[:end].lower()
            length = head.index(b"content-length:") + 15
            self._whole = end + 4 + int(head[length:].split(b"\r\n", 1)[0])
        if len(data) < self._whole:
            return None
        self._data, self._whole = b"", 0
        return int(data[9:12])

    def close(self) -> None:
        self._socket.close()
