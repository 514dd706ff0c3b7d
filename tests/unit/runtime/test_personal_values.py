"""What identifies a person stands in no record and no line of the log, whatever a version says of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.errors import InvalidRequest
from pilotage.runtime.log.segments import encode
from pilotage.runtime.shadows import Shadows
from pilotage.spec import Feature, ModelSpec, RequestField
from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.runtime.world import World, record_of

NAME = "Charlotte Brontë"


def personal(*names: str, **changes: Any) -> ModelSpec:
    """The small model, with fields that identify a person."""
    request = tuple(each.model_copy(update={"personal": each.name in names}) for each in tiny_spec().request)
    return tiny_spec("one", request=request, **changes)


def narrow(spec: ModelSpec) -> ModelSpec:
    """A version of it that knows two couriers."""
    request = tuple(
        RequestField(**{**each.model_dump(), "one_of": ("Ann", "Bob")}) if each.name == "courier" else each
        for each in spec.request
    )
    return spec.model_copy(update={"request": request})


def test_a_canary_that_does_not_take_a_value_does_not_tell_it(tmp_path: Path) -> None:
    spec = personal("courier")
    world = World(tmp_path, spec)
    world.release("one", 1)
    world.decide("one", canary=world.made("one", 2, "canary", share=1.0, salt="salt", spec=narrow(spec)))
    drafted = world.answer("one", courier=NAME)
    assert drafted.answer.reasons == ("canary version 2 does not take this request: courier: Use one of: Ann, Bob.",)
    assert record_of(drafted).reasons == drafted.answer.reasons
    assert NAME.encode() not in drafted.payload


def test_a_version_before_that_does_not_take_a_value_does_not_tell_it(tmp_path: Path) -> None:
    spec = personal("courier")
    world = World(tmp_path, spec)
    world.decide("one", previous=world.made("one", 2, "previous_champion", spec=narrow(spec)))
    world.decide("one", champion=world.made("one", 1))
    champion = world.follower.boards["one"].champion
    assert champion is not None
    champion.predictor.decide = None  # type: ignore[assignment,method-assign]
    drafted = world.answer("one", courier=NAME)
    assert "previous champion version 2 does not take this request: courier: Use one of: Ann, Bob." in (
        drafted.answer.reasons
    )
    assert NAME.encode() not in drafted.payload


@pytest.mark.parametrize("number", [1, 3])
def test_a_shadow_that_does_not_take_a_value_does_not_tell_it(tmp_path: Path, number: int) -> None:
    spec = personal("courier")
    world = World(tmp_path, spec)
    world.release("one", 1)
    world.decide("one", shadows=(world.made("one", 2, "shadow", spec=narrow(spec)),))
    logged: list[bytes] = []
    queue = Shadows(encode=encode, log=lambda payload: not logged.append(payload), report=world.said.append)

    async def run() -> None:
        queue.start(asyncio.get_running_loop())
        for _ in range(number):
            queue.offer(world.answer("one", courier=NAME))
        while len(queue):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert len(logged) == number
    for payload in logged:
        assert b"courier: Use one of: Ann, Bob." in payload
        assert NAME.encode() not in payload
    assert not any(NAME in sentence for sentence in world.said)


def test_a_feature_that_can_not_be_computed_from_a_value_does_not_tell_it(tmp_path: Path) -> None:
    number = Feature(name="number", expr=pl.col("courier").str.slice(1).cast(pl.Int64), description="Number")
    world = World(tmp_path, personal("courier", features=(*tiny_spec().features, number)))
    world.release("one", 1)
    drafted = world.answer("one", courier=NAME)
    assert drafted.answer.answered_by == "rule"
    assert drafted.answer.reasons[0] == (
        "champion version 1 failed: Feature number can't be computed: InvalidOperationError."
    )
    many = world.answer_rows("one", [{**ORDER, "courier": NAME}] * 30)
    for text in (drafted.payload.decode(), *(payload.decode() for payload in many.payloads), *world.said):
        assert NAME[1:] not in text
    assert any("Feature number can't be computed" in sentence for sentence in world.said), "the operator is told"


def test_who_sent_a_wrong_value_is_told_which(tmp_path: Path) -> None:
    spec = personal("courier")
    world = World(tmp_path, narrow(spec))
    world.release("one", 1)
    with pytest.raises(InvalidRequest, match=NAME):
        world.answer("one", courier=NAME)
    assert not any(NAME in sentence for sentence in world.said)


@pytest.mark.parametrize("number", [1, 3, 30])
@pytest.mark.parametrize("knows", ["canary", "shadow", "spec"])
def test_what_is_personal_to_one_version_is_in_no_record_of_another(tmp_path: Path, knows: str, number: int) -> None:
    initial = Feature(name="initial", expr=pl.col("courier").str.head(1), description="Initial")
    features = (*tiny_spec().features, initial)
    plain, aware = personal(features=features), personal("courier", features=features)
    world = World(tmp_path, aware if knows == "spec" else plain)
    world.decide("one", champion=world.made("one", 1, spec=plain))
    if knows == "canary":
        world.decide("one", canary=world.made("one", 2, "canary", share=0.0, salt="salt", spec=aware))
    if knows == "shadow":
        world.decide("one", shadows=(world.made("one", 2, "shadow", spec=aware),))
    many = world.answer_rows("one", [{**ORDER, "courier": NAME}] * number)
    single = world.answer("one", courier=NAME)
    assert single.answer.version == 1
    for payload in (*many.payloads, single.payload):
        assert NAME.encode() not in payload
    record = record_of(single)
    assert record.features is not None
    hidden = (record.request["courier"], record.features["courier"], record.features["initial"])
    assert all(value.startswith("pseudonym:") for value in hidden)
    assert record.request["order_id"] == "A-7"
