"""A request with an id whose predictions are in the log, and whose answer never came: it is answered with those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import httpx
import pytest

from pilotage.testing.bundles import ORDER
from tests.unit.serving.hosted import Hosted


def test_an_answer_that_could_not_be_written_after_it_was_logged_is_not_logged_again(
    service: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> NoReturn:
        raise RuntimeError("no answer can be written")

    with monkeypatch.context() as breaking:
        breaking.setattr("serving.endpoints.json_answer", broken)
        assert service.predict(headers={"x-request-id": "unwritten"}).status_code == 500
    [record] = service.predictions("unwritten")
    again = service.predict(headers={"x-request-id": "unwritten"})
    assert (again.status_code, again.json()["prediction_id"]) == (200, record.prediction_id)
    assert len(service.predictions("unwritten")) == 1


def test_a_request_that_stands_twice_in_the_log_gets_the_first_of_its_answers(
    service: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> NoReturn:
        raise RuntimeError("no answer can be written")

    hand_on = service.core.idempotency.hand_on

    def twice(claim: Any, payloads: Sequence[bytes]) -> None:
        [payload] = payloads
        hand_on(claim, [payload, json.dumps({**json.loads(payload), "prediction_id": "another"}).encode()])

    with monkeypatch.context() as breaking:
        breaking.setattr("serving.endpoints.json_answer", broken)
        breaking.setattr(service.core.idempotency, "hand_on", twice)
        assert service.predict(headers={"x-request-id": "logged-twice"}).status_code == 500
    [first] = service.predictions("logged-twice")
    for _ in range(2):
        again = service.predict(headers={"x-request-id": "logged-twice"})
        assert (again.status_code, again.json()["prediction_id"]) == (200, first.prediction_id)


def test_a_batch_that_could_not_be_written_after_it_was_logged_gets_the_answers_that_were_logged(
    service: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("no answer can be written")

    rows = [ORDER, {**ORDER, "amount": "much"}, *({**ORDER, "order_id": f"A-{number}"} for number in range(120))]

    def send() -> httpx.Response:
        return service.post("/tiny/predict/batch", json={"requests": rows}, headers={"x-request-id": "unwritten-batch"})

    with monkeypatch.context() as breaking:
        breaking.setattr("serving.protocols.batch.render", broken)
        assert send().status_code == 500
    logged = [(record.prediction_id, record.entity["order_id"]) for record in service.predictions("unwritten-batch")]
    assert len(logged) == 121
    first, wrong, *others = send().json()["answers"]
    told = [(each["answer"]["prediction_id"], each["answer"]["entity"]["order_id"]) for each in (first, *others)]
    assert told == logged
    assert wrong["error"]["field"] == "amount"
    assert len(service.predictions("unwritten-batch")) == 121
