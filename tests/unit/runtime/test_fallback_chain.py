"""Who answers when versions fail or differ in what they take: trials, the answers of before, the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.errors import InvalidRequest, StateUnavailable
from pilotage.runtime.board import Loaded
from pilotage.runtime.drafts import Drafted
from pilotage.spec import Feature, ModelSpec, Serving
from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.runtime.test_responder import fail
from tests.unit.runtime.world import World, record_of, world_of

# Trials


def broken(world: World) -> Loaded:
    """The champion, mended after its breaker opened, with a trial due."""
    champion = world.follower.boards["one"].champion
    assert champion is not None
    mended = fail(champion)
    for number in range(3):
        world.answer("one", amount=float(number))
    mended()
    assert champion.breaker.open
    champion.breaker._not_before = 0.0
    return champion


def alone(world: World) -> None:
    with pytest.raises(InvalidRequest):
        world.answer("one", amount="much")


def in_bulk(world: World) -> None:
    world.answer_rows("one", [{}] * 30)


def one_that_fails_at_once(world: World) -> None:
    champion = world.follower.boards["one"].champion
    assert champion is not None
    mended = fail(champion, "score_many")
    world.answer_rows("one", [ORDER, {**ORDER, "amount": 7.0}])
    mended()
    assert not champion.breaker.open


def without_history(world: World) -> None:
    mended = fail(world.follower.boards["one"].champion, "prepare", StateUnavailable("None.", fix="Make it."))
    assert world.answer("one").answer.answered_by in ("rule", "cached_answer")
    mended()


@pytest.mark.parametrize("trial", [alone, in_bulk, one_that_fails_at_once, without_history])
def test_a_trial_that_says_nothing_of_the_version_is_left_to_the_next_request(
    tmp_path: Path, trial: Callable[[World], Any]
) -> None:
    world = world_of(tmp_path, "one", serving=Serving(break_after=3, break_for=timedelta(hours=1)))
    world.release("one", 1)
    champion = broken(world)
    trial(world)
    assert world.answer("one", amount=9.0).answer.answered_by == "model"
    assert not champion.breaker.open


# Versions that take different requests


def strict(spec: ModelSpec) -> ModelSpec:
    """A version that takes two items at most: not the usual order."""
    request = tuple(each.model_copy(update={"maximum": 2}) if each.name == "items" else each for each in spec.request)
    return spec.model_copy(update={"request": request})


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With a strict canary that gets every request."""
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    canary = world.made("one", 2, "canary", share=1.0, salt="salt", spec=strict(world.specs["one"]))
    world.decide("one", canary=canary)
    return world


def test_what_only_the_canary_refuses_gets_the_answer_of_before_and_then_the_rule(world: World) -> None:
    before = world.answer("one").answer
    assert before.version == 1
    fail(world.follower.boards["one"].champion, "prepare")
    again = world.answer("one")
    assert (again.answer.answered_by, again.answer.probability) == ("cached_answer", before.probability)
    other = world.answer("one", amount=700.0)
    assert (other.answer.answered_by, other.answer.probability) == ("rule", 0.6)
    assert other.answer.reasons[0].startswith("canary version 2 does not take this request: items: ")
    for drafted, amount in ((again, 640.5), (other, 700.0)):
        record = record_of(drafted)
        assert record.request == {**ORDER, "amount": amount}
        assert (record.routed_version, record.features) == (2, None)
    many = world.answer_rows("one", [ORDER, {**ORDER, "amount": 700.0}])
    assert [each.answer.answered_by for each in many.results if isinstance(each, Drafted)] == ["cached_answer", "rule"]


