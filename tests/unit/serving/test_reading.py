"""What uvicorn leaves open: offers of another protocol, what is no request, bodies and answers that nobody reads."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotage.testing.bundles import ORDER, tiny_spec
from serving import connections
from serving.in_flight import InFlight
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.wire import Wire, asked, scrubbed, wired

WHOLE = json.dumps(ORDER).encode()
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
OFFERS: dict[str, dict[str, str | None]] = {
    "h2c": {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAEAAEAAAAIAAAABAAMAAABk"},
    "a WebSocket": {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_key": KEY,
        "sec_websocket_version": "13",
    },
    "half a WebSocket": {"connection": "keep-alive, upgrade", "upgrade": "websocket"},
    "anything": {"connection": "uPgRaDe", "upgrade": "x/1, y"},
}
CHUNKS = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\nx-more: 1\r\n\r\n" % (WHOLE[:5], len(WHOLE) - 5, WHOLE[5:])
IN_CHUNKS: dict[str, str | None] = {"transfer_encoding": "chunked", "content_length": None}
ASKED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a prediction": (WHOLE, {}),
    "in chunks": (CHUNKS, IN_CHUNKS),
    "a batch": (b'{"requests": [%b]}' % WHOLE, {"path": "/tiny/predict/batch"}),
    "nothing": (b"", {}),
    "a page": (b"", {"path": "/v2/models/tiny", "method": "GET"}),
    "a page with a body": (WHOLE, {"path": "/v2", "method": "GET"}),
    "an older version": (WHOLE, {"version": "1.0"}),
    "asked for leave": (WHOLE, {"expect": "100-continue"}),
}


def talk(service: Hosted, with_it: Any, **options: Any) -> Any:
    """One connection to a worker, where a WebSocket could be had."""

    async def run() -> Any:
        async with asyncio.timeout(60), wired(service, **{"ws": "auto", **options}) as wire:
            return await with_it(wire)

    return service.run(run())


async def answers(wire: Wire, *pieces: bytes, number: int = 1) -> list[Any]:
    """The answers of another connection to what comes to it in pieces, each a turn of the loop after the other."""
    another = await wire.another()
    for piece in pieces:
        another.writer.write(piece)
        await asyncio.sleep(0.001)
    told = []
    while len(told) < number:
        answer = scrubbed(await another.answer())
        told += [answer] if answer[0] != 100 else []
    another.writer.close()
    return told


@pytest.mark.parametrize("express", [True, False])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_changes_nothing(service: Hosted, offer: str, express: bool) -> None:
    async def with_it(wire: Wire) -> None:
        for name, (body, parts) in ASKED.items():
            plain = asked(body, **parts)
            offering = asked(body, **{**parts, **OFFERS[offer]})
            head, rest = offering.split(b"\r\n\r\n", 1)
            expected = await answers(wire, plain)
            assert await answers(wire, offering) == expected, name
            assert await answers(wire, head + b"\r\n\r\n", rest) == expected, name
            if name != "an older version":
                next_one = asked(b"{")
                both = await answers(wire, plain + next_one, number=2)
                assert await answers(wire, offering + next_one, number=2) == both, name
                assert await answers(wire, offering + offering + next_one, number=3) == [*expected, *both], name

    talk(service, with_it, express=express)


@pytest.mark.parametrize("framing", ["Content-Length: %d", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("apart", [True, False])
def test_the_body_of_a_request_with_an_offer_is_no_request(service: Hosted, framing: str, apart: bool) -> None:
    inner = asked(x_request_id="smuggled")
    body = inner if "%d" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    framed = framing % len(inner) if "%d" in framing else framing
    head = (
        "POST /tiny/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        f"Content-Type: application/json\r\n{framed}\r\n\r\n"
    ).encode()

    async def with_it(wire: Wire) -> list[int]:
        pieces = (head, body) if apart else (head + body,)
        first, last = await answers(wire, *pieces, asked(path="/v2", method="GET"), number=2)
        return [first[0], last[0]]

    assert talk(service, with_it) == [422, 200]
    assert service.predictions("smuggled") == []


def test_chunks_of_something_else_are_refused(service: Hosted) -> None:
    coded = asked(b"", transfer_encoding="gzip, chunked", content_length=None) + CHUNKS

    async def with_it(wire: Wire) -> list[int]:
        return [status for status, *_ in await answers(wire, coded + asked(), number=2)]

    assert talk(service, with_it) == [415, 200]


def test_many_offers_in_one_piece_are_all_answered(service: Hosted) -> None:
    ask = asked(b"", path="/v2", method="GET", **OFFERS["h2c"])

    async def with_it(wire: Wire) -> set[int]:
        return {status for status, *_ in await answers(wire, ask * 1500, number=1500)}

    assert talk(service, with_it) == {200}


OFFERING = asked(ORDER, **OFFERS["h2c"]) + asked(b"{", **OFFERS["a WebSocket"]) + asked(CHUNKS, **IN_CHUNKS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(OFFERING) - 1), max_size=4, unique=True))
def test_requests_with_offers_may_be_cut_anywhere(service: Hosted, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(OFFERING)]
    pieces = [OFFERING[start:end] for start, end in pairwise(at)]
    told = talk(service, lambda wire: answers(wire, *pieces, number=3))
    assert [status for status, *_ in told] == [200, 422, 200]


def test_a_tunnel_is_refused(service: Hosted) -> None:
    async def with_it(wire: Wire) -> tuple[int, bytes]:
        wire.writer.write(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + asked())
        return (await wire.answer())[0], await wire.reader.read()

    assert talk(service, with_it) == (400, b"")


def test_who_asks_for_a_websocket_does_not_keep_a_server_from_stopping(service: Hosted) -> None:
    async def with_it(wire: Wire) -> tuple[int, bytes]:
        another = await wire.another()
        offering = asked(b"abcde", authorization=None, **OFFERS["a WebSocket"])
        await another.ask(offering)
        another.writer.write(asked(b"", **OFFERS["half a WebSocket"])[:-1])
        whole = asked(path="/tiny/predict/batch", body={"requests": [ORDER]})
        wire.writer.write(whole[:-10])
        while not service.core.metrics.in_flight:
            await asyncio.sleep(0)
        wire.server.should_exit = True
        while not wire.server.force_exit and (await wire_cycle(wire)).keep_alive:
            await asyncio.sleep(0.001)
        wire.writer.write(whole[-10:])
        return (await wire.answer())[0], await wire.reader.read()

    assert talk(service, with_it) == (200, b"")


async def wire_cycle(wire: Wire) -> Any:
    """The request under way of the connection that has one."""
    [cycle] = [
        each.cycle for each in wire.server.server_state.connections if each.cycle and not each.cycle.response_complete
    ]
    return cycle


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections that look ten times a second."""
    with monkeypatch.context() as patch:
        patch.setattr(connections, "HEAD_S", 0.1)
        yield


