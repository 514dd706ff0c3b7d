"""Requests in bulk that come together over many connections are computed together, and each as if it had come alone."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pilotage.release.commands import shadow
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.drafts import Asked, AskedRows
from pilotage.runtime.responder import Many
from pilotage.testing.bundles import tiny_spec
from serving import turns
from serving.turns import BulkTurns
from tests.unit.serving.hosted import Hosted, hosted
from tests.unit.serving.test_express import talk
from tests.unit.serving.test_micro_batch import orders
from tests.unit.serving.wire import Wire, asked, at_once, connected

BATCH = "/tiny/predict/batch"


@pytest.fixture
def rounds(service: Hosted, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many rows of each request were answered together, time after time."""
    found: list[list[int]] = []
    responder = service.core.responder
    answer = responder.answer_many

    def noted(model: str, batches: Any, **more: Any) -> list[Many]:
        found.append([len(rows) for rows in batches])
        return answer(model, batches, **more)

    monkeypatch.setattr(responder, "answer_many", noted)
    return found


def batch_of(rows: list[Any], path: str = BATCH) -> bytes:
    return asked(json.dumps({"requests": rows}).encode(), path=path)


def test_each_gets_its_own_answers_and_they_are_computed_at_once(service: Hosted, rounds: list[list[int]]) -> None:
    sent = [[{**row, "order_id": f"{number}-{row['order_id']}"} for row in orders(30)] for number in range(5)]
    sent[1][3] = {**sent[1][3], "amount": "much"}

    async def with_it(wire: Wire) -> list[Any]:
        wires = await connected(wire, 5)
        return await at_once(wires, [batch_of(rows) for rows in sent])

    answers = talk(service, with_it)
    assert rounds == [[30] * 5]
    logged = {each.prediction_id: each for each in service.logged() if isinstance(each, PredictionRecord)}
    for rows, (status, headers, body) in zip(sent, answers, strict=True):
        assert status == 200
        for row, told in zip(rows, json.loads(body)["answers"], strict=True):
            if row["amount"] == "much":
                assert told["error"]["field"] == "amount"
                continue
            record = logged[told["answer"]["prediction_id"]]
            assert told["answer"]["entity"]["order_id"] == row["order_id"] == record.request["order_id"]
            assert (record.request_id, record.probability) == (headers["x-request-id"], told["answer"]["probability"])


def test_a_turn_has_so_many_rows_and_one_model(
    service: Hosted, rounds: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TOGETHER", 70)

    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 6)
        other = batch_of(orders(5), "/other/predict/batch")
        sent = [*[batch_of(orders(30))] * 3, other, batch_of(orders(100)), batch_of(orders(1))]
        for status, *_ in await at_once(wires, sent):
            assert status == 200

    talk(service, with_it)
    assert sorted(rounds) == sorted([[30, 30], [30], [5], [100], [1]])


def test_others_get_the_loop_between_two_turns(service: Hosted, rounds: list[list[int]]) -> None:
    answered: list[int] = []

    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 3)
        for each in wires[:2]:
            each.writer.write(batch_of(orders(1000)))
        while not rounds:
            await asyncio.sleep(0)
        # One that is refused waits for no disk, which may take longer than all rounds together.
        assert (await wires[2].ask(asked({})))[0] == 422
        answered.append(len(rounds))
        for each in wires[:2]:
            assert (await each.answer())[0] == 200

    talk(service, with_it)
    assert sum(map(sum, rounds)) == 2000
    assert answered[0] < 10


async def _cancelled_and_after(service: Hosted) -> Many:
    wrong: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    bulk = BulkTurns(service.core.responder)
    rows = AskedRows(Asked(orders(2), "r", "k", 0))
    left, stays = bulk.answer("tiny", rows, None), bulk.answer("tiny", rows, None)
    left.cancel()
    many = await stays
    alone = bulk.answer("tiny", rows, None)
    alone.cancel()
    await asyncio.sleep(0.01)
    assert len((await bulk.answer("tiny", rows, None)).results) == 2
    assert wrong == []
    return many


def test_whose_time_was_up_is_not_answered_any_more(service: Hosted, rounds: list[list[int]]) -> None:
    assert len(service.run(_cancelled_and_after(service)).results) == 2
    assert rounds == [[2], [2]]


async def _apart(service: Hosted, bulk: BulkTurns, pause: int) -> None:
    rows = AskedRows(Asked(orders(2), "r", "k", 0))
    answers = []
    for _ in range(3):
        answers.append(bulk.answer("tiny", rows, None))
        for _ in range(pause):
            await asyncio.sleep(0)
    await asyncio.gather(*answers)


def test_fewer_than_usual_wait_a_few_turns_for_the_others(service: Hosted, rounds: list[list[int]]) -> None:
    bulk = BulkTurns(service.core.responder)
    service.run(_apart(service, bulk, 5))
    assert rounds == [[2]] * 3
    service.run(_apart(service, bulk, 0))
    service.run(_apart(service, bulk, 5))
    assert rounds[3:] == [[2, 2, 2]] * 2


@pytest.mark.parametrize("batch", [False, True], ids=["one", "a batch"])
def test_a_fault_of_what_shadows_are_offered_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, batch: bool
) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        service.release("tiny", tiny_spec("tiny"), 2, promote=False)
        shadow("tiny", 2, settings=service.settings, actor="test", why="test")
        service.run(asyncio.to_thread(service.core.follower.look))
        assert service.core.follower.boards["tiny"].shadows

        def broken(*_: Any) -> None:
            raise RuntimeError("broken")

        with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING"):
            patch.setattr(service.core.shadows, "_offer", broken)
            patch.setattr(logging.getLogger("pilotage"), "propagate", True)
            headers = {"x-request-id": "r-1"}
            if batch:
                told = service.post("/tiny/predict/batch", json={"requests": orders(3)}, headers=headers)
            else:
                told = service.predict(headers=headers)
        assert told.status_code == 200
        assert len(service.predictions("r-1")) == (3 if batch else 1)
        assert any("could not be offered" in record.getMessage() for record in caplog.records)


def test_after_whatever_went_wrong_the_next_are_answered(service: Hosted) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    async def with_it(wire: Wire) -> None:
        wires = await connected(wire, 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.core.responder, "answer_many", broken)
            assert [status for status, *_ in await at_once(wires, [batch_of(orders(2))] * 3)] == [500] * 3
        assert [status for status, *_ in await at_once(wires, [batch_of(orders(2))] * 3)] == [200] * 3

    talk(service, with_it)
