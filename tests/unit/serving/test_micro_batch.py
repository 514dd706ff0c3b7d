"""Requests that come together over many connections are answered together, and each as if it had come alone."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime.access.caller import Limit
from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.drafts import Drafted
from pilotage.testing.bundles import ORDER, tiny_spec
from serving import express
from serving.in_flight import InFlight
from serving.metrics_text import PHASES
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_express import ORDINARY, PLAIN, Disk, talk
from tests.unit.serving.wire import Wire, asked, at_once, connected, scrubbed

KEPT = {name: sent for name, sent in PLAIN.items() if name != "a connection that ends"}


def orders(number: int) -> list[dict[str, Any]]:
    return [{**ORDER, "order_id": f"A-{each}", "amount": 20.0 * each} for each in range(number)]


@pytest.mark.parametrize("number", [2, 16, 40])
def test_each_gets_its_own_answer_and_all_share_a_commit(service: Hosted, groups: list[int], number: int) -> None:
    async def with_it(wire: Wire) -> list[Any]:
        wires = await connected(wire, number)
        groups.clear()
        commits = service.core.log.commits
        answers = await at_once(wires, [asked(order) for order in orders(number)])
        assert groups == [number]
        assert service.core.log.commits == commits + 1
        return answers

    answers = talk(service, with_it)
    ids = [headers["x-request-id"] for _, headers, _ in answers]
    logged = {record.request_id: record for record in service.logged() if isinstance(record, PredictionRecord)}
    for order, request_id, (status, _, body) in zip(orders(number), ids, answers, strict=True):
        answer, record = json.loads(body), logged[request_id]
        assert (status, answer["entity"]["order_id"]) == (200, order["order_id"])
        assert (record.prediction_id, record.probability) == (answer["prediction_id"], answer["probability"])
        assert record.request["amount"] == order["amount"]
        alone = service.predict(**order).json()
        assert (alone["probability"], alone["decision"]) == (answer["probability"], answer["decision"])
    assert len(set(ids)) == number


def test_whatever_comes_together_is_answered_as_it_would_be_alone(service: Hosted, groups: list[int]) -> None:
    several = {**KEPT, "an id": ORDINARY["an id"], "a query": ORDINARY["a query"], "a batch": ORDINARY["a batch"]}

    async def with_it(wire: Wire) -> list[tuple[list[str], list[Any]]]:
        chance, told = random.Random(11), []
        wires = await connected(wire, 12)
        for _ in range(30):
            names = chance.choices(sorted(several), k=12)
            told.append((names, list(map(scrubbed, await at_once(wires, [several[name] for name in names])))))
        return told

    short = talk(service, with_it)
    assert max(groups) > 6
    for (names, answers), (_, others) in zip(short, talk(service, with_it, express=False), strict=True):
        assert answers == others, names


def test_more_than_a_group_are_several(service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "TOGETHER", 4)

    async def with_it(wire: Wire) -> list[Any]:
        wires = await connected(wire, 15)
        groups.clear()
        return await at_once(wires, [asked(order) for order in orders(15)])

    answers = talk(service, with_it)
    assert [json.loads(body)["entity"]["order_id"] for *_, body in answers] == [f"A-{each}" for each in range(15)]
    assert (sum(groups), max(groups)) == (15, 4)


def test_who_comes_alone_waits_for_nobody(service: Hosted, groups: list[int]) -> None:
    async def with_it(wire: Wire) -> None:
        await wire.ask(asked())
        loop, soon = asyncio.get_running_loop(), []
        call_soon = loop.call_soon

        def noted(callback: Any, *arguments: Any, **options: Any) -> Any:
            soon.append(getattr(callback, "__qualname__", ""))
            return call_soon(callback, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_soon", noted)
            await wire.ask(asked())
        assert not any("_gather" in each for each in soon)

    talk(service, with_it)
    assert groups == [1, 1]


def test_a_key_that_asks_too_often_is_refused_and_nobody_else(tmp_path: Path, groups: list[int]) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        few = create_key(service.settings.api_keys, "few", roles=["predict"], limit=Limit(per_second=0.01, burst=5))[1]
        many = create_key(service.settings.api_keys, "many", roles=["predict"], limit=None)[1]
        service.core.ring.refresh()

        async def with_it(wire: Wire) -> list[int]:
            wires = [wire, *[await wire.another() for _ in range(9)]]
            for each in wires:
                await each.ask(asked(authorization=f"Bearer {many}"))
            keys = [few, many, few, few, "plt_x_y", few, few, few, many, few]
            answers = await at_once(wires, [asked(authorization=f"Bearer {key}") for key in keys])
            return [status for status, *_ in answers]

        assert talk(service, with_it) == [200, 200, 200, 200, 401, 200, 200, 429, 200, 429]
        assert groups[-1] == 10


def test_two_models_are_asked_in_one_group(service: Hosted, groups: list[int]) -> None:
    async def with_it(wire: Wire) -> list[str]:
        wires = await connected(wire, 6)
        sent = [asked(path=f"/{model}/predict") for model in ("tiny", "other") * 3]
        return [json.loads(body)["model"] for *_, body in await at_once(wires, sent)]

    assert talk(service, with_it) == ["tiny", "other"] * 3
    assert groups[-1] == 6


async def one_a_turn(wire: Wire, number: int) -> None:
    """Gives the server's ends of connections a request each, in as many turns of the loop."""
    for each in list(wire.server.server_state.connections)[:number]:
        each.data_received(asked())
        await asyncio.sleep(0)