LONG = asked(b"", authorization="Bearer plt_x_y", content_length="60000")


@pytest.mark.parametrize(
    ("sent", "then", "status"),
    [
        (LONG, b"", 401),
        (LONG, b"x", 401),
        (asked(b"", path="/v2", method="GET", content_length="100"), b"y", 200),
        (asked(b"", path="/v2", method="GET", **IN_CHUNKS), b"1\r\n", 200),
    ],
    ids=["silence", "a byte now and then", "a page", "a page in chunks"],
)
def test_a_body_that_still_comes_after_its_answer_is_not_waited_for_long(
    service: Hosted, monkeypatch: pytest.MonkeyPatch, sent: bytes, then: bytes, status: int
) -> None:
    async def with_it(wire: Wire) -> bytes:
        assert (await wire.ask(sent))[0] == status
        closed = asyncio.ensure_future(wire.reader.read())
        async with asyncio.timeout(5):
            while not closed.done():
                wire.writer.write(then)
                await asyncio.sleep(0.03)
        return b"" if closed.exception() else closed.result()

    with impatient(monkeypatch):
        assert talk(service, with_it) == b""


def test_a_body_that_came_late_but_in_time_leaves_its_connection_open(
    service: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def with_it(wire: Wire) -> int:
        assert (await wire.ask(LONG))[0] == 401
        wire.writer.write(b"x" * 60_000)
        await asyncio.sleep(0.5)
        return (await wire.ask(asked()))[0]

    with impatient(monkeypatch):
        assert talk(service, with_it) == 200


async def _unread(wire: Wire, ask: bytes) -> None:
    """Asks until nothing more is taken, and never reads."""
    connection = await wire.accepted()
    for transport, size in ((wire.writer.transport, socket.SO_RCVBUF), (connection.transport, socket.SO_SNDBUF)):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, size, 4096)
    wire.writer.transport.pause_reading()
    while not connection.flow.write_paused:
        wire.writer.write(ask)
        await asyncio.sleep(0.001)


BATCH = asked({"requests": [ORDER] * 500}, path="/tiny/predict/batch")
REFUSED = asked(b"{", path="/tiny/predict/batch")


