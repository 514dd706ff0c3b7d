"""When a group begins: with whoever is there, as one after another is at the disk, and after whatever went wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.log import unavailable
from pilotage.testing.bundles import tiny_spec
from serving import express, micro_batch
from serving.in_flight import InFlight
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_express import Disk, talk
from tests.unit.serving.test_micro_batch import orders
from tests.unit.serving.wire import Wire, asked, at_once, connected


async def until_waiting(service: Hosted, number: int) -> None:
    while service.core.metrics.in_flight < number:
        await asyncio.sleep(0)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_who_comes_while_others_are_at_the_disk_waits_and_all_such_go_together(
    tmp_path: Path, groups: list[int]
) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> list[int]:
            wires = await connected(wire, 5)
            groups.clear()
            disk.go.clear()
            wire.express.crowded()
            for number, each in enumerate(wires):
                each.writer.write(asked())
                if number:
                    await until_waiting(service, number + 1)
                    await turns(20)
            disk.go.set()
            return [(await each.answer())[0] for each in wires]

        assert talk(service, with_it) == [200] * 5
        assert groups == [2, 3]


def test_enough_do_not_wait_for_the_disk(tmp_path: Path, groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "TOGETHER", 3)
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> None:
            wires = await connected(wire, 6)
            groups.clear()
            disk.go.clear()
            wire.express.crowded()
            for number, each in enumerate(wires, start=1):
                each.writer.write(asked())
                if number > 1:
                    await until_waiting(service, number)
            while len(groups) < 2:
                await asyncio.sleep(0)
            disk.go.set()
            for each in wires:
                assert (await each.answer())[0] == 200

        talk(service, with_it)
        assert groups[1] == 3


async def apart(wire: Wire, number: int, pause: int) -> None:
    """Gives the server's ends of connections a request each, with turns of the loop between."""
    wire.express.crowded()
    for each in list(wire.server.server_state.connections)[:number]:
        each.data_received(asked())
        await turns(pause)


def test_fewer_than_usual_wait_a_few_turns_for_the_others(service: Hosted, groups: list[int]) -> None:
    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 5)
        await at_once(wires, [asked()] * 5)
        groups.clear()
        await apart(wire, 5, pause=4)
        for each in wires:
            assert (await each.answer())[0] == 200

    talk(service, with_it)
    assert groups == [5]


def test_nobody_waits_for_others_who_do_not_come_any_more(service: Hosted, groups: list[int]) -> None:
    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 8)
        await at_once(wires, [asked()] * 8)
        groups.clear()
        for _ in range(12):
            await at_once(wires[:2], [asked()] * 2)
        assert service.gateway.express._gathering.usual == 2

    talk(service, with_it)
    assert groups == [2] * 12


def test_whose_time_is_up_while_they_wait_are_told_and_never_logged(tmp_path: Path, groups: list[int]) -> None:
    disk = Disk()
    in_flight = InFlight(answering_s=0.01)
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk, in_flight=in_flight) as service:

        async def with_it(wire: Wire) -> list[int]:
            wires = await connected(wire, 3)
            groups.clear()
            disk.go.clear()
            wire.express.crowded()
            for each in wires[:2]:
                each.writer.write(asked())
            await until_waiting(service, 2)
            wires[2].writer.write(asked(orders(1)[0]))
            told = [(await each.answer())[0] for each in wires]
            disk.go.set()
            while service.gateway.express._at_disk:
                await asyncio.sleep(0.001)
            return [*told, (await wires[2].ask(asked()))[0]]

        assert talk(service, with_it) == [504, 504, 504, 200]
        assert groups == [2, 1]
        logged = [record for record in service.logged() if isinstance(record, PredictionRecord)]
        assert not any(record.request["order_id"] == "A-0" for record in logged)


def _no_room(*_: Any) -> None:
    raise unavailable("the disk does not keep up")


def _broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("nothing", None, None),
        ("submit_then", "log", _no_room),
        ("submit_then", "log", _broken),
        ("answer_each", "responder", _broken),
        ("take_each", "limiter", _broken),
        ("_answer", micro_batch, _broken),
    ],
)
@pytest.mark.parametrize("sent", [asked(), asked(b"{"), asked(authorization="Bearer x")], ids=["good", "bad", "nobody"])
def test_after_whatever_went_wrong_the_next_are_answered(
    service: Hosted, groups: list[int], name: str, where: Any, what: Any, sent: bytes
) -> None:
    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 3)
        groups.clear()
        with pytest.MonkeyPatch.context() as patch:
            if where is not None:
                patch.setattr(getattr(service.core, where) if isinstance(where, str) else where, name, what)
            wire.express.crowded()
            for each in wires:
                each.writer.write(sent)
            await until_waiting(service, 1)
            while service.gateway.express._at_disk or service.gateway.express._waiting:
                await asyncio.sleep(0.001)
        for each in [await wire.another() for _ in range(3)]:
            assert (await each.ask(asked()))[0] == 200

    talk(service, with_it)
    assert groups[0] == 3
