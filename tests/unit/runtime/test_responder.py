"""Every request gets an answer that says who gave it and why; a model's failure is never the client's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, InvalidRequest, ModelNotReady, UnknownModel
from pilotage.expressions import to_json
from pilotage.runtime.answer import StateRecord
from pilotage.runtime.board import Loaded
from pilotage.runtime.fallback import WITHOUT_HISTORY
from pilotage.runtime.predictor import Predictor
from pilotage.spec import Fallback, Feature, RequestField, Serving
from pilotage.testing.bundles import ORDER
from tests.unit.runtime.test_follower import make_online
from tests.unit.runtime.world import World, record_of, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = world_of(tmp_path, "one")
    made.release("one", 1)
    return made


def fail(loaded: Loaded | None, step: str = "decide", error: Exception | None = None) -> Callable[[], None]:
    """Lets a loaded version fail at a step, until the returned function is called."""
    assert loaded is not None

    def failing(*_: Any) -> Any:
        raise error or RuntimeError("kept in secret.txt")

    setattr(loaded.predictor, step, failing)
    return lambda: delattr(loaded.predictor, step)


def expected(world: World, model: str, version: int, **changes: Any) -> float:
    board = world.follower.boards[model]
    [loaded] = [each for each in board.loaded().values() if each.version == version]
    return loaded.predictor.score_one({**ORDER, **changes}, board.state).probability


def test_the_champion_answers_and_the_record_says_all_of_it(world: World) -> None:
    drafted = world.answer("one")
    answer, record = drafted.answer, record_of(drafted)
    assert (answer.version, answer.stage, answer.answered_by, answer.reasons) == (1, "champion", "model", ())
    assert answer.probability == expected(world, "one", 1)
    assert answer.decision is (answer.probability >= world.specs["one"].kpi.cost.threshold)
    assert (answer.entity, answer.label, answer.logged) == ({"order_id": "A-7"}, "late", True)
    assert record.prediction_id == answer.prediction_id
    assert (record.request_id, record.caller, record.model) == ("r-1", "k-1", "one")
    assert (record.version, record.routed_version, record.drawn_by) == (1, 1, None)
    assert (record.probability, record.decision) == (answer.probability, answer.decision)
    assert record.request == ORDER
    assert record.features is not None
    assert record.features["per_item"] == 640.5 / 3
    assert record.at == int(answer.predicted_at.timestamp() * 1e6)


def test_no_two_predictions_share_an_id(world: World) -> None:
    assert len({world.answer("one").answer.prediction_id for _ in range(2_000)}) == 2_000


def test_a_request_that_breaks_the_contract_is_the_clients_error(world: World) -> None:
    with pytest.raises(InvalidRequest, match="amount"):
        world.answer("one", amount="much")
    with pytest.raises(InvalidRequest, match="not an object"):
        world.answer("one", [1, 2])
    with pytest.raises(UnknownModel):
        world.answer("three")


def test_a_model_that_nothing_was_released_of_is_not_ready(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    with pytest.raises(ModelNotReady, match="no champion"):
        world.answer("one")


def test_a_released_model_answers_by_its_rule_until_a_version_is_loaded_also_after_a_resume(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1, look=False)
    world.follower.follow()
    drafted = world.answer("one")
    answer = drafted.answer
    assert (answer.answered_by, answer.version, answer.probability) == ("rule", None, 0.6)
    assert answer.reasons[0] == "no version could be loaded yet"
    assert record_of(drafted).routed_version is None
    many = world.answer_rows("one", [ORDER, {"amount": 1}])
    assert [type(each).__name__ for each in many.results] == ["Drafted", "InvalidRequest"]
    assert not world.follower.ready()
    world.follower.look()
    assert world.answer("one").answer.answered_by == "model"


# The fallback chain


def test_when_the_champion_fails_the_one_before_answers_and_says_so(world: World) -> None:
    world.release("one", 2)
    fail(world.follower.boards["one"].champion)
    drafted = world.answer("one")
    answer, record = drafted.answer, record_of(drafted)
    assert (answer.version, answer.stage, answer.answered_by) == (1, "previous_champion", "previous_champion")
    assert answer.probability == expected(world, "one", 1)
    assert answer.reasons == ("champion version 2 failed: RuntimeError",)
    assert (record.routed_version, record.version, record.reasons) == (2, 1, answer.reasons)
    assert any("secret.txt" in sentence for sentence in world.said), "the operator is told"


def test_then_the_answer_of_before_and_then_the_rule_and_then_nothing(world: World) -> None:
    champion = world.follower.boards["one"].champion
    before = world.answer("one").answer
    fail(champion, "prepare")
    again = world.answer("one").answer
    assert (again.answered_by, again.version, again.stage) == ("cached_answer", 1, None)
    assert (again.probability, again.decision) == (before.probability, before.decision)
    assert "the same request got at" in again.reasons[-1]
    other = world.answer("one", amount=700.0).answer
    assert (other.answered_by, other.version, other.probability) == ("rule", None, 0.6)
    assert other.decision is True
    assert other.reasons == ("champion version 1 failed: RuntimeError", "answered by rule: Big ones wait.")
    fail(champion, "rule", BundleCorrupt("The rule is gone.", fix="Restore."))
    drafted = world.answer("one", amount=701.0)
    nothing = drafted.answer
    assert (nothing.answered_by, nothing.probability, nothing.decision) == ("nothing", None, None)
    assert nothing.referred
    assert nothing.reasons[-1] == "the rule failed: The rule is gone."
    assert record_of(drafted).answered_by == "nothing"


def test_a_request_that_breaks_the_contract_is_refused_even_when_the_model_fails(world: World) -> None:
    fail(world.follower.boards["one"].champion)
    with pytest.raises(InvalidRequest):
        world.answer("one", amount=None)


def test_the_rule_gives_the_same_number_with_and_without_a_version(tmp_path: Path) -> None:
    rule = pl.col("amount") / 49 / 100
    world = world_of(tmp_path, "one", fallback=Fallback(rule=rule, reason="By size."))
    amounts = [number / 7 for number in range(1, 100)]

    def ruled() -> list[float | None]:
        return [world.answer("one", amount=amount).answer.probability for amount in amounts]

    world.release("one", 1, look=False)
    world.follower.follow()
    declared = ruled()
    world.decide("one", killed="x")
    assert world.follower.boards["one"].loaded()
    assert ruled() == declared


def test_no_answer_of_a_version_that_was_taken_back_is_given_again(world: World) -> None:
    world.release("one", 2)
    bad = world.answer("one").answer
    assert bad.version == 2
    world.decide("one", champion=replace(world.plans["one"].previous, role="champion"), previous=None)
    fail(world.follower.boards["one"].champion, "prepare")
    assert world.answer("one").answer.answered_by == "rule"


def test_a_version_that_keeps_failing_is_left_alone_and_then_tried_again(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", serving=Serving(break_after=3, break_for=timedelta(hours=1)))
    world.release("one", 1)
    champion = world.follower.boards["one"].champion
    assert champion is not None
    mended = fail(champion)
    for number in range(3):
        world.answer("one", amount=float(number))
    assert champion.breaker.open
    mended()
    left_alone = world.answer("one", amount=5.0).answer
    assert left_alone.answered_by == "rule"
    assert left_alone.reasons[0] == "champion version 1 is not asked for a while, since it failed repeatedly"
    champion.breaker._not_before = 0.0
    assert world.answer("one", amount=6.0).answer.answered_by == "model"
    assert not champion.breaker.open


def test_a_request_on_which_polars_panics_is_answered_by_the_rule(tmp_path: Path) -> None:
    due = pl.col("ordered_at") + pl.duration(days=pl.col("items") * 1_100_000)
    features = (Feature(name="due", expr=due.cast(pl.String).str.slice(0, 2), description="Century"),)
    world = world_of(tmp_path, "one", features=features)
    world.release("one", 1)
    assert world.answer("one").answer.answered_by == "model"
    answer = world.answer("one", items=90).answer
    assert (answer.answered_by, answer.probability) == ("rule", 0.6)
    assert "Feature due can't be computed: PanicException" in answer.reasons[0] + answer.reasons[-1]


def test_without_history_the_rule_answers_and_says_that_it_had_none(tmp_path: Path) -> None:
    rule = Fallback(rule=pl.when(pl.col("stock_level").fill_null(0) > 3).then(0.1).otherwise(0.7), reason="Stock.")
    world = world_of(tmp_path, "stateful", fallback=rule)
    world.release("stateful", 1)
    answer = world.answer("stateful").answer
    assert (answer.answered_by, answer.probability) == ("rule", 0.7)
    assert answer.reasons[0].startswith("champion version 1 failed: There is no online store")
    assert answer.reasons[-1] == WITHOUT_HISTORY
    board = world.follower.boards["stateful"]
    assert board.champion is not None
    assert not board.champion.breaker.open, "it is not the version's fault"
    make_online(tmp_path)
    world.follower.look()
    restored = world.answer("stateful").answer
    assert (restored.answered_by, restored.reasons) == ("model", ())
    world.decide("stateful", killed="x")
    assert world.answer("stateful").answer.probability == 0.1, "the rule has history when it is there"
    world.follower.stop()


# Kill


def test_no_version_answers_for_a_killed_model(world: World) -> None:
    before = world.answer("one").answer
    champion = world.follower.boards["one"].champion
    world.decide("one", champion=None, previous=None, killed="wrong since noon")
    fail(champion)
    drafted = world.answer("one")
    answer, record = drafted.answer, record_of(drafted)
    assert (answer.answered_by, answer.version, answer.probability) == ("rule", None, 0.6)
    assert answer.reasons[0] == "the model was killed: wrong since noon"
    assert answer.probability != before.probability
    assert (record.routed_version, record.version) == (None, None)


def test_a_model_that_was_killed_before_anything_was_loaded_answers_by_the_declared_rule(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", "stateful")
    for name in ("one", "stateful"):
        world.decide(name, killed="wrong")
        answer = world.answer(name).answer
        assert (answer.answered_by, answer.probability, answer.decision) == ("rule", 0.6, True)
    assert WITHOUT_HISTORY in answer.reasons
    with pytest.raises(InvalidRequest):
        world.answer("one", amount="much")


# Canary


def with_canary(world: World, share: float, **more: Any) -> None:
    world.decide("one", canary=world.made("one", 2, "canary", share=share, salt="salt", **more))


def test_a_canary_gets_its_share_of_the_entities_and_the_same_ones_each_time(world: World) -> None:
    with_canary(world, 0.25)
    first = {number: world.answer("one", order_id=f"A-{number}").answer.version for number in range(800)}
    again = {number: world.answer("one", order_id=f"A-{number}", amount=1.0).answer.version for number in range(800)}
    assert first == again
    share = sum(version == 2 for version in first.values()) / 800
    # Five standard deviations of a fair draw.
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 800) ** 0.5
    world.decide("one", canary=replace(world.plans["one"].canary, share=0.5))
    wider = {number: world.answer("one", order_id=f"A-{number}").answer.version for number in range(800)}
    assert all(wider[number] == 2 for number, version in first.items() if version == 2), "nobody drops out"


def test_a_canarys_answers_are_its_own_and_say_so(world: World) -> None:
    with_canary(world, 0.9)
    sequence = world.plans["one"].canary.sequence
    for number in range(60):
        drafted = world.answer("one", order_id=f"A-{number}")
        answer, record = drafted.answer, record_of(drafted)
        assert answer.stage == {1: "champion", 2: "canary"}[answer.version]
        assert answer.probability == expected(world, "one", answer.version)
        assert (record.routed_version, record.drawn_by) == (answer.version, sequence)


def test_outside_a_canarys_segment_nothing_is_drawn(world: World) -> None:
    segment = to_json(pl.col("shop") == "south", name="segment")
    with_canary(world, 0.9, segment=segment)
    for number in range(40):
        outside = record_of(world.answer("one", order_id=f"A-{number}"))
        assert (outside.version, outside.drawn_by) == (1, None)
    inside = {record_of(world.answer("one", order_id=f"A-{number}", shop="south")).version for number in range(40)}
    assert inside == {1, 2}


def test_when_a_canary_fails_the_champion_answers_and_the_failure_counts_against_the_canary(world: World) -> None:
    with_canary(world, 0.9)
    canary = world.follower.boards["one"].canary
    fail(canary.loaded if canary else None)
    records = [record_of(world.answer("one", order_id=f"A-{number}")) for number in range(5)]
    failed = [record for record in records if record.routed_version == 2]
    assert failed
    for record in failed:
        assert (record.version, record.stage, record.answered_by) == (1, "champion", "model")
        assert record.reasons == ("canary version 2 failed: RuntimeError",)


def test_a_canary_with_a_stricter_contract_does_not_take_the_request_from_the_client(world: World) -> None:
    stricter = tuple(
        field if field.name != "items" else RequestField(**{**field.model_dump(), "maximum": 2})
        for field in world.specs["one"].request
    )
    spec = world.specs["one"].model_copy(update={"request": stricter})
    with_canary(world, 0.9, spec=spec)
    answers = [world.answer("one", order_id=f"A-{number}").answer for number in range(20)]
    assert {answer.version for answer in answers} == {1}
    assert any("canary version 2 does not take this request" in "".join(answer.reasons) for answer in answers)
    with pytest.raises(InvalidRequest):
        world.answer("one", items=1000)


# Cache


def test_the_model_is_asked_once_for_the_same_features(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decide = Predictor.decide
    monkeypatch.setattr(Predictor, "decide", lambda self, prepared: (asked.append(1), decide(self, prepared))[1])
    first = world.answer("one", order_id="A-1").answer
    second = world.answer("one", order_id="A-2").answer
    assert len(asked) == 1, "the number of the order is no feature"
    assert (second.probability, second.answered_by, second.entity) == (first.probability, "model", {"order_id": "A-2"})
    assert (world.responder.desks["one"].answers.hits, world.responder.desks["one"].answers.misses) == (1, 1)
    world.release("one", 2)
    assert world.answer("one", order_id="A-1").answer.probability == expected(world, "one", 2)
    assert len(asked) > 1, "another version has not said it yet"


# Band, personal fields, state


def test_in_the_band_a_person_decides(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", serving=Serving(refer_between=(0.0, 1.0)))
    world.release("one", 1)
    answer = world.answer("one").answer
    assert (answer.decision, answer.referred) == (None, True)
    assert answer.reasons == ("the probability is in the band in which a person decides",)
    world.decide("one", killed="x")
    assert (world.answer("one").answer.decision, world.answer("one").answer.referred) == (None, True)


def test_personal_values_are_pseudonyms_in_the_record_and_themselves_in_the_answer(tmp_path: Path) -> None:
    plain = world_of(tmp_path / "plain", "one").specs["one"]
    request = tuple(
        field if field.name not in ("order_id", "courier") else field.model_copy(update={"personal": True})
        for field in plain.request
    )
    features = (*plain.features, Feature(name="initial", expr=pl.col("courier").str.head(1), description="Initial"))
    world = world_of(tmp_path, "one", request=request, features=features)
    world.release("one", 1)
    for killed in (None, "x"):
        world.decide("one", killed=killed)
        drafted = world.answer("one", courier="Charlotte")
        record = record_of(drafted)
        assert drafted.answer.entity == {"order_id": "A-7"}
        assert record.request["order_id"].startswith("pseudonym:")
        assert record.entity["order_id"] == record.request["order_id"]
        assert record.request["courier"].startswith("pseudonym:")
        assert record.request["amount"] == 640.5
        for secret in (b"A-7", b"Charlotte"):
            assert secret not in drafted.payload
        if record.features is not None:
            assert record.features["initial"].startswith("pseudonym:")
    assert world.responder.desks["one"].writer.protect({"order_id": "A-7"})["order_id"] == record.entity["order_id"]


def test_the_log_is_told_which_state_a_prediction_is_from(tmp_path: Path) -> None:
    world = world_of(tmp_path, "stateful")
    make_online(tmp_path)
    world.release("stateful", 1)
    record = record_of(world.answer("stateful"))
    told = world.kept["stateful"]
    assert isinstance(told, StateRecord)
    assert record.state == told.state
    assert told.versions == {"validated/stock": 0}
    make_online(tmp_path, level=3)
    world.follower.look()
    after = record_of(world.answer("stateful"))
    assert after.state != record.state
    assert world.kept["stateful"].state == after.state  # type: ignore[union-attr]
    world.follower.stop()


def test_an_answer_is_explained_by_the_version_that_gave_it(world: World) -> None:
    drafted = world.answer("one")
    explanation = world.responder.explain(drafted)
    assert explanation is not None
    assert {each.feature for each in explanation.contributions} == {each.name for each in world.specs["one"].features}

    def explained_by(amount: float) -> int | None:
        drafted = world.answer("one", amount=amount)
        explanation = world.responder.explain(drafted)
        assert explanation is not None
        version = drafted.answer.version
        [by] = [each for each in world.follower.boards["one"].loaded().values() if each.version == version]
        assert explanation == by.predictor.explain(by.predictor.score_one({**ORDER, "amount": amount}, None))
        return version

    with_canary(world, 1.0)
    canary = world.follower.boards["one"].canary
    assert canary is not None
    assert explained_by(1.0) == 2
    fail(canary.loaded)
    assert explained_by(2.0) == 1
    world.decide("one", killed="x")
    assert world.responder.explain(world.answer("one")) is None