@pytest.mark.parametrize("ask", [BATCH, REFUSED * 200], ids=["answers", "errors"])
def test_a_client_that_does_not_read_loses_its_place(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, ask: bytes
) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), in_flight=InFlight(reading_s=0.3, answering_s=0.3)) as service:

        async def with_it(wire: Wire) -> None:
            await _unread(wire, ask)
            async with asyncio.timeout(20):
                while wire.server.server_state.connections or service.core.metrics.in_flight:
                    await asyncio.sleep(0.01)

        with caplog.at_level(logging.INFO):
            talk(service, with_it)
        assert len(service.core.in_flight) == 0
        assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("path", ["/v2", "/models"])
def test_one_that_asks_for_pages_and_does_not_read_is_cut_off(
    service: Hosted, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def with_it(wire: Wire) -> None:
        await _unread(wire, asked(b"", path=path, method="GET") * 200)
        async with asyncio.timeout(10):
            while wire.server.server_state.connections:
                await asyncio.sleep(0.01)

    with impatient(monkeypatch):
        talk(service, with_it)


GARBAGE = b"GARBAGE\r\n\r\n"


@pytest.mark.parametrize(
    "first",
    [asked(), asked(path="/tiny/predict/batch", body={"requests": [ORDER]}), asked(x_request_id="before-garbage")],
    ids=["the shorter way", "a batch", "with an id"],
)
def test_what_is_no_request_does_not_drop_the_answer_before_it(service: Hosted, first: bytes) -> None:
    async def with_it(wire: Wire) -> tuple[list[int], bytes]:
        wire.writer.write(first + first + GARBAGE)
        told = [(await wire.answer())[0] for _ in range(2)]
        return told, await wire.reader.read()

    told, rest = talk(service, with_it)
    assert told == [200, 200]
    assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        GARBAGE,
        asked(b"", path="/tiny/predict/batch", **IN_CHUNKS) + b"xyz\r\n",
        asked(host=None),
        asked().replace(b"Host: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\nHost: evil\r\n"),
        asked(path="http://evil.example", method="GET"),
        asked(content_length="1x"),
    ],
    ids=["garbage", "in a body", "no host", "two hosts", "an address without a path", "no length"],
)
def test_what_is_no_request_is_refused_without_a_line(
    service: Hosted, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async def with_it(wire: Wire) -> tuple[int, bytes]:
        wire.writer.write(sent)
        return (await wire.answer())[0], await wire.reader.read()

    with caplog.at_level(logging.WARNING):
        assert talk(service, with_it) == (400, b"")
    assert caplog.records == []


def test_a_body_that_breaks_off_behind_an_unanswered_request_is_refused_after_it(service: Hosted) -> None:
    broken = asked(b"", path="/tiny/predict/batch", **IN_CHUNKS) + b"xyz\r\n"

    async def with_it(wire: Wire) -> tuple[list[int], bytes]:
        wire.writer.write(asked(x_request_id="before-a-broken-one") + broken)
        told = [(await wire.answer())[0] for _ in range(2)]
        return told, await wire.reader.read()

    assert talk(service, with_it) == ([200, 400], b"")


def test_an_older_version_needs_no_host(service: Hosted) -> None:
    assert talk(service, lambda wire: wire.ask(asked(version="1.0", host=None)))[0] == 200


def test_what_follows_a_body_in_chunks_is_no_header(service: Hosted) -> None:
    trailed = CHUNKS.replace(b"x-more: 1", b"X-Request-Id: from-a-trailer\r\nAuthorization: Bearer x")

    async def with_it(wire: Wire) -> int:
        return (await wire.ask(asked(trailed, **IN_CHUNKS)))[0]

    assert talk(service, with_it) == 200
    assert service.predictions("from-a-trailer") == []


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("path", ["/tiny/predict", "/tiny/predict/batch"])
def test_a_long_head_is_refused_however_it_comes(service: Hosted, pieces: int, path: str) -> None:
    sent = asked(path=path, x_long="y" * 70_000)
    size = len(sent) // pieces + 1

    async def with_it(wire: Wire) -> int:
        [(status, *_)] = await answers(wire, *(sent[at : at + size] for at in range(0, len(sent), size)))
        assert (await wire.ask(asked(path=path, x_long="y" * 60_000)))[0] in (200, 422)
        return int(status)

    assert talk(service, with_it) == 431


def test_many_requests_in_pieces_that_end_within_heads_are_no_long_head(service: Hosted) -> None:
    async def with_it(wire: Wire) -> set[int]:
        sent = asked() * 300
        cut = len(asked()) + 40
        wire.writer.write(sent[:cut])
        await asyncio.sleep(0.05)
        wire.writer.write(sent[cut : -len(asked()) + 30])
        await asyncio.sleep(0.05)
        wire.writer.write(sent[-len(asked()) + 30 :])
        return {(await wire.answer())[0] for _ in range(300)}

    assert talk(service, with_it) == {200}
