"""What fails for one of the requests that came together fails for nobody else, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime.log import unavailable
from pilotage.testing.bundles import tiny_spec
from serving import micro_batch
from serving.connections import Turn
from serving.in_flight import InFlight
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_express import Disk, talk
from tests.unit.serving.test_micro_batch import orders
from tests.unit.serving.wire import Wire, asked, at_once, connected


def test_one_that_can_not_be_answered_is_the_only_one(
    service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = service.core.responder.desks["tiny"].writer
    write = writer.write

    def failing(board: Any, asked: Any, **more: Any) -> Any:
        if asked.request["order_id"] == "A-1":
            raise RuntimeError("no ink")
        return write(board, asked, **more)

    async def with_it(wire: Wire) -> list[int]:
        wires = await connected(wire, 3)
        monkeypatch.setattr(writer, "write", failing)
        monkeypatch.setattr(writer, "write_rows", None)
        return [status for status, *_ in await at_once(wires, [asked(order) for order in orders(3)])]

    assert talk(service, with_it) == [200, 500, 200]
    assert groups[-1] == 3
    assert (len(service.core.in_flight), service.core.metrics.in_flight) == (0, 0)


def test_without_a_version_all_are_told(tmp_path: Path, groups: list[int]) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), release=False) as service:

        async def with_it(wire: Wire) -> list[int]:
            wires = [wire, *[await wire.another() for _ in range(2)]]
            for each in wires:
                await each.ask(asked())
            return [status for status, *_ in await at_once(wires, [asked()] * 3)]

        assert talk(service, with_it) == [503] * 3
        assert groups[-1] == 3


@pytest.mark.parametrize("risk", ["high", "limited"])
def test_a_full_disk_refuses_or_answers_all_of_them(tmp_path: Path, groups: list[int], risk: Any) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny", risk=risk), filesystem=disk) as service:

        async def with_it(wire: Wire) -> list[Any]:
            wires = await connected(wire, 3)
            disk.full = True
            return await at_once(wires, [asked(order) for order in orders(3)])

        answers = talk(service, with_it)
        assert groups[-1] == 3
        if risk == "high":
            assert [(status, json.loads(body)["error"]) for status, _, body in answers] == [(503, "LogUnavailable")] * 3
        else:
            told = [(status, json.loads(body)) for status, _, body in answers]
            assert [(status, each["logged"]) for status, each in told] == [(200, False)] * 3
            assert [each["entity"]["order_id"] for _, each in told] == ["A-0", "A-1", "A-2"]


def test_a_disk_that_hangs_times_them_out(tmp_path: Path, groups: list[int]) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk, in_flight=InFlight(answering_s=0.01)) as service:

        async def with_it(wire: Wire) -> list[int]:
            wires = await connected(wire, 3)
            disk.go.clear()
            try:
                return [status for status, *_ in await at_once(wires, [asked()] * 3)]
            finally:
                disk.go.set()

        assert talk(service, with_it) == [504] * 3
        assert groups[-1] == 3
        assert (len(service.core.in_flight), service.core.metrics.in_flight) == (0, 0)


def test_who_leaves_while_they_wait_changes_nothing_for_others(tmp_path: Path, groups: list[int]) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> int:
            wires = await connected(wire, 2)
            disk.go.clear()
            wire.express.crowded()
            for each in wires:
                each.writer.write(asked())
            while service.core.metrics.in_flight < 2:
                await asyncio.sleep(0)
            wires[1].leave()
            while len(wire.server.server_state.connections) > 1:
                await asyncio.sleep(0)
            disk.go.set()
            return (await wire.answer())[0]

        assert talk(service, with_it) == 200
        assert groups[-1] == 2
        assert service.core.metrics.in_flight == 0


def test_a_log_that_takes_nothing_more_is_told_to_all(
    service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise unavailable("the disk does not keep up")

    async def with_it(wire: Wire) -> list[Any]:
        wires = await connected(wire, 3)
        monkeypatch.setattr(service.core.log, "submit_then", full)
        return await at_once(wires, [asked(order) for order in orders(3)])

    told = [(status, json.loads(body)["logged"]) for status, _, body in talk(service, with_it)]
    assert (told, groups[-1]) == ([(200, False)] * 3, 3)
    assert service.core.metrics.in_flight == 0


def test_a_fault_before_the_answers_is_told_to_all(
    service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no count")

    async def with_it(wire: Wire) -> list[int]:
        wires = await connected(wire, 3)
        monkeypatch.setattr(service.core.limiter, "take_each", failing)
        return [status for status, *_ in await at_once(wires, [asked(), asked(b"{"), asked()])]

    assert talk(service, with_it) == [500, 500, 500]
    assert groups[-1] == 3
    assert (len(service.core.in_flight), service.core.metrics.in_flight) == (0, 0)


@pytest.mark.parametrize("what", ["finish", "reply"])
def test_a_fault_in_telling_one_leaves_the_others_told(
    service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    where: Any = {"finish": micro_batch.reception, "reply": Turn}[what]
    right = getattr(where, what)
    first: list[bool] = []

    def failing(*arguments: Any) -> None:
        first.append(not first)
        if first[-1]:
            raise RuntimeError("no wire")
        right(*arguments)

    async def with_it(wire: Wire) -> list[int]:
        wires = await connected(wire, 3)
        monkeypatch.setattr(where, what, failing)
        wire.express.crowded()
        for each in wires:
            each.writer.write(asked())
        told = wires[1:] if what == "reply" else wires
        return [(await each.answer())[0] for each in told]

    assert talk(service, with_it) == ([200] * (2 if what == "reply" else 3))
    assert service.core.metrics.in_flight == 0


def test_nobody_is_told_twice(service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    submit = service.core.log.submit_then
    over: list[str | None] = []

    def submitted_and_failing(told: Any, *payloads: bytes) -> None:
        def noted(reason: str | None) -> None:
            told(reason)
            over.append(reason)

        submit(noted, *payloads)
        raise RuntimeError("after all")

    async def with_it(wire: Wire) -> list[int]:
        wires = await connected(wire, 3)
        with monkeypatch.context() as patch:
            patch.setattr(service.core.log, "submit_then", submitted_and_failing)
            first = await at_once(wires, [asked()] * 3)
        while not over:
            await asyncio.sleep(0)
        return [status for status, *_ in (*first, *await at_once(wires, [asked()] * 3))]

    assert talk(service, with_it) == [500, 500, 500, 200, 200, 200]
    assert (groups[-1], over) == (3, [None])
    assert (len(service.core.in_flight), service.core.metrics.in_flight) == (0, 0)
