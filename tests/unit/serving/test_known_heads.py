"""A head that is known is read as the parser reads it, or not at all."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.runtime.access.keyfile import create_key, revoke_key
from pilotage.testing.bundles import ORDER, tiny_spec
from serving import connections, known_heads
from serving.exchange import HEAD, head_of
from serving.known_heads import KnownHead, known_head_of
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_express import ORDINARY, PLAIN, Disk, talk
from tests.unit.serving.wire import Wire, asked, scrubbed

KEPT = {
    name: sent for name, sent in {**PLAIN, **ORDINARY}.items() if name not in ("a connection that ends", "too large")
}


class _Parsed:
    """What httptools makes of bytes: requests, each with its headers and its body."""

    def __init__(self, data: bytes) -> None:
        self.told: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self.urls: list[bytes] = []
        self.whole = 0
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.whole = -1

    def on_url(self, url: bytes) -> None:
        self.urls.append(url)
        self.told.append(([], b""))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.told[-1][0].append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.told[-1] = self.told[-1][0], self.told[-1][1] + body

    def on_message_complete(self) -> None:
        self.whole += 1


HEADERS = st.lists(
    st.sampled_from(
        [
            b"Host: here",
            b"X-Content-Length: 7",
            b"Content-Length-X: 9",
            b"Authorization: Bearer plt_a_b",
            b"X: content-length: 5",
            b"Content-Type:application/json",
            b"Empty:",
        ]
    ),
    max_size=4,
)
LENGTHS = st.sampled_from(
    [b"Content-Length: %d", b"content-length:%d", b"CONTENT-LENGTH: \t%d", b"Content-Length: 00%d"]
)


def written(before: list[bytes], length: bytes, after: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join([b"POST /m/predict HTTP/1.1", *before, length % len(body), *after, b"", body])


@settings(max_examples=400, deadline=None)
@given(HEADERS, LENGTHS, HEADERS, st.binary(max_size=40), st.binary(max_size=120), st.data())
def test_what_is_read_is_what_the_parser_reads(
    before: list[bytes], length: bytes, after: list[bytes], body: bytes, other: bytes, chance: st.DataObject
) -> None:
    first = written(before, length, after, body)
    parsed = _Parsed(first)
    assert parsed.whole == 1
    [(headers, _)] = parsed.told
    known = known_head_of(first, {"headers": headers, "path": "/m/predict"})
    assert known is not None
    again = bytearray(written(before, length, after, other))
    for _ in range(chance.draw(st.integers(0, 2), label="changes")):
        at = chance.draw(st.integers(0, len(again) - 1), label="at")
        put = chance.draw(st.sampled_from([b"", b"0", b"1", b"\r\n", b" ", b"x", b"\x00"]), label="put")
        again[at : at + chance.draw(st.integers(0, 2), label="instead of")] = put
    got = known.read(bytes(again))
    if bytes(again) == written(before, length, after, other):
        assert got is not None
    if got is not None:
        truth = _Parsed(bytes(again))
        assert (truth.whole, truth.urls) == (1, [b"/m/predict"])
        [(told, sent)] = truth.told
        assert sent == got
        assert _but_length(told) == _but_length(known.scope["headers"])
        assert known.scope[HEAD]._replace(length=0) == head_of(told)._replace(length=0)


def _but_length(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, b"" if name == b"content-length" else value) for name, value in headers]


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyPOST",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
    ],
)
def test_a_head_without_one_length_or_with_more_than_its_body_is_not_learned(data: bytes) -> None:
    names = [line.partition(b":")[0].lower() for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert known_head_of(data, {"headers": [(name, b"4") for name in names]}) is None


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request that a known head was there for had it."""
    found: list[bool] = []
    read = KnownHead.read

    def noted(self: KnownHead, data: bytes) -> Any:
        told = read(self, data)
        found.append(told is not None)
        return told

    monkeypatch.setattr(known_heads.KnownHead, "read", noted)
    return found


