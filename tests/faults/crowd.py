"""Clients that go on asking whatever happens to the service, and remember everything they saw.

Each request is one nobody else sends, and some are batches. A part of them has an id of the client's: those are sent
again, with the same id, until they are answered, as an application should.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tests.faults.world import PATIENCE_S, order

_LARGEST_BATCH = 40
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True, kw_only=True)
class Seen:
    """One order, and what its client saw."""

    number: int
    """Of the order."""
    together: int
    """Orders in the same request; 1 if it was no batch."""
    model: str
    request_id: str
    """As the answer names it; ``""`` if there was none."""
    chosen: bool
    """Whether the client chose the id."""
    sent: float
    """``time.monotonic``."""
    got: float
    status: int
    """0 if the connection ended before the answer was whole; of a row of a batch that was refused 422."""
    body: bytes
    """Of a row of a batch its own part."""

    @property
    def answer(self) -> dict:
        """The body."""
        return _decode(self.body)


class Crowd:
    """Closed-loop clients in a thread of their own.

    Args:
        port: Of the service; may be changed while they run.
        draw: Draws each request's model, and whether it has an id.
        models: Which are asked.
        connections: Clients at once.
        named: Share of the requests that have an id of the client's.
        batches: Share of the requests that are batches.
    """

    def __init__(
        self,
        port: int,
        draw: random.Random,
        *,
        models: Sequence[str] = ("tiny",),
        connections: int = 4,
        named: float = 0.3,
        batches: float = 0.1,
    ) -> None:
        self.port = port
        self.seen: list[Seen] = []
        self._draw = random.Random(draw.random())
        self._models = models
        self._connections = connections
        self._named = named
        self._batches = batches
        self._numbers = itertools.count()
        self._prefix = f"{draw.randrange(10**9):09d}"
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="crowd", daemon=True)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Seen]:
        """Lets them finish what they are at; gives everything that was seen."""
        self._stopping = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "a client still waits for an answer"
        return self.seen

    def until_more(self, count: int, status: int = 200, *, sent_after: float | None = None, **fields: object) -> None:
        """Waits until so many more answers came with a status, to requests that were sent from now on.

        Args:
            count: How many.
            status: Theirs.
            sent_after: Counts those sent since then, instead of from now on.
            fields: What the answers must say, such as ``logged=False``.
        """
        since = time.monotonic() if sent_after is None else sent_after
        deadline = time.monotonic() + PATIENCE_S
        at, found = len(self.seen) if sent_after is None else 0, 0
        while found < count:
            with self._changed:
                if len(self.seen) == at:
                    self._changed.wait(1.0)
            fresh, at = self.seen[at:], len(self.seen)
            for each in fresh:
                if each.status == status and each.sent >= since:
                    found += not fields or fields.items() <= each.answer.items()
            if time.monotonic() > deadline:
                last = [(each.status, each.body[:300]) for each in self.seen[-5:]]
                raise TimeoutError(f"{found} of {count} answers with {status} {fields}; the last: {last}")

    def keep_on(self, seconds: float, **fields: object) -> None:
        """Goes on for a time, in which such answers never stop coming; ``fields`` as in ``until_more``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.until_more(1, **fields)

    async def _all(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))

    async def _client(self) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping:
            count = self._draw.randrange(2, _LARGEST_BATCH + 1) if self._draw.random() < self._batches else 1
            numbers = list(itertools.islice(self._numbers, count))
            model = self._draw.choice(self._models)
            name = f"{self._prefix}-{numbers[0]}" if self._draw.random() < self._named else None
            deadline = time.monotonic() + PATIENCE_S
            while True:
                seen, connection = await self._ask(connection, numbers, model, name)
                self.seen += seen
                with self._changed:
                    self._changed.notify_all()
                if seen[0].status or name is None or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
        if connection is not None:
            connection[1].close()

    async def _ask(
        self,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None,
        numbers: Sequence[int],
        model: str,
        name: str | None,
    ) -> tuple[list[Seen], tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
        request_id, status, answer, sent = name or "", 0, b"", 0.0
        try:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = connection
            orders = [order(number) for number in numbers]
            path, body = ("", orders[0]) if len(orders) == 1 else ("/batch", {"requests": orders})
            content = _encode(body)
            head = f"POST /{model}/predict{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            if name is not None:
                head += f"X-Request-Id: {name}\r\n"
            sent = time.monotonic()
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in told[1:] if line)
            answer = await reader.readexactly(int(headers["content-length"]))
            status = int(told[0].split(" ")[1])
            request_id = name or headers.get("x-request-id", "")
        except (OSError, asyncio.IncompleteReadError):
            if connection is not None:
                connection[1].close()
            connection = None
            # A service that is down refuses at once: not to ask it ten thousand times a second.
            await asyncio.sleep(0.02)
        got = time.monotonic()
        parts = [(status, answer)] * len(numbers)
        if len(numbers) > 1 and status == 200:
            rows = _decode(answer)["answers"]
            parts = [(200, _encode(row["answer"])) if "answer" in row else (422, _encode(row["error"])) for row in rows]
        return [
            Seen(
                number=number,
                together=len(numbers),
                model=model,
                request_id=request_id,
                chosen=name is not None,
                sent=sent,
                got=got,
                status=status,
                body=body,
            )
            for number, (status, body) in zip(numbers, parts, strict=True)
        ], connection
