"""Outcomes that an application tells."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from pilotage.errors import InvalidRequest, RequestTooLarge
from pilotage.runtime.answer import OutcomeRecord
from serving.protocols import outcomes
from tests.unit.serving.codec_cases import FIELDS, NOW, answer

SAID = {"prediction_id": "p-1", "label": True}
ABOUT = {"entity": {"order_id": "A-7"}, "label": False, "known_at": "2024-01-03T11:00:00Z"}
MICROS = 1_000_000


def parse(content: object, **changes: Any) -> list[OutcomeRecord]:
    options: dict[str, Any] = {"model": "tiny", "entity": [FIELDS["order_id"]], "caller": "k1", "now": NOW}
    return outcomes.parse(json.dumps(content).encode(), **{**options, **changes})


def test_an_outcome_of_a_prediction_is_known_when_it_is_told_unless_it_says_when():
    [record] = parse(SAID)
    assert (record.model, record.prediction_id, record.entity, record.label) == ("tiny", "p-1", None, True)
    assert record.known_at == record.received_at == int(NOW.timestamp()) * MICROS
    assert record.caller == "k1"
    [earlier] = parse({**SAID, "known_at": "2024-01-03T11:00:00.000001Z"})
    assert earlier.known_at == record.received_at - 3600 * MICROS + 1


def test_an_outcome_may_be_of_an_entity_whose_personal_values_are_never_kept():
    [record] = parse(ABOUT, protect=lambda entity: {name: f"pseudonym:{len(value)}" for name, value in entity.items()})
    assert record.entity == {"order_id": "pseudonym:3"}
    assert record.prediction_id is None


def test_many_outcomes_are_taken_in_their_order():
    assert [record.label for record in parse({"outcomes": [SAID, ABOUT, SAID]})] == [True, False, True]


def test_the_same_outcome_again_has_the_same_id_whenever_and_whoever_tells_it():
    [first] = parse(SAID)
    [again] = parse(dict(reversed(SAID.items())), now=NOW + timedelta(days=1), caller="k2")
    assert first.outcome_id == again.outcome_id
    assert first.received_at != again.received_at


def test_another_outcome_has_another_id():
    said = [
        SAID,
        {**SAID, "label": False},
        {**SAID, "prediction_id": "p-2"},
        {**SAID, "known_at": "2024-01-03T11:00:00Z"},
        ABOUT,
        {**ABOUT, "entity": {"order_id": "A-8"}},
    ]
    ids = [record.outcome_id for record in parse({"outcomes": said})] + [parse(SAID, model="other")[0].outcome_id]
    assert len(set(ids)) == len(said) + 1


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"label": 1}, "label", "is an integer"),
        ({"label": "true"}, "label", "is a text"),
        ({"label": None}, "label", "not allowed"),
        ({"prediction_id": 7}, "prediction_id", "is an integer"),
        ({"prediction_id": ""}, "prediction_id", "is empty"),
        ({"prediction_id": None}, "prediction_id", "neither"),
        ({"entity": {"order_id": "A-7"}}, "prediction_id", "both"),
        ({"known_at": "yesterday"}, "known_at", "is no time"),
        ({"known_at": "2024-01-03T11:00:00"}, "known_at", "no time zone"),
        ({"known_at": 1704276000}, "known_at", "is an integer"),
        ({"note": "late"}, "note", "no field 'note'.*Use only: prediction_id, label, known_at, entity"),
        ({"prediction_id": None, "entity": "A-7"}, "entity", "no object"),
        ({"prediction_id": None, "entity": {}}, "order_id", "is missing"),
        ({"prediction_id": None, "entity": {"order_id": "A-7", "shop": "north"}}, "shop", "no field 'shop'"),
        ({"prediction_id": None, "entity": {"order_id": 7}}, "order_id", "is an integer"),
    ],
)
def test_an_outcome_that_is_not_quite_one_is_refused_and_says_why(change: dict[str, Any], field: str, words: str):
    with pytest.raises(InvalidRequest, match=words) as error:
        parse({**SAID, **change})
    assert error.value.details["field"] == field


def test_a_clock_may_be_ahead_by_minutes_and_a_label_is_never_known_in_the_future():
    ahead = (NOW + outcomes.CLOCK_SKEW).isoformat()
    assert parse({**SAID, "known_at": ahead})
    with pytest.raises(InvalidRequest, match="in the future"):
        parse({**SAID, "known_at": (NOW + outcomes.CLOCK_SKEW + timedelta(seconds=1)).isoformat()})


def test_of_several_outcomes_one_bad_one_refuses_all_and_is_named():
    with pytest.raises(InvalidRequest, match="Outcome 1: label is missing") as error:
        parse({"outcomes": [SAID, {"prediction_id": "p-2"}]})
    assert error.value.details["row"] == 1


@pytest.mark.parametrize("content", [[], "p-1", {"outcomes": SAID}, {"outcomes": [SAID], "label": True}])
def test_a_body_of_another_form_is_refused(content: object):
    with pytest.raises(InvalidRequest):
        parse(content)


def test_more_outcomes_than_one_body_may_have_are_too_many():
    with pytest.raises(RequestTooLarge):
        parse({"outcomes": [SAID] * (outcomes.LARGEST + 1)})
    with pytest.raises(InvalidRequest, match="no rows"):
        parse({"outcomes": []})


def test_what_was_taken_is_answered_with_its_ids():
    records = parse({"outcomes": [SAID, ABOUT]})
    rendered = outcomes.render(records)
    assert rendered.status == 202
    assert json.loads(rendered.body) == {"outcome_ids": [record.outcome_id for record in records]}
    assert all(record.outcome_id.startswith("o-") for record in records)


def test_the_id_of_an_answer_is_one_that_its_outcome_can_name():
    assert parse({"prediction_id": answer(5).prediction_id, "label": True})[0].prediction_id == "p-5"