def test_who_comes_in_the_turns_after_is_in_the_group(service: Hosted, groups: list[int]) -> None:
    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 5)
        groups.clear()
        wire.express.crowded()
        await one_a_turn(wire, 5)
        for each in wires:
            assert (await each.answer())[0] == 200

    talk(service, with_it)
    assert groups == [5]


def test_those_who_never_stop_coming_do_not_hold_up_the_first(
    service: Hosted, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "TOGETHER", 3)

    async def with_it(wire: Wire) -> None:
        await connected(wire, 9)
        groups.clear()
        wire.express.crowded()
        await one_a_turn(wire, 6)
        assert groups[0] == 3
        for each in wire.server.server_state.connections:
            while each.cycle is not None and not each.cycle.response_complete:
                await asyncio.sleep(0)

    talk(service, with_it)


def test_while_others_are_answered_nobody_is_alone(tmp_path: Path, groups: list[int]) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk) as service:

        async def with_it(wire: Wire) -> None:
            wires = await connected(wire, 4)
            disk.go.clear()
            wire.writer.write(asked())
            while not service.core.metrics.in_flight:
                await asyncio.sleep(0)
            for each in wires[1:]:
                each.writer.write(asked())
            while service.core.metrics.in_flight < 4:
                await asyncio.sleep(0)
            disk.go.set()
            for each in wires:
                assert (await each.answer())[0] == 200

        talk(service, with_it)
        assert groups[-2:] == [1, 3]


def test_their_time_begins_when_they_are_there_and_not_when_they_began_to_come(tmp_path: Path) -> None:
    disk = Disk()
    with hosted(tmp_path, tiny_spec("tiny"), filesystem=disk, in_flight=InFlight(reading_s=-1.0)) as service:

        async def with_it(wire: Wire) -> int:
            disk.go.clear()
            wire.writer.write(asked())
            while not service.core.metrics.in_flight:
                await asyncio.sleep(0)
            service.core.in_flight._look()
            disk.go.set()
            return (await wire.answer())[0]

        assert talk(service, with_it) == 200


def test_each_is_counted_timed_and_offered_to_shadows(
    tmp_path: Path, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        offered: list[Any] = []
        monkeypatch.setattr(service.core.shadows, "offer_many", offered.extend)

        async def with_it(wire: Wire) -> None:
            wires = await connected(wire, 4)
            assert len(offered) == 4
            answers = await at_once(wires, [asked(b"{"), *[asked(order) for order in orders(3)]])
            assert [status for status, *_ in answers] == [422, 200, 200, 200]

        talk(service, with_it)
        assert groups[-1] == 4
        drafts = [each for each in offered[4:] if isinstance(each, Drafted)]
        assert [each.asked.request["order_id"] for each in drafts] == ["A-0", "A-1", "A-2"]
        for record in service.logged():
            assert isinstance(record, PredictionRecord)
            assert 0 < record.latency_us < 60_000_000
        counted = service.core.metrics
        assert counted._requests == {("/{model}/predict", 200): 7, ("/{model}/predict", 422): 1}
        phases = {name: total for name, (_, total) in zip(PHASES, counted._phases["tiny"].look(), strict=True)}
        assert min(phases.values()) > 0
        assert phases["total"] == pytest.approx(sum(phases.values()) - phases["total"], rel=0.5)
