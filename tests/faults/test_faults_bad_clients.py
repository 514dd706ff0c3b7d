"""Clients that are slow, too loud, or gone: they get what they deserve, and everybody else their answers."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from tests.faults.checker import check
from tests.faults.crowd import Crowd
from tests.faults.world import Serving, World, order, until

SLOW = 200
"""Clients of each kind at once."""
MB = 1 << 20


def connected(serving: Serving) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", serving.port), timeout=60)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def head(length: int | None, path: str = "/tiny/predict") -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()


def status_of(client: socket.socket) -> int:
    """Of the answer that comes; 0 if the connection ends without one."""
    received = b""
    while b"\r\n" not in received:
        try:
            more = client.recv(65536)
        except ConnectionError:
            return 0
        if not more:
            return 0
        received += more
    return int(received.split(b" ", 2)[1])


def memory_mb(serving: Serving) -> float:
    """Of the largest worker."""
    return max(psutil.Process(each["pid"]).memory_info().rss for each in serving.workers()) / MB


def in_flight(serving: Serving) -> float:
    """Requests that the workers are at, as they say."""
    lines = serving.running.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("pilotage_in_flight"))


@pytest.mark.timeout(600)
def test_clients_that_trickle_their_headers_or_body_keep_nobody_waiting(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    body = json.dumps(order(1, "slow")).encode()
    with world.serving() as serving, Crowd(serving.port, draw, named=0.0) as crowd:
        crowd.until_more(100)
        before = memory_mb(serving)
        headers = [connected(serving) for _ in range(SLOW)]
        bodies = [connected(serving) for _ in range(SLOW)]
        for client in headers:
            client.sendall(head(len(body))[: draw.randrange(1, 60)])
        for client in bodies:
            client.sendall(head(len(body)) + body[: draw.randrange(len(body) - 1)])
        began = time.monotonic()
        crowd.until_more(500)
        tell(f"{2 * SLOW} slow clients, and 500 others answered in {time.monotonic() - began:.1f} s")
        for client in bodies:
            # One byte more, which must not buy a slow client another while.
            client.sendall(b" ")
        statuses = [status_of(client) for client in bodies]
        tell(f"slow bodies were told {statuses[0]} after {time.monotonic() - began:.1f} s")
        assert set(statuses) == {504}
        statuses = [status_of(client) for client in headers]
        tell(f"slow headers were told {statuses[0]} after {time.monotonic() - began:.1f} s")
        assert set(statuses) == {408}
        crowd.until_more(100)
        for client in (*headers, *bodies):
            client.close()
        crowd.stop()
        grown = memory_mb(serving) - before
        tell(f"the largest worker grew by {grown:.0f} MB")
        assert grown < 100
        serving.until_complete()
    checked = check(world, crowd.seen)
    assert (checked.unlogged, checked.refused, checked.broken) == (0, {}, 0)
    tell(str(checked))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", ["/tiny/predict", "/tiny/predict/batch", "/tiny/outcomes", "/v2/models/tiny/infer"])
def test_a_hundred_megabytes_are_refused_before_they_are_read(
    world: World, draw: random.Random, tell: Callable[[str], None], path: str
) -> None:
    piece = b" " * MB
    with world.serving() as serving, Crowd(serving.port, draw, named=0.0) as crowd:
        crowd.until_more(100)
        before = memory_mb(serving)
        for announced in (True, False):
            sent, told = 0, 0
            client = connected(serving)
            client.sendall(head(100 * MB if announced else None, path))
            try:
                for _ in range(100):
                    client.sendall(piece if announced else b"%x\r\n%b\r\n" % (MB, piece))
                    sent += 1
                if not announced:
                    client.sendall(b"0\r\n\r\n")
            except ConnectionError:
                pass
            told = status_of(client)
            client.close()
            # Who goes on sending after the answer may find the connection closed under it.
            tell(f"{path}: {'announced' if announced else 'in chunks'}: {sent} MB sent, told {told or 'by closing'}")
            assert told in (413, 0)
        small = connected(serving)
        small.sendall(head(100 * MB, path))
        assert status_of(small) == 413, "the announcement is enough"
        small.close()
        crowd.until_more(100)
        crowd.stop()
        grown = memory_mb(serving) - before
        tell(f"the largest worker grew by {grown:.0f} MB")
        assert grown < 60
    checked = check(world, crowd.seen)
    assert (checked.refused, checked.broken) == ({}, 0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("piece", [b"x: y\r\n" * 10_000, b"y" * 60_000], ids=["many", "one"])
def test_headers_without_an_end_fill_no_memory(
    world: World, draw: random.Random, tell: Callable[[str], None], piece: bytes
) -> None:
    with world.serving() as serving, Crowd(serving.port, draw, named=0.0) as crowd:
        crowd.until_more(100)
        before = memory_mb(serving)
        told: Counter[int] = Counter()
        sent = 0
        for _ in range(20):
            client = connected(serving)
            try:
                client.sendall(b"POST /tiny/predict HTTP/1.1\r\nx: ")
                for _ in range(100 * MB // len(piece)):
                    client.sendall(piece)
                    sent += len(piece)
            except ConnectionError:
                pass
            told[status_of(client)] += 1
            client.close()
        crowd.until_more(100)
        crowd.stop()
        grown = memory_mb(serving) - before
        tell(f"20 clients got {sent / MB:.1f} MB of headers out, and were told {dict(told)}")
        tell(f"the largest worker grew by {grown:.0f} MB")
        # Who goes on sending after the answer may find the connection closed under it.
        assert told[431] + told[0] == 20
        assert grown < 60
    checked = check(world, crowd.seen)
    assert (checked.refused, checked.broken) == ({}, 0)


@pytest.mark.timeout(600)
def test_connections_that_drop_at_any_byte_leave_nothing_behind(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    with world.serving() as serving, Crowd(serving.port, draw, named=0.0) as crowd:
        crowd.until_more(50)
        for number in range(1000):
            body = json.dumps(order(number, "gone")).encode()
            whole = head(len(body)) + body
            client = connected(serving)
            client.sendall(whole[: draw.choice((draw.randrange(len(whole)), len(whole)))])
            if draw.random() < 0.5:
                # A reset, as when a cable is pulled and plugged in again.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        crowd.until_more(100)
        crowd.stop()
        until(lambda: in_flight(serving), lambda found: found == 0.0, what="nothing in flight")
        serving.until_complete()
    checked = check(world, crowd.seen)
    tell(f"1000 dropped connections beside {checked}")
    assert (checked.unlogged, checked.refused, checked.broken) == (0, {}, 0)
