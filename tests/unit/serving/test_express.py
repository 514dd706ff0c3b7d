"""The shorter way of plain predictions: its answers are the gateway's, and what is not plain is left to the gateway."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.drafts import Drafted
from pilotage.runtime.log.files import RealFiles
from pilotage.testing.bundles import ORDER, tiny_spec
from serving import connections
from serving.exchange import Exchange
from serving.in_flight import InFlight
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.wire import Wire, asked, scrubbed, wired


def talk(service: Hosted, with_it: Any, **options: Any) -> Any:
    """One connection to a worker."""

    async def run() -> Any:
        async with asyncio.timeout(60), wired(service, **options) as wire:
            return await with_it(wire)

    return service.run(run())


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n"
WHOLE = json.dumps(ORDER).encode()
PLAIN = {
    "a prediction": asked(),
    "of another model": asked(path="/other/predict"),
    "a field that is wrong": asked({**ORDER, "items": "three"}),
    "a field too many": asked({**ORDER, "more": 1}),
    "a field too few": asked({"order_id": "A-7"}),
    "a number that is none": asked(WHOLE.replace(b"640.5", b"NaN")),
    "no JSON": asked(b"{"),
    "no object": asked(b"[1, 2]"),
    "nothing": asked(b""),
    "deep": asked(b"[" * 5000),
    "bytes that are no text": asked(b'{"order_id": "\xff\xfe"}'),
    "another header": asked(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "an API key where there is none": asked(authorization="Bearer plt_x_y"),
    "from elsewhere": asked(origin="https://example.com"),
    "a connection that ends": asked(connection="close"),
    "an upgrade": asked(connection="Upgrade", upgrade="h2c"),
}
ORDINARY = {
    "an id": asked(x_request_id="mine"),
    "a wrong id": asked(x_request_id=" "),
    "a query": asked(path="/tiny/predict?explain=true"),
    "a query of nothing we know": asked(path="/tiny/predict?x=1"),
    "another type": asked(content_type="text/plain"),
    "no type": asked(content_type=None),
    "a type with more": asked(content_type="application/json; charset=utf-8"),
    "too large": asked(b" " * 70_000),
    "in chunks": asked(CHUNKED % (len(WHOLE), WHOLE), transfer_encoding="chunked", content_length=None),
    "passed on": asked(x_forwarded_for="10.0.0.1"),
    "an older version": asked(version="1.0"),
    "to be looked at": asked(b"", method="GET"),
    "a batch": asked({"requests": [ORDER]}, path="/tiny/predict/batch"),
    "of no model": asked(path="/none/predict"),
    "by another name": asked(path="/tiny/%70redict"),
    "asked for leave": asked(expect="100-continue"),
    "a length of many digits": asked(b"", content_length="0" * 5000),
    "a batch with such a length": asked(b"", path="/tiny/predict/batch", content_length="0" * 5000),
}


async def _told(wire: Wire) -> dict[str, tuple[Any, int]]:
    """Name → answer, and how many went the shorter way."""
    told = {}
    for name, sent in {**PLAIN, **ORDINARY}.items():
        before = wire.express.taken
        another = await wire.another()
        answer = await another.ask(sent)
        while answer[0] == 100:
            answer = await another.answer()
        another.writer.close()
        told[name] = scrubbed(answer), wire.express.taken - before
    return told


def test_both_ways_answer_alike(service: Hosted) -> None:
    short, long = talk(service, _told), talk(service, _told, express=False)
    for name, (answer, taken) in short.items():
        assert answer == long[name][0], name
        assert taken == (name in PLAIN), name
    assert not any(taken for _, taken in long.values())
    assert {answer[0] for answer, _ in short.values()} >= {200, 400, 401, 405, 413, 415, 422}


def test_a_prediction_is_on_disk_and_has_its_id(service: Hosted) -> None:
    _, headers, body = talk(service, lambda wire: wire.ask(asked()))
    [record] = service.predictions(headers["x-request-id"])
    answer = json.loads(body)
    assert (record.prediction_id, record.probability) == (answer["prediction_id"], answer["probability"])


async def _in_two_pieces(wire: Wire, cut: int, *, wait: bool) -> tuple[int, int]:
    """The status, and how many went the shorter way."""
    connection = await wire.accepted()
    wire.writer.write(asked()[:cut])
    while connection.scope is None:
        await asyncio.sleep(0)
    while wait and connection.cycle is None:
        await asyncio.sleep(0.001)
    wire.writer.write(asked()[cut:])
    return (await wire.answer())[0], wire.express.taken


@pytest.mark.parametrize("cut", [10, 60, len(asked()) - len(WHOLE), len(asked()) - 1])
def test_a_request_in_two_pieces_is_waited_for(service: Hosted, cut: int) -> None:
    assert talk(service, lambda wire: _in_two_pieces(wire, cut, wait=False)) == (200, 1)


@pytest.mark.parametrize("cut", [len(asked()) - len(WHOLE), len(asked()) - 1])
def test_one_that_takes_long_to_come_goes_the_ordinary_way(service: Hosted, cut: int) -> None:
    assert talk(service, lambda wire: _in_two_pieces(wire, cut, wait=True)) == (200, 0)


def test_one_that_is_large_goes_the_ordinary_way_at_once(service: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HELD_S", 60.0)

    async def with_it(wire: Wire) -> tuple[int, int]:
        return (await wire.ask(asked(b" " * 70_000, content_length="200000")))[0], wire.express.taken

    assert talk(service, with_it) == (413, 0)


def test_a_server_that_stops_waits_for_the_rest_of_a_request(service: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HELD_S", 60.0)

    async def with_it(wire: Wire) -> tuple[int, bytes]:
        connection = await wire.accepted()
        wire.writer.write(asked()[:-1])
        while not connection._held:
            await asyncio.sleep(0)
        wire.server.should_exit = True
        while connection.cycle is None:
            await asyncio.sleep(0.001)
        wire.writer.write(asked()[-1:])
        return (await wire.answer())[0], await wire.reader.read()

    assert talk(service, with_it) == (200, b"")


def test_requests_that_come_together_are_answered_in_their_order(service: Hosted) -> None:
    async def with_it(wire: Wire) -> list[Any]:
        orders = [{**ORDER, "order_id": f"A-{number}"} for number in range(6)]
        wire.writer.write(b"".join(asked(order) for order in orders) + asked(b"{") + asked(path="/nothing"))
        answers = [await wire.answer() for _ in range(8)]
        assert [status for status, *_ in answers[6:]] == [422, 404]
        return [json.loads(body)["entity"]["order_id"] for _, _, body in answers[:6]]

    assert talk(service, with_it) == [f"A-{number}" for number in range(6)]


ENDING = ("a connection that ends", "an older version", "asked for leave")


def test_any_requests_in_any_pieces_are_answered_alike(service: Hosted) -> None:
    kept = {name: sent for name, sent in {**PLAIN, **ORDINARY}.items() if name not in ENDING}

    async def with_it(wire: Wire) -> list[tuple[list[str], list[Any]]]:
        chance, told = random.Random(7), []
        for _ in range(60):
            names = chance.choices(sorted(kept), k=chance.randint(1, 5))
            sent = b"".join(kept[name] for name in names)
            cuts = sorted(chance.sample(range(len(sent)), k=chance.randint(0, 4)))
            another = await wire.another()
            for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                another.writer.write(sent[start:end])
                for _ in range(chance.randint(0, 6)):
                    await asyncio.sleep(0)
            told.append((names, [scrubbed(await another.answer()) for _ in names]))
            another.writer.close()
        return told

    short, long = talk(service, with_it), talk(service, with_it, express=False)
    for (names, answers), (_, others) in zip(short, long, strict=True):
        assert answers == others, names


def test_a_connection_ends_when_it_was_idle_and_not_while_it_is_used(service: Hosted) -> None:
    async def with_it(wire: Wire) -> None:
        connection = await wire.accepted()
        connection.timeout_keep_alive = 0.2
        timers = set()
        while len(timers) < 4:
            # Used again and again, for longer than it may be idle.
            assert (await wire.ask(asked()))[0] == 200
            timers.add(connection.timeout_keep_alive_task)
        assert await wire.reader.read() == b""

    talk(service, with_it)


def test_who_wants_the_connection_ended_has_it_ended(service: Hosted) -> None:
    async def with_it(wire: Wire) -> bytes:
        status, headers, _ = await wire.ask(asked(connection="close"))
        assert (status, headers["connection"]) == (200, "close")
        return await wire.reader.read()

    assert talk(service, with_it, timeout_keep_alive=600) == b""


def test_after_an_unusual_request_a_plain_one_is_plain_again(service: Hosted) -> None:
    async def with_it(wire: Wire) -> int:
        for name in ("an id", "in chunks", "a query"):
            await wire.ask(ORDINARY[name])
            await wire.ask(asked())
        return wire.express.taken

    assert talk(service, with_it) == 3


def test_a_client_that_does_not_read_is_waited_for(service: Hosted) -> None:
    async def with_it(wire: Wire) -> int:
        await wire.ask(asked())
        connection = await wire.accepted()
        connection.pause_writing()
        wire.writer.write(asked())
        while not len(service.core.in_flight):
            await asyncio.sleep(0)
        connection.resume_writing()
        assert (await wire.answer())[0] == 200
        return wire.express.taken

    assert talk(service, with_it) == 1


def test_behind_a_proxy_a_key_goes_the_shorter_way(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        _, key = create_key(service.settings.api_keys, "app", roles=["predict"], limit=None)
        service.core.ring.refresh()

        async def with_it(wire: Wire) -> tuple[list[Any], int]:
            passed = {"x_forwarded_for": "10.0.0.1", "x_forwarded_proto": "https"}
            told = [await wire.ask(asked(authorization=each, **passed)) for each in (f"Bearer {key}", "Bearer x", None)]
            return [scrubbed(each) for each in told], wire.express.taken

        (short, taken), (long, _) = talk(service, with_it), talk(service, with_it, express=False)
        assert short == long
        assert ([status for status, *_ in short], taken) == ([200, 401, 401], 3)


@pytest.mark.parametrize("headers", [{}, {"x_request_id": "{}"}, {"traceparent": "none"}], ids=["plain", "id", "more"])
def test_an_answered_request_leaves_nothing_for_the_collector_of_garbage(service: Hosted, headers: Any) -> None:
    async def with_it(wire: Wire) -> None:
        gc.collect()
        gc.disable()
        try:
            for number in range(30):
                named = {name: value.format(f"garbage-{number}") for name, value in headers.items()}
                for sent in (asked(**named), asked(b"{", **named)):
                    await wire.ask(sent)
            left = [type(each).__name__ for each in gc.get_objects() if isinstance(each, (Exchange, Drafted))]
        finally:
            gc.enable()
        assert len(left) <= 3, left

    talk(service, with_it)


class Disk(RealFiles):
    """A disk that hangs or is full when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.full = False

    def sync(self, file: int) -> None:
        self.go.wait()
        super().sync(file)

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(file, data, at)


