"""Many rows of one request get what each would get alone: answers, errors, and records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from pilotage.errors import InvalidRequest, PilotageError, UnknownModel
from pilotage.runtime.answer import Answer, BatchRecord, PredictionRecord
from pilotage.runtime.answered import Own
from pilotage.runtime.drafts import Drafted, DraftedRows
from pilotage.runtime.log.framing import frame
from pilotage.runtime.log.segments import Header, decode, encode, read_segment, singles
from pilotage.runtime.responder import Many
from pilotage.runtime.results import Joined
from pilotage.spec import Feature, Serving
from pilotage.testing.bundles import ORDER
from tests.unit.runtime.test_follower import make_online
from tests.unit.runtime.world import World, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = world_of(tmp_path, "one")
    made.release("one", 1)
    return made


def with_canary(world: World, share: float) -> None:
    world.decide("one", canary=world.made("one", 2, "canary", share=share, salt="salt"))


def ask(world: World, rows: list[Any], model: str = "one", **more: Any) -> Many:
    return world.answer_rows(model, rows, **more)


def records_of(many: Many) -> list[PredictionRecord]:
    """As whoever reads the log gets them."""
    return [decode(line) for payload in many.payloads for line in singles(payload)]  # type: ignore[misc]


def drafts_of(many: Many) -> list[Drafted]:
    return [each for each in many.results if isinstance(each, Drafted)]


def the_same(record: PredictionRecord, alone: PredictionRecord) -> None:
    """All but what belongs to one prediction only."""
    own = {"prediction_id": "", "at": 0, "latency_us": 0}
    assert msgspec.structs.replace(record, **own) == msgspec.structs.replace(alone, **own)


def alone(world: World, row: Any, model: str = "one") -> tuple[Drafted, PredictionRecord]:
    drafted = world.responder.answer(model, row, request_id="r-1", caller="k-1")
    return drafted, decode(drafted.payload)  # type: ignore[return-value]


def orders(number: int) -> list[Any]:
    return [{**ORDER, "order_id": f"A-{each}", "amount": float(each)} for each in range(number)]


def check(world: World, rows: list[Any], model: str = "one") -> Many:
    """Each row's answer and record are what they would be alone, in the order of the rows."""
    many = ask(world, rows, model)
    records = iter(records_of(many))
    for row, result in zip(rows, many.results, strict=True):
        try:
            drafted, record = alone(world, row, model)
        except PilotageError as error:
            assert (type(result), str(result)) == (type(error), str(error))
            continue
        assert isinstance(result, Drafted)
        told = next(records)
        the_same(told, record)
        assert told.prediction_id == result.answer.prediction_id
        assert told.at == int(result.answer.predicted_at.timestamp() * 1e6)
        own = {"prediction_id": "", "predicted_at": drafted.answer.predicted_at}
        assert msgspec.structs.replace(result.answer, **own) == msgspec.structs.replace(drafted.answer, **own)
    assert next(records, None) is None
    return many


def test_the_champions_answers_are_one_record(world: World) -> None:
    rows = [*orders(20), {**ORDER, "amount": "much"}, 7, {**ORDER, "courier": "Zoë"}]
    many = check(world, rows)
    assert len(many.payloads) == 1
    assert len(drafts_of(many)) == 21
    assert len({each.answer.prediction_id for each in drafts_of(many)}) == 21


def test_answers_become_the_json_that_each_would_become(tmp_path: Path) -> None:
    made = world_of(tmp_path, "one", serving=Serving(refer_between=(0.3, 0.5)))
    made.release("one", 1)
    odd = ["100 %", "%b%s", 'a"b\\', "Zoë\n\r\u2028", ""]
    rows = [{**row, "order_id": odd[each % 5]} for each, row in enumerate(orders(30))]
    rows[3] = {}
    results = ask(made, rows).results
    assert isinstance(results, DraftedRows)
    answers = [each.answer for each in results if isinstance(each, Drafted)]
    assert results.answers.as_json() == [msgspec.json.encode(answer) for answer in answers]
    assert list(results.answers) == [each.answer if isinstance(each, Drafted) else each for each in results]
    assert results.answers.kinds() == Counter((answer.decision, answer.referred) for answer in answers)
    assert Own._fields == tuple(name for name in Answer.__struct_fields__ if name in Own._fields)


def test_each_of_many_results_is_where_its_row_is(world: World) -> None:
    rows = orders(20)
    rows[0] = rows[7] = rows[19] = 7
    results = ask(world, rows).results
    assert [place for place, each in enumerate(results) if isinstance(each, InvalidRequest)] == [0, 7, 19]
    assert len(results) == 20
    for place, row in enumerate(rows):
        for result in (results[place], results[place - 20]):
            if row != 7:
                assert isinstance(result, Drafted)
                assert result.asked.request is row
                assert result.scored is not None
                assert result.scored.prepared.request["order_id"] == result.answer.entity["order_id"] == row["order_id"]
    with pytest.raises(IndexError):
        results[20]
    assert list(Joined([results, [], results]))[:25] == [*results, *list(results)[:5]]
    joined = Joined([results, results])
    assert (len(joined), joined[21], joined[-1]) == (40, results[1], results[19])


def test_rows_without_a_good_one_leave_no_record(world: World) -> None:
    assert check(world, [7, {}]).payloads == []
    assert ask(world, []) == Many([], [])