def test_the_rule_is_logged_with_the_features_of_the_version_that_it_is_of(tmp_path: Path) -> None:
    spec = tiny_spec("one")
    request = tuple(each.model_copy(update={"personal": each.name == "courier"}) for each in spec.request)
    initial = Feature(name="initial", expr=pl.col("courier").str.head(1), description="Initial")
    old = spec.model_copy(update={"request": request})
    new = old.model_copy(update={"features": (*old.features, initial)})
    world = World(tmp_path, new)
    world.decide("one", champion=world.made("one", 1, spec=old))
    world.decide("one", canary=world.made("one", 2, "canary", share=1.0, salt="salt", spec=new))
    for loaded in world.follower.boards["one"].loaded().values():
        fail(loaded)
    drafted = world.answer("one", courier="Charlotte")
    assert drafted.answer.answered_by == "rule"
    features = record_of(drafted).features
    assert features is not None
    assert "initial" not in features
    assert features["courier"].startswith("pseudonym:")
    assert b"Charlotte" not in drafted.payload


# Versions that are asked for by their number


def asked_for(world: World, version: int, changes: list[dict[str, Any]]) -> list[Drafted]:
    many = world.answer_rows("one", [{**ORDER, **each} for each in changes], version=version)
    return [each for each in many.results if isinstance(each, Drafted)]


def test_who_asks_for_a_version_that_fails_is_told_so_whoever_the_lot_would_have_drawn(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", serving=Serving(break_after=3, break_for=timedelta(hours=1)))
    world.release("one", 1)
    world.decide("one", canary=world.made("one", 2, "canary", share=0.0, salt="salt"))
    canary = world.follower.boards["one"].canary
    assert canary is not None
    for step in ("decide", "score_many"):
        fail(canary.loaded, step)
    for [drafted] in [asked_for(world, 2, [{"amount": float(each)}]) for each in range(3)]:
        assert (drafted.answer.version, drafted.answer.answered_by) == (1, "model")
        assert drafted.answer.reasons == ("canary version 2 failed: RuntimeError",)
        assert (record_of(drafted).routed_version, record_of(drafted).drawn_by) == (2, None)
    assert canary.loaded.breaker.open
    [drafted] = asked_for(world, 2, [{}])
    assert drafted.answer.reasons == ("canary version 2 is not asked for a while, since it failed repeatedly",)


def test_a_version_on_trial_does_not_stand_in_for_the_champion_that_was_asked_for(world: World) -> None:
    fail(world.follower.boards["one"].champion, "score_many")
    fail(world.follower.boards["one"].champion)
    [drafted] = asked_for(world, 1, [{"items": 1}])
    assert drafted.answer.answered_by == "rule"
    assert drafted.answer.reasons[0] == "champion version 1 failed: RuntimeError"


def test_a_row_that_the_version_asked_for_does_not_take_says_who_answered_it(world: World) -> None:
    canary = world.plans["one"].canary
    assert canary is not None
    world.decide("one", canary=replace(canary, share=0.0))
    taken, refused = asked_for(world, 2, [{"items": 1}, {"items": 3}])
    assert (taken.answer.version, taken.answer.reasons) == (2, ())
    assert refused.answer.version == 1
    assert refused.answer.reasons[0].startswith("canary version 2 does not take this request: items: ")


# The answer of before


def test_another_request_with_the_same_values_in_other_fields_does_not_get_its_answer(tmp_path: Path) -> None:
    spec = tiny_spec("one")
    fields = {each.name: each for each in spec.request}
    swapped = {"order_id": "courier", "courier": "order_id"}
    request = tuple(fields[swapped.get(each.name, each.name)] for each in spec.request)
    world = World(tmp_path, spec.model_copy(update={"request": request}))
    world.decide("one", champion=world.made("one", 1, spec=spec))
    sent = {**ORDER, "order_id": "ann", "courier": "bob"}
    before = world.answer("one", sent).answer
    world.release("one", 2)
    for loaded in world.follower.boards["one"].loaded().values():
        fail(loaded, "prepare")
    assert world.answer("one", {**sent, "order_id": "bob", "courier": "ann"}).answer.answered_by == "rule"
    again = world.answer("one", sent).answer
    assert (again.answered_by, again.version, again.probability) == ("cached_answer", 1, before.probability)