def test_a_disk_that_hangs_lets_others_be_answered_and_times_out(tmp_path: Path) -> None:
    disk = Disk()
    # Whose time is up is looked for twice a second.
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk, in_flight=InFlight(answering_s=0.01)) as service:

        async def with_it(wire: Wire) -> None:
            assert (await wire.ask(asked()))[0] == 200
            disk.go.clear()
            try:
                status, _, body = await wire.ask(asked())
                assert (status, json.loads(body)["error"]) == (504, "TimedOut")
                assert (await wire.ask(asked(b"", path="/healthz", method="GET")))[0] == 200
            finally:
                disk.go.set()
            assert (await wire.ask(asked()))[0] == 200
            assert wire.express.taken == 3
            assert (len(service.core.in_flight), service.core.metrics.in_flight) == (0, 0)

        talk(service, with_it)


def test_who_waits_for_an_answer_is_not_idle(tmp_path: Path) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> int:
            connection = await wire.accepted()
            connection.timeout_keep_alive = 0.05
            await wire.ask(asked())
            disk.go.clear()
            wire.writer.write(asked())
            while connection.timeout_keep_alive_task is not None:
                await asyncio.sleep(0.01)
            disk.go.set()
            return (await wire.answer())[0]

        assert talk(service, with_it) == 200