def test_a_kept_connection_answers_as_new_ones_do(service: Hosted, known: list[bool]) -> None:
    async def with_it(wire: Wire) -> None:
        for name, sent in {**PLAIN, **ORDINARY}.items():
            kept, new = await wire.another(), await wire.another()
            for _ in range(3):
                assert (await kept.ask(asked({**ORDER, "order_id": name})))[0] == 200
            assert scrubbed(await kept.ask(sent)) == scrubbed(await new.ask(sent)), name
            kept.writer.close()
            new.writer.close()

    talk(service, with_it)
    assert known.count(True) > len(PLAIN) + len(ORDINARY)
    assert known.count(False) >= len(ORDINARY)


def test_each_request_is_its_own(service: Hosted, known: list[bool]) -> None:
    async def with_it(wire: Wire) -> list[Any]:
        sent = [asked({**ORDER, "order_id": "A" * number}) for number in range(1, 200, 7)]
        return [json.loads((await wire.ask(each))[2])["entity"]["order_id"] for each in sent]

    assert talk(service, with_it) == ["A" * number for number in range(1, 200, 7)]
    assert known == [True] * (len(range(1, 200, 7)) - 2)


def test_two_requests_in_one_piece_are_two(service: Hosted, known: list[bool]) -> None:
    async def with_it(wire: Wire) -> list[int]:
        for _ in range(3):
            await wire.ask(asked())
        return [(await wire.ask(asked() + asked({**ORDER, "items": "three"})))[0], (await wire.answer())[0]]

    assert talk(service, with_it) == [200, 422]
    assert known == [True, False]


def test_a_key_that_was_revoked_is_refused_on_the_same_connection(tmp_path: Path, known: list[bool]) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        made, key = create_key(service.settings.api_keys, "an application", roles=["predict"], limit=None)
        service.core.ring.refresh()
        sent = asked(authorization=f"Bearer {key}")

        async def with_it(wire: Wire) -> list[int]:
            told = [(await wire.ask(sent))[0] for _ in range(4)]
            await asyncio.to_thread(revoke_key, service.settings.api_keys, made.id, why="lost")
            service.core.ring.refresh()
            return [*told, (await wire.ask(sent))[0]]

        assert talk(service, with_it) == [200] * 4 + [401]
        assert known == [True] * 3


def test_heads_that_are_never_the_same_are_given_up(
    service: Hosted, known: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[bytes] = []

    def noted(data: bytes, scope: Any) -> Any:
        learned.append(data)
        return known_head_of(data, scope)

    monkeypatch.setattr(connections, "known_head_of", noted)

    async def with_it(wire: Wire) -> None:
        for number in range(20):
            assert (await wire.ask(asked(x_number=str(number))))[0] == 200

    talk(service, with_it)
    assert known == [False] * 18
    assert len(learned) == 4


def test_one_in_two_pieces_is_left_to_the_parser_and_nothing_is_forgotten(service: Hosted, known: list[bool]) -> None:
    async def with_it(wire: Wire) -> None:
        for _ in range(3):
            await wire.ask(asked())
        [connection] = wire.server.server_state.connections
        for first, rest in ((asked()[:-9], asked()[-9:]), (b"POST /tiny/predict HTTP/1.1\r\nX-Part: ", asked())):
            scope = connection.scope  # type: ignore[union-attr]
            wire.writer.write(first)
            while connection.scope is scope:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            assert (await wire.ask(rest))[0] == 200
        assert (await wire.ask(asked()))[0] == 200

    talk(service, with_it)
    assert known == [True, False, False, True]


def test_a_connection_is_not_idle_while_a_known_head_is_answered(tmp_path: Path, known: list[bool]) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> int:
            for _ in range(3):
                await wire.ask(asked())
            [connection] = wire.server.server_state.connections
            disk.go.clear()
            wire.writer.write(asked())
            while not service.core.metrics.in_flight:
                await asyncio.sleep(0)
            connection.timeout_keep_alive = 0  # type: ignore[union-attr]
            connection.timeout_keep_alive_handler()  # type: ignore[union-attr]
            disk.go.set()
            return (await wire.answer())[0]

        assert talk(service, with_it) == 200
        assert known == [True, True]


def test_who_is_refused_at_once_does_not_stay_for_ever(service: Hosted, known: list[bool]) -> None:
    async def with_it(wire: Wire) -> None:
        for _ in range(3):
            assert (await wire.ask(asked(b"{")))[0] == 422
        assert known == [True]
        assert await wire.reader.read() == b""

    talk(service, with_it, timeout_keep_alive=1)
