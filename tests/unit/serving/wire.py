"""A worker of this process behind a real uvicorn, talked to in bytes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn import config as uvicorn_config

from pilotage.testing.bundles import ORDER
from serving import connections
from serving.connections import Turn
from tests.unit.serving.hosted import Hosted

PLAIN = {"Host": "127.0.0.1", "Content-Type": "application/json"}


class Counting:
    """A worker's express, which counts the requests that went its way."""

    def __init__(self, service: Hosted) -> None:
        self.taken = 0
        self._express = service.gateway.express

    def takes(self, url: bytes) -> bool:
        return self._express.takes(url)

    def answer(self, turn: Turn, scope: Any, body: bytes) -> bool:
        took = self._express.answer(turn, scope, body)
        self.taken += took
        return took

    def crowded(self) -> None:
        """As if the last requests had come together."""
        self._express._alone = False


class Wire:
    """One connection."""

    def __init__(
        self, server: uvicorn.Server, express: Counting, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.express = express
        self.reader = reader
        self.writer = writer
        self.others: list[Wire] = []

    async def accepted(self) -> Any:
        """The server's end of the only connection."""
        while not (found := self.server.server_state.connections):
            await asyncio.sleep(0)
        [connection] = found
        return connection

    async def another(self) -> Wire:
        """Another connection to the same server, which ends with this one."""
        host, port = self.writer.get_extra_info("peername")
        self.others.append(Wire(self.server, self.express, *await asyncio.open_connection(host, port)))
        return self.others[-1]

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next: status, headers by name in lower case, body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        if headers.get("transfer-encoding") == "chunked":
            assert await self.reader.readuntil(b"0\r\n\r\n")
        return int(first.split()[1]), headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends bytes, and gives the answer."""
        self.writer.write(data)
        return await self.answer()

    def leave(self) -> None:
        """Is gone at once, and not only out of questions: who is, gets its answers first."""
        with suppress(OSError):  # It has ended already.
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.writer.transport.abort()


@asynccontextmanager
async def wired(service: Hosted, *, express: bool = True, **options: Any) -> AsyncIterator[Wire]:
    """A connection to a server. To be run on the worker's own loop."""
    counting = Counting(service)
    with pytest.MonkeyPatch.context() as patch, closing(socket.socket()) as listening:
        patch.setattr(uvicorn_config, "HTTP_PROTOCOLS", dict(uvicorn_config.HTTP_PROTOCOLS))
        patch.setattr(connections.Connection, "express", None)
        connections.use_connections(counting if express else None)
        usual = {"log_config": None, "lifespan": "off", "ws": "none", "server_header": False}
        server = uvicorn.Server(uvicorn.Config(service.gateway, **{**usual, **options}))
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
        wire = Wire(server, counting, reader, writer)
        try:
            yield wire
        finally:
            for each in (wire, *wire.others):
                each.leave()
            server.should_exit = True
            await task


async def connected(wire: Wire, number: int) -> list[Wire]:
    """Connections that the server has accepted, and has answered before."""
    wires = [wire, *[await wire.another() for _ in range(number - 1)]]
    for each in wires:
        assert (await each.ask(asked()))[0] == 200
    return wires


async def at_once(wires: Sequence[Wire], sent: Sequence[bytes]) -> list[Any]:
    """Sends each its request, all in one turn of the loop, and gives their answers; as if others came before."""
    wires[0].express.crowded()
    for wire, data in zip(wires, sent, strict=True):
        wire.writer.write(data)
    return [await wire.answer() for wire in wires]


def asked(
    body: bytes | Mapping[str, Any] = ORDER,
    *,
    path: str = "/tiny/predict",
    method: str = "POST",
    version: str = "1.1",
    **headers: str | None,
) -> bytes:
    """A request's bytes.

    Args:
        body: As it is, or to be written as JSON.
        path: Or address.
        method: HTTP's.
        version: HTTP's.
        headers: Beside the usual ones, ``_`` for ``-``; ``None`` leaves one out.
    """
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines = {**PLAIN, "Content-Length": str(len(sent)), **named}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + sent


def scrubbed(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str], bytes]:
    """An answer without what no two have in common: ids and times."""
    status, headers, body = answer
    told = {name: value for name, value in headers.items() if name not in ("date", "x-request-id")}
    body = re.sub(rb'"prediction_id":"[0-9a-f]{24}"', b'"prediction_id":""', body)
    return status, told, re.sub(rb'"predicted_at":"[^"]*"', b'"predicted_at":""', body)