def test_a_full_disk_refuses_or_answers_as_the_spec_says(tmp_path: Path) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), tiny_spec("strict", risk="high"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> None:
            assert (await wire.ask(asked()))[0] == 200
            disk.full = True
            status, _, body = await wire.ask(asked(path="/strict/predict"))
            assert (status, json.loads(body)["error"]) == (503, "LogUnavailable")
            status, _, body = await wire.ask(asked())
            assert (status, json.loads(body)["logged"]) == (200, False)
            assert wire.express.taken == 3

        talk(service, with_it)


def test_a_client_that_leaves_changes_nothing(tmp_path: Path) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> None:
            await wire.ask(asked())
            disk.go.clear()
            wire.writer.write(asked())
            while not service.core.metrics.in_flight:
                await asyncio.sleep(0)
            wire.leave()
            while wire.server.server_state.connections:
                await asyncio.sleep(0)
            disk.go.set()
            while service.core.metrics.in_flight:
                await asyncio.sleep(0)

        talk(service, with_it)
        assert len(service.logged()) >= 2


def test_a_server_that_stops_answers_first(tmp_path: Path) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> tuple[Any, bytes]:
            await wire.ask(asked())
            disk.go.clear()
            wire.writer.write(asked())
            while not service.core.metrics.in_flight:
                await asyncio.sleep(0)
            wire.server.should_exit = True
            connection = await wire.accepted()
            while connection.cycle.keep_alive:
                await asyncio.sleep(0)
            disk.go.set()
            return await wire.answer(), await wire.reader.read()

        (status, headers, _), rest = talk(service, with_it)
        assert (status, headers["connection"], rest) == (200, "close", b"")


def test_beyond_what_a_worker_takes_at_once_it_says_so(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), in_flight=InFlight(at_once=0)) as service:
        status, headers, body = talk(service, lambda wire: wire.ask(asked()))
        assert (status, json.loads(body)["error"]) == (503, "Overloaded")
        assert headers["retry-after"] == "1"
