"""Many requests in one body."""

import json

import pytest

from pilotage.errors import InvalidRequest, ModelNotReady, RequestTooLarge
from pilotage.testing.bundles import ORDER
from serving.protocols import batch
from tests.unit.serving.codec_cases import FIELDS, answer


def parsed(content: object, largest: int = 10) -> list:
    return batch.parse(json.dumps(content).encode(), {}, FIELDS, largest=largest).rows


def test_rows_come_out_as_they_were_sent_even_those_that_are_none():
    rows = [ORDER, {"amount": "x"}, 7, None]
    assert parsed({"requests": rows}) == rows


def test_one_bad_row_does_not_refuse_the_others():
    assert batch.parse(b'{"requests": [{}]}', {}, FIELDS, largest=1).whole is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no list of requests"),
        ({}, "no list of requests"),
        ({"requests": ORDER}, "no list of requests"),
        ({"requests": [], "mode": "fast"}, "no field 'mode'"),
        ({"requests": []}, "no rows"),
    ],
)
def test_a_body_of_another_form_is_refused_with_what_to_send(content: object, words: str):
    with pytest.raises(InvalidRequest, match=words) as error:
        parsed(content)
    assert error.value.fix.startswith("Send ")


@pytest.mark.parametrize("body", [b"", b"{", b'{"requests": [NaN]}', b'{"requests": [1e999]}', b"[" * 10_000, b"\xff"])
def test_a_body_that_is_no_json_is_refused(body: bytes):
    with pytest.raises(InvalidRequest, match="not JSON"):
        batch.parse(body, {}, FIELDS, largest=10)


def test_more_rows_than_one_request_may_have_are_too_many():
    assert len(parsed({"requests": [ORDER] * 10})) == 10
    with pytest.raises(RequestTooLarge, match="11 rows; at most 10") as error:
        parsed({"requests": [ORDER] * 11})
    assert error.value.http_status == 413


def test_each_row_has_its_own_answer_or_error_and_the_status_is_200():
    rows = batch.parse(b'{"requests": [{}, {}]}', {}, FIELDS, largest=2)
    refused = InvalidRequest("amount is missing.", fix="Send a finite number.", field="amount")
    rendered = batch.render(rows, [answer(0), refused], model="tiny", version=3)
    assert rendered.status == 200
    assert dict(rendered.headers) == {"content-type": "application/json"}
    first, second = json.loads(rendered.body)["answers"]
    assert first["answer"]["prediction_id"] == "p-0"
    assert first["answer"]["predicted_at"] == "2024-01-03T12:00:00Z"
    assert second == {
        "error": {
            "error": "InvalidRequest",
            "message": "amount is missing.",
            "fix": "Send a finite number.",
            "field": "amount",
        }
    }


def test_an_error_of_the_whole_body_has_its_own_status():
    rendered = batch.refuse(ModelNotReady("tiny has no champion.", fix="Promote one."))
    assert (rendered.status, json.loads(rendered.body)["error"]) == (503, "ModelNotReady")
