"""Connections on a real uvicorn: a head that does not end is cut off, and nothing else is."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import uvicorn
from uvicorn import config as uvicorn_config

from serving import connections, reading

ASK = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little patience, and uvicorn's table as it was."""
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    monkeypatch.setattr(uvicorn_config, "HTTP_PROTOCOLS", dict(uvicorn_config.HTTP_PROTOCOLS))
    yield


class Served:
    """An application that answers when it is let, and counts what it was asked."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.let.set()
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.asked += 1
        while (await receive()).get("more_body"):
            pass
        await self.let.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Served, int, uvicorn.Server]]:
    connections.use_connections(None)
    app = Served()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            yield app, listening.getsockname()[1], server
        finally:
            app.let.set()
            server.should_exit = True
            await task


def talk(
    with_it: Callable[[Served, asyncio.StreamReader, asyncio.StreamWriter, uvicorn.Server], Awaitable[Any]],
) -> Any:
    """One connection to a server."""

    async def run() -> Any:
        async with served() as (app, port, server):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await with_it(app, reader, writer, server)
            finally:
                writer.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "told"),
    [(b"", b""), (b"P", b"HTTP/1.1 408"), (b"POST /tiny/predict HTTP/1.1\r\nHost: he", b"HTTP/1.1 408")],
    ids=["nothing", "a byte", "half a head"],
)
def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes, told: bytes) -> None:
    async def with_it(app: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Any) -> bytes:
        writer.write(sent)
        answer = await reader.read()
        assert app.asked == 0
        return answer

    assert talk(with_it)[:12] == told


def test_nor_is_the_next_one_on_a_connection_that_was_good_before() -> None:
    async def with_it(_: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Any) -> bytes:
        writer.write(ASK + ASK[:10])
        return await reader.read()

    answer = talk(with_it)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.split(b"ok", 1)[1].startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("piece", [b"x: y\r\n" * 100, b"y" * 1000], ids=["headers", "one header"])
def test_a_head_without_an_end_is_refused_by_its_size(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 60.0)

    async def with_it(app: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Any) -> bytes:
        answer = asyncio.ensure_future(reader.read(12))
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        sent = 0
        while not answer.done():
            writer.write(piece)
            sent += len(piece)
            await asyncio.sleep(0)
            assert sent < 10_000_000
        assert app.asked == 0
        return await answer

    assert talk(with_it) == b"HTTP/1.1 431"


@pytest.mark.parametrize("piece", [b"x: y\r\n" * 1000, b"x" * 6000], ids=["trailers", "one trailer"])
def test_trailers_without_an_end_close_the_connection(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(connections, "LARGEST_CHUNKED", 1_000_000)

    async def with_it(app: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Any) -> bytes:
        answer = asyncio.ensure_future(reader.read())
        writer.write(ASK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: ")
        sent = 0
        while not answer.done():
            writer.write(piece)
            sent += len(piece)
            await asyncio.sleep(0)
            assert sent < 10_000_000
        assert sent > 1_000_000
        assert app.asked == 1
        return b"" if answer.exception() else answer.result()

    assert talk(with_it) == b""


def test_bodies_in_chunks_are_counted_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LARGEST_CHUNKED", 1000)

    async def with_it(_: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Any) -> None:
        for _ in range(10):
            writer.write(ASK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")

    talk(with_it)


def test_an_answer_that_takes_its_time_and_an_idle_connection_are_left_alone() -> None:
    async def with_it(
        app: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: uvicorn.Server
    ) -> None:
        app.let.clear()
        writer.write(ASK)
        while not app.asked:
            await asyncio.sleep(0)
        [connection] = server.server_state.connections
        await looked(connection)
        app.let.set()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await looked(connection)
        writer.write(ASK)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")

    talk(with_it)


def test_many_requests_in_one_piece_are_no_long_head() -> None:
    async def with_it(_: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Any) -> bytes:
        body = b"x" * 150_000
        asked = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 150000\r\n\r\n" + body
        writer.write(asked + ASK[:10])
        first = await reader.readuntil(b"ok")
        writer.write(ASK[10:])
        return first + await reader.readuntil(b"ok")

    assert talk(with_it).count(b"HTTP/1.1 200") == 2


def test_an_application_that_answers_a_client_that_left_is_told_though_others_are_behind_it() -> None:
    async def with_it(
        app: Served, _: asyncio.StreamReader, writer: asyncio.StreamWriter, server: uvicorn.Server
    ) -> bool:
        app.let.clear()
        writer.write(ASK * 3)
        while not app.asked:
            await asyncio.sleep(0)
        [connection] = server.server_state.connections
        answering = connection._answering
        assert connection.cycle is not answering
        # Gone, and not only out of questions.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        while server.server_state.connections:
            await asyncio.sleep(0)
        assert app.asked == 1
        return bool(answering.disconnected)

    assert talk(with_it)


async def looked(connection: Any) -> None:
    """Waits until the timer has looked three times more."""
    for _ in range(3):
        before = connection._timer
        while connection._timer is before:
            await asyncio.sleep(0.01)


def test_who_asks_no_more_and_is_never_answered_does_not_keep_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LEFT_S", 0.05)

    async def with_it(app: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Any) -> bytes:
        app.let.clear()
        writer.write(ASK)
        while not app.asked:
            await asyncio.sleep(0)
        writer.write_eof()
        async with asyncio.timeout(30):
            return await reader.read()

    assert talk(with_it) == b""
