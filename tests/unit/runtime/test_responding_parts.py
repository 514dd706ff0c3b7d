"""The small parts that the responder is made of: breaker, routing, the note of the last plans, shadows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.expressions import to_json
from pilotage.runtime import plans_file, shadows
from pilotage.runtime.answer import ShadowRecord
from pilotage.runtime.answer_writer import Ids
from pilotage.runtime.breaker import Breaker
from pilotage.runtime.contract import Contract
from pilotage.runtime.drafts import Drafted
from pilotage.runtime.log.segments import decode, encode
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.plans_file import PlansFile
from pilotage.runtime.responder import Many
from pilotage.runtime.routing import EntityHash, Segment
from pilotage.runtime.shadows import Shadows
from pilotage.testing.bundles import ORDER, START, tiny_spec
from tests.unit.runtime.world import World, world_of

# Breaker


def test_a_breaker_opens_after_failures_in_a_row_and_closes_with_one_success() -> None:
    now = [0.0]
    breaker = Breaker(after=2, pause_s=10, clock=lambda: now[0])
    for outcome in (breaker.failed, breaker.succeeded, breaker.failed):
        outcome()
    assert breaker.allows()
    breaker.failed()
    assert breaker.open
    assert not breaker.allows()
    now[0] = 10.0
    assert breaker.allows(), "one may try"
    assert not breaker.allows(), "the others wait for what it finds"
    breaker.failed()
    now[0] = 19.9
    assert not breaker.allows()
    now[0] = 20.0
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert not breaker.open


def test_a_trial_that_never_came_back_does_not_close_the_way_for_ever() -> None:
    now = [0.0]
    breaker = Breaker(after=1, pause_s=10, clock=lambda: now[0])
    breaker.failed()
    now[0] = 10.0
    assert breaker.allows()
    now[0] = 20.0
    assert breaker.allows()


def test_a_trial_that_found_out_nothing_leaves_the_next_one_to_try() -> None:
    now = [0.0]
    breaker = Breaker(after=1, pause_s=10, clock=lambda: now[0])
    breaker.failed()
    breaker.untried()
    assert not breaker.allows(), "who was let through before it opened was no trial"
    now[0] = 10.0
    assert breaker.allows()
    breaker.untried()
    assert breaker.open
    assert breaker.allows(), "at once"
    breaker.failed()
    breaker.untried()
    assert not breaker.allows(), "the trial was reported"


@given(st.lists(st.booleans()))
def test_a_breaker_is_open_exactly_after_enough_failures_in_a_row(outcomes: list[bool]) -> None:
    breaker = Breaker(after=3, pause_s=10, clock=lambda: 0.0)
    for well in outcomes:
        breaker.succeeded() if well else breaker.failed()
    assert breaker.open is (len(outcomes) >= 3 and not any(outcomes[-3:]))


# Routing

FIELDS = {field.name: field for field in tiny_spec().request}


def test_an_entity_lies_in_the_same_place_however_it_is_written() -> None:
    places = EntityHash(("ordered_at", "amount"), FIELDS)
    one = places.place({"ordered_at": "2024-01-03T10:00:00Z", "amount": 7}, "salt")
    for moment in ("2024-01-03T10:00:00+00:00", "2024-01-03T10:00:00.000Z", datetime(2024, 1, 3, 10, tzinfo=UTC)):
        assert places.place({"ordered_at": moment, "amount": 7.0, "items": 3}, "salt") == one
    assert places.place({"ordered_at": "2024-01-03T10:00:00Z", "amount": 7}, "pepper") != one


def test_the_place_of_an_entity_is_the_same_in_every_process() -> None:
    # Written down: another value would move customers between versions in the middle of a rollout.
    assert EntityHash(("order_id",), FIELDS).place({"order_id": "A-7"}, "salt") == 0.3591396248722937


@given(st.text(max_size=20), st.text(max_size=100))
def test_every_entity_lies_between_0_and_1(entity: str, salt: str) -> None:
    assert 0 <= EntityHash(("order_id",), FIELDS).place({"order_id": entity}, salt) <= 1


@pytest.mark.parametrize("request_", [None, 7, [1], "text", {"order_id": 10**400}, {"order_id": "\ud800"}, {}])
def test_what_is_no_request_goes_to_the_champion_or_lies_somewhere(request_: Any) -> None:
    assert 0 <= EntityHash(("order_id",), FIELDS).place(request_, "salt") <= 1


def test_a_segment_takes_what_its_expression_says_and_nothing_that_is_null_or_wrong() -> None:
    segment = Segment(to_json(pl.col("courier") == "c1", name="segment"), Contract(list(FIELDS.values())))
    assert segment.takes({**ORDER, "courier": "c1"})
    assert not segment.takes({**ORDER, "courier": "c2"})
    assert not segment.takes({**ORDER, "courier": None})
    assert not segment.takes({**ORDER, "courier": "c1", "amount": "much"})


def test_a_segment_may_look_at_times() -> None:
    mornings = pl.col("ordered_at").dt.hour() < 12
    segment = Segment(to_json(mornings, name="segment"), Contract(list(FIELDS.values())))
    assert segment.takes({**ORDER, "ordered_at": "2024-01-03T11:59:00Z"})
    assert not segment.takes({**ORDER, "ordered_at": "2024-01-03T12:00:00Z"})


def test_ids_are_all_different_and_cannot_be_guessed_from_each_other() -> None:
    ids = Ids()
    made = [*(ids() for _ in range(4_000)), *(each for _ in range(10) for each in ids.many(100))]
    assert len(set(made)) == 5_000
    assert all(len(each) == 24 and int(each, 16) >= 0 for each in made)


# The note of the last plans


def plan(sequence: int, killed: str | None = None) -> Plan:
    champion = Assignment(
        version=1,
        role="champion",
        bundle="/b",
        bundle_sha256="ab",
        sequence=sequence,
        since=START,
        trained_at=START,
        share=0.25,
        segment=None,
    )
    return Plan(model="m", sequence=sequence, champion=champion, shadows=(champion,), killed=killed)


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = PlansFile(tmp_path / "new")
    assert file.read() is None
    file.write({"m": plan(3, "why")})
    known = file.read()
    assert known is not None
    assert known.plans == {"m": plan(3, "why")}
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix not in (".json", ".lock")] == []


def test_a_newer_plan_of_another_worker_stays_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PlansFile(tmp_path)
    file.write({"m": plan(5)})
    file.write({"m": plan(4)})
    assert file.read().plans["m"].sequence == 5  # type: ignore[union-attr]
    monkeypatch.setattr(plans_file, "_AHEAD", timedelta(0))
    file.write({"m": plan(4)})
    assert file.read().plans["m"].sequence == 4, "the ledger went back"  # type: ignore[union-attr]


def test_plans_that_were_read_long_before_they_can_be_written_do_not_replace_newer_ones(tmp_path: Path) -> None:
    file = PlansFile(tmp_path)
    file.write({"m": plan(5, "wrong")}, at=START + timedelta(minutes=1))
    file.write({"m": plan(4)}, at=START)
    assert file.read().plans["m"].killed == "wrong"  # type: ignore[union-attr]


@given(st.binary(max_size=50))
def test_whatever_is_there_is_read_or_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plans.json").write_bytes(content)
        with pytest.raises(ValueError, match="holds no plans"):
            PlansFile(Path(folder)).read()


# Shadows


def shadowing(world: World) -> tuple[Shadows, list[ShadowRecord]]:
    logged: list[ShadowRecord] = []

    def log(payload: bytes) -> bool:
        record = decode(payload)
        assert isinstance(record, ShadowRecord)
        logged.append(record)
        return True

    return Shadows(encode=encode, log=log, report=world.said.append), logged


def offer_all(queue: Shadows, drafts: Iterable[Drafted], *, together: bool) -> None:
    """Has shadows predict what was answered: all at once, or each before the next comes."""

    async def run() -> None:
        queue.start(asyncio.get_running_loop())
        for drafted in drafts:
            queue.offer(drafted)
            while not together and len(queue):
                await asyncio.sleep(0)
        while len(queue):
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_shadow_that_fails_is_logged_with_its_reason_and_then_left_alone(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", shadows=(world.made("one", 2, "shadow"),))
    [shadow] = world.follower.boards["one"].shadows
    queue, logged = shadowing(world)

    def failing(*_: Any) -> Any:
        raise RuntimeError("secret")

    shadow.predictor.score_one = shadow.predictor.score_many = failing  # type: ignore[method-assign]

    async def run() -> None:
        queue.start(asyncio.get_running_loop())
        for _ in range(7):
            queue.offer(world.answer("one"))
        while len(queue):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert [record.error for record in logged[:5]] == ["RuntimeError"] * 5
    assert {record.error for record in logged[5:]} == {"not asked for a while, since it failed repeatedly"}
    assert {record.probability for record in logged} == {None}
    assert world.follower.boards["one"].champion is not None
    assert not world.follower.boards["one"].champion.breaker.open


@pytest.mark.parametrize("together", [True, False])
def test_a_shadow_says_to_each_request_what_it_would_say_alone(tmp_path: Path, together: bool) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    spec = world.specs["one"]
    # A shadow may take less than the champion does.
    narrow = tuple(
        field.model_copy(update={"maximum": 5.0}) if field.name == "amount" else field for field in spec.request
    )
    shadow = world.made("one", 2, "shadow", spec=spec.model_copy(update={"request": narrow}))
    world.decide("one", shadows=(shadow,))
    [loaded] = world.follower.boards["one"].shadows
    queue, logged = shadowing(world)
    drafts = [world.answer("one", amount=float(amount)) for amount in range(8)]

    offer_all(queue, drafts, together=together)
    assert [record.prediction_id for record in logged] == [drafted.answer.prediction_id for drafted in drafts]
    state = world.follower.boards["one"].state
    for record, drafted in zip(logged, drafts, strict=True):
        if drafted.asked.request["amount"] > 5:
            assert record.error is not None
            assert "amount" in record.error
        else:
            assert record.probability == loaded.predictor.score_one(drafted.asked.request, state).probability


@pytest.mark.parametrize("with_canary", [False, True], ids=["at once", "one by one"])
def test_a_shadow_sees_every_row_of_a_batch_that_was_answered(tmp_path: Path, with_canary: bool) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    rows = [{**ORDER, "amount": float(amount)} for amount in range(20)]
    rows[4] = {}
    canary = world.made("one", 3, "canary", share=0.5, salt="salt") if with_canary else None
    queue, logged = shadowing(world)

    async def run() -> Many:
        queue.start(asyncio.get_running_loop())
        queue.offer_many(world.answer_rows("one", rows).results)
        assert len(queue) == 0, "no version is on trial"
        world.decide("one", shadows=(world.made("one", 2, "shadow"),), canary=canary)
        many = world.answer_rows("one", rows)
        queue.offer_many(many.results)
        while len(queue):
            await asyncio.sleep(0)
        return many

    drafts = [each for each in asyncio.run(run()).results if isinstance(each, Drafted)]
    assert len(drafts) == 19
    assert [record.prediction_id for record in logged] == [each.answer.prediction_id for each in drafts]


def test_what_shadows_have_no_time_for_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "WAITING", 3)
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", shadows=(world.made("one", 2, "shadow"),))
    queue, logged = shadowing(world)

    async def run() -> None:
        queue.start(asyncio.get_running_loop())
        for _ in range(10):
            queue.offer(world.answer("one"))
        while len(queue):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert (len(logged), queue.dropped) == (3, 7)
    world.decide("one", killed="x")
    queue.offer(world.answer("one"))
    assert len(queue) == 0, "no version is asked while the model is killed"


def test_a_plan_is_json_and_back() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan(1)), type=Plan) == plan(1)