def test_rows_are_drawn_by_lot_each_for_itself(world: World) -> None:
    with_canary(world, 0.5)
    rows = orders(40)
    rows[3] = {**ORDER, "amount": "much"}
    rows[5] = 7
    many = check(world, rows)
    assert {each.answer.version for each in drafts_of(many)} == {1, 2}
    assert {record.drawn_by for record in records_of(many)} == {world.plans["one"].canary.sequence}  # type: ignore[union-attr]


def test_what_a_person_should_decide_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", serving=Serving(refer_between=(0.3, 0.5)))
    world.release("one", 1)
    many = check(world, [{**ORDER, "amount": 40.0 * each, "express": each % 2 == 0} for each in range(30)])
    assert {each.answer.referred for each in drafts_of(many)} == {True, False}


def test_personal_values_are_pseudonyms(tmp_path: Path) -> None:
    plain = world_of(tmp_path / "plain", "one").specs["one"]
    request = tuple(
        field.model_copy(update={"personal": field.name in ("order_id", "courier")}) for field in plain.request
    )
    features = (*plain.features, Feature(name="initial", expr=pl.col("courier").str.head(1), description="Initial"))
    world = world_of(tmp_path, "one", request=request, features=features)
    world.release("one", 1)
    many = check(world, [{**row, "courier": "Charlotte"} for row in orders(3)])
    for secret in (b"A-1", b"Charlotte"):
        assert secret not in b"".join(many.payloads)


def test_the_log_is_told_which_state_they_are_from(tmp_path: Path) -> None:
    world = world_of(tmp_path, "stateful")
    make_online(tmp_path)
    world.release("stateful", 1)
    many = ask(world, orders(3), "stateful")
    assert {record.state for record in records_of(many)} == {world.kept["stateful"].state}  # type: ignore[union-attr]
    for number in (2, 60):
        check(world, orders(number), "stateful")
        check(world, [*orders(number), {**ORDER, "amount": "much"}], "stateful")
        check(world, [*orders(number), {**ORDER, "ordered_at": "1999-01-01T00:00:00Z"}], "stateful")


def test_rows_fall_back_one_by_one(world: World) -> None:
    loaded = world.follower.boards["one"].champion
    assert loaded is not None

    def failing(*_: Any) -> Any:
        raise RuntimeError("broken")

    for step in ("decide", "probabilities", "score_many"):
        setattr(loaded.predictor, step, failing)
    many = check(world, orders(2))
    assert [each.answer.answered_by for each in drafts_of(many)] == ["rule", "rule"]
    assert len(many.payloads) == 2


def test_an_answer_to_a_row_is_there_when_the_model_fails(world: World) -> None:
    [first] = drafts_of(ask(world, [ORDER]))
    loaded = world.follower.boards["one"].champion
    assert loaded is not None
    loaded.predictor.prepare = None  # type: ignore[assignment,method-assign]
    again, _ = alone(world, ORDER)
    assert again.answer.answered_by == "cached_answer"
    assert again.answer.probability == first.answer.probability


def test_a_version_may_be_asked_for_by_its_number(world: World) -> None:
    with_canary(world, 0.01)
    many = ask(world, [ORDER], version=2)
    assert [(each.answer.version, each.answer.stage) for each in drafts_of(many)] == [(2, "canary")]
    assert [record.drawn_by for record in records_of(many)] == [None]
    with pytest.raises(UnknownModel, match="Version 9"):
        ask(world, [ORDER], version=9)


def test_a_segment_gives_a_record_for_each_row(world: World, tmp_path: Path) -> None:
    many = ask(world, [*orders(3), 7])
    single, record = alone(world, ORDER)
    path = tmp_path / "w-20240301T120000.000000Z-000001.sealed"
    path.write_bytes(frame([(encode(Header(worker="w", at=1)),), many.payloads, (single.payload,)]))
    assert list(read_segment(path)) == [*records_of(many), record]


def test_a_record_of_a_batch_keeps_every_value(world: World) -> None:
    [payload] = ask(world, orders(2)).payloads
    batch = msgspec.json.decode(payload, type=BatchRecord)
    assert msgspec.json.decode(payload)["kind"] == "predictions"
    assert msgspec.json.decode(encode(batch), type=BatchRecord) == batch
    told, again = json.loads(payload), json.loads(encode(batch))
    assert again == {**told, "rows": [[*row, None, None, None] for row in told["rows"]]}


def test_a_wrong_row_does_not_count_as_the_models_failure(world: World) -> None:
    loaded = world.follower.boards["one"].champion
    assert loaded is not None
    for _ in range(2 * Serving().break_after):
        [result] = ask(world, [{}]).results
        assert isinstance(result, InvalidRequest)
    assert loaded.breaker.allows()


@pytest.mark.parametrize("number", [3, 30])
def test_rows_that_break_the_contract_do_not_speak_for_the_version(world: World, number: int) -> None:
    champion = world.follower.boards["one"].champion
    assert champion is not None
    champion.breaker.failed()
    ask(world, [{**ORDER, "amount": "much"}] * number)
    assert champion.breaker._failures == 1
    ask(world, [{**ORDER, "amount": "much"}] * number + orders(1))
    assert champion.breaker._failures == 0
