"""The gateway: what is read, how every error is told, and that what is answered is on the disk."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pilotage.testing.bundles import ORDER, tiny_spec
from serving.endpoints import LARGEST_BODY
from serving.in_flight import InFlight
from tests.unit.serving.hosted import JSON, Hosted, hosted


def test_an_answer_is_the_models_and_equals_its_row_in_the_log(service: Hosted) -> None:
    answer = service.predict(headers={"x-request-id": "equal-1"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == "equal-1"
    body = answer.json()
    [record] = service.predictions("equal-1")
    for name in ("prediction_id", "model", "version", "stage", "answered_by", "probability", "decision", "referred"):
        assert body[name] == getattr(record, name), name
    assert (body["version"], body["entity"], body["logged"]) == (1, {"order_id": "A-7"}, True)
    assert record.request == ORDER


def test_a_request_gets_an_id_where_the_client_chose_none(service: Hosted) -> None:
    answers = [service.predict() for _ in range(3)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 3
    for answer in answers:
        [record] = service.predictions(answer.headers["x-request-id"])
        assert record.prediction_id == answer.json()["prediction_id"]


def test_the_same_id_gets_the_same_bytes_and_one_log_row(service: Hosted) -> None:
    first, again = (service.predict(headers={"x-request-id": "twice"}) for _ in range(2))
    assert (again.status_code, again.content) == (200, first.content)
    assert len(service.predictions("twice")) == 1
    conflict = service.predict(headers={"x-request-id": "twice"}, amount=1.0)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "RequestConflict")
    explained = service.post("/tiny/predict?explain=true", json=ORDER, headers={"x-request-id": "twice"})
    assert explained.status_code == 409, "another question"
    elsewhere = service.predict("other", headers={"x-request-id": "twice"})
    assert (elsewhere.status_code, elsewhere.json()["model"]) == (200, "other")


def test_the_same_id_at_the_same_time_is_answered_once(service: Hosted) -> None:
    async def both() -> list[Any]:
        post = service.client.post
        return await asyncio.gather(
            *(post("/tiny/predict", json=ORDER, headers={"x-request-id": "at-once"}) for _ in range(8))
        )

    answers = service.run(both())
    assert len({answer.content for answer in answers}) == 1
    assert len(service.predictions("at-once")) == 1


def test_a_request_that_was_wrong_may_be_sent_again_with_its_id(service: Hosted) -> None:
    wrong = service.predict(headers={"x-request-id": "mended"}, amount="much")
    assert wrong.status_code == 422
    assert service.predict(headers={"x-request-id": "mended"}).status_code == 200


@pytest.mark.parametrize("chosen", ["", "a b", "x" * 101, "line\x0bfeed", '"quoted"'])
def test_an_id_that_is_none_is_refused(service: Hosted, chosen: str) -> None:
    answer = service.predict(headers={"x-request-id": chosen})
    assert (answer.status_code, answer.json()["field"]) == (422, "X-Request-Id")
    assert answer.headers["x-request-id"] != chosen


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"[" * 60_000,
        b'{"amount":' * 5_000,
        b'{"amount": NaN}',
        b'{"amount": 1e999}',
        b'{"amount": -Infinity}',
        b"\xff\xfe{}",
        json.dumps(ORDER).encode() + b"x",
        json.dumps({**ORDER, "courier": "\ud800"}).encode(),
        json.dumps({**ORDER, "courier": "c" * 2000}).encode(),
        json.dumps({**ORDER, "courier": {"name": "c"}}).encode(),
        json.dumps({**ORDER, "courier": ["c"]}).encode(),
        json.dumps({**ORDER, "extra": 1}).encode(),
        b'{"items": ' + b"9" * 5000 + b"}",
        b"amount=1&items=2",
    ],
)
def test_a_body_that_is_no_request_is_refused_in_words(service: Hosted, body: bytes) -> None:
    answer = service.post("/tiny/predict", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error", "message", "fix", "field"}
    assert "Traceback" not in answer.text
    assert service.predict().status_code == 200


async def chunks(size: int, number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b" " * size


@pytest.mark.parametrize("path", ["/tiny/predict", "/tiny/predict/batch", "/invocations", "/v2/models/tiny/infer"])
def test_a_body_that_is_coded_is_neither_unpacked_nor_taken_for_what_it_says_it_is_not(
    service: Hosted, path: str
) -> None:
    for body in (gzip.compress(b"{}"), b"{}"):
        # The second time its head is known.
        for _ in range(2):
            refused = service.post(path, content=body, headers={**JSON, "content-encoding": "gzip"})
            assert (refused.status_code, "The body is coded: 'gzip'" in refused.text) == (415, True)
    assert service.post("/tiny/predict", json=ORDER, headers={"content-encoding": "Identity"}).status_code == 200


def test_what_no_route_should_read_is_turned_away(service: Hosted) -> None:
    too_large = service.post("/tiny/predict", content=b" " * (LARGEST_BODY + 1), headers=JSON)
    assert (too_large.status_code, too_large.json()["error"]) == (413, "RequestTooLarge")
    unannounced = service.post("/tiny/predict", content=chunks(9_000, 9), headers=JSON)
    assert unannounced.status_code == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""):
        answer = service.post("/tiny/predict", content=b"{}", headers={"content-type": kind})
        assert (kind, answer.status_code) == (kind, 415)
    assert service.post("/tiny/predict/batch", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    got = service.get("/tiny/predict")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    posted = service.post("/models")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/none/predict", "/none/outcomes", "/v2/models/none/infer", "/admin/none/kill"):
        unknown = service.post(path, json=ORDER)
        assert (path, unknown.status_code) == (path, 404)
        assert "tiny" in unknown.text
    assert service.post("/tiny/predict?explain=", json=ORDER).json()["explanation"]["method"] == "exact TreeSHAP"
    assert service.post("/tiny/predict?explain=perhaps", json=ORDER).status_code == 422
    assert service.post("/tiny/predict?shadow=1", json=ORDER).status_code == 422
    many = service.post("/tiny/predict/batch?explain=true", json={"requests": [ORDER]})
    assert (many.status_code, many.json()["field"]) == (422, "explain")
    assert many.json()["fix"] == "Leave it out; there is none here."
    for path in ("/v2/models/tiny/infer", "/tiny/invocations", "/tiny/outcomes", "/admin/tiny/kill"):
        refused = service.post(f"{path}?explain=true", json={"inputs": []})
        assert (path, "There is no parameter 'explain'" in refused.text) == (path, True)
    asked = service.post("/v2/models/tiny/infer", json={"inputs": [], "parameters": {"explain": True}})
    assert "The parameter explain is not supported" in asked.json()["error"]


@pytest.mark.parametrize("path", ["/tiny/predict", "/tiny/predict/batch", "/models", "/nothing"])
def test_a_length_of_thousands_of_digits_is_no_length(service: Hosted, path: str) -> None:
    answer = service.post(path, content=b"", headers={**JSON, "content-length": "0" * 5000})
    assert (answer.status_code, answer.json()["error"]) == (400, "MalformedHead")
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/tiny/predict/", "//tiny/predict", "/models/", "/v2/", "/v2/models/tiny/x", "/static_content/"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_where_there_is_nothing_it_is_said_so(service: Hosted, method: str, path: str) -> None:
    answer = service.ask(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert "There is nothing at" in answer.text
    assert "x-from" not in answer.headers


def test_whoever_watches_over_the_service_is_answered_whatever_they_call_their_question(service: Hosted) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/ping", "/v2/health/live", "/v2/models/tiny/ready"):
        assert service.get(path, headers={"x-request-id": "a b"}).status_code == 200, path
    assert service.get("/models", headers={"x-request-id": "a b"}).status_code == 422


def test_a_body_in_pieces_is_read_whole(service: Hosted) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(ORDER).encode():
            yield bytes([byte])

    assert service.post("/tiny/predict", content=pieces(), headers=JSON).status_code == 200


def test_a_client_that_leaves_in_the_middle_ends_the_request(service: Hosted) -> None:
    scope = {
        "type": "http",
        "path": "/tiny/predict",
        "method": "POST",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "query_string": b"",
    }
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    service.run(service.gateway(scope, receive, send))
    assert sent == []
    assert len(service.core.in_flight) == 0


def test_an_error_of_ours_tells_the_client_nothing_about_the_inside(
    service: Hosted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("kept in secret.txt")

    monkeypatch.setattr(service.core.responder, "answer", broken)
    answer = service.predict()
    assert (answer.status_code, answer.json()["error"]) == (500, "InternalError")
    assert "secret" not in answer.text


# Bounds


def test_a_client_that_sends_its_body_too_slowly_is_told_so(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), in_flight=InFlight(reading_s=0.1)) as service:

        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(60)

        answer = service.post("/tiny/predict", content=never(), headers=JSON)
        assert (answer.status_code, answer.json()["error"]) == (504, "TimedOut")
        assert service.predict().status_code == 200


def test_a_worker_that_has_enough_to_do_says_so(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), in_flight=InFlight(at_once=0)) as service:
        answer = service.predict()
        assert (answer.status_code, answer.json()["error"]) == (503, "Overloaded")
        assert int(answer.headers["retry-after"]) >= 1


def test_explanations_are_told_and_only_so_many_at_once(service: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    explained = service.post("/tiny/predict?explain=true", json=ORDER).json()
    assert explained["explanation"]["method"] == "exact TreeSHAP"
    assert len(explained["explanation"]["contributions"]) == 6
    assert service.predict().json()["explanation"] is None
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(drafted: Any) -> None:
        begun.release()
        go_on.wait(30)

    monkeypatch.setattr(service.core.responder, "explain", slow)

    async def three() -> list[Any]:
        path = "/tiny/predict?explain=true"
        first = [asyncio.create_task(service.client.post(path, json=ORDER)) for _ in range(2)]
        for _ in first:
            await asyncio.to_thread(begun.acquire)
        third = await service.client.post(path, json=ORDER)
        plain = await service.client.post("/tiny/predict", json=ORDER)
        go_on.set()
        return [third, plain, *await asyncio.gather(*first)]

    third, plain, *first = service.run(three())
    assert (third.status_code, third.json()["error"]) == (429, "RateLimited")
    assert "retry-after" in third.headers
    assert plain.status_code == 200
    assert [answer.status_code for answer in first] == [200, 200]


def test_an_explanation_that_fails_leaves_the_answer(service: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(drafted: Any) -> None:
        raise RuntimeError("x")

    monkeypatch.setattr(service.core.responder, "explain", failing)
    answer = service.post("/tiny/predict?explain=true", json=ORDER)
    assert (answer.status_code, answer.json()["explanation"]) == (200, None)
    assert answer.json()["reasons"] == ["no explanation could be computed"]


# Many rows, other protocols, outcomes


def test_each_row_of_a_batch_has_its_own_answer_or_error(service: Hosted) -> None:
    rows = [ORDER, {**ORDER, "amount": "much"}, {**ORDER, "order_id": "A-8"}]
    headers = {"x-request-id": "batch-1"}
    answer = service.post("/tiny/predict/batch", json={"requests": rows}, headers=headers)
    assert answer.status_code == 200, answer.text
    first, wrong, third = answer.json()["answers"]
    assert first["answer"]["probability"] == service.predict().json()["probability"]
    assert (wrong["error"]["error"], wrong["error"]["field"]) == ("InvalidRequest", "amount")
    assert third["answer"]["entity"] == {"order_id": "A-8"}
    records = service.predictions("batch-1")
    assert [record.prediction_id for record in records] == [each["answer"]["prediction_id"] for each in (first, third)]
    again = service.post("/tiny/predict/batch", json={"requests": rows}, headers=headers)
    assert again.content == answer.content
    assert len(service.predictions("batch-1")) == 2


def test_a_batch_of_many_turns_is_answered_in_order(service: Hosted) -> None:
    rows = [{**ORDER, "order_id": f"A-{number}", "amount": float(number)} for number in range(250)]
    answers = service.post("/tiny/predict/batch", json={"requests": rows}).json()["answers"]
    assert [each["answer"]["entity"]["order_id"] for each in answers] == [row["order_id"] for row in rows]


def test_a_protocol_that_answers_all_or_nothing_logs_nothing_of_a_request_with_a_bad_row(service: Hosted) -> None:
    records = [ORDER, {**ORDER, "amount": "much"}]
    headers = {"x-request-id": "frame-1"}
    answer = service.post("/tiny/invocations", json={"dataframe_records": records}, headers=headers)
    assert answer.status_code == 400
    assert service.predictions("frame-1") == []


TENSORS = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": kind, "data": [ORDER[name]]}
        for name, kind in (
            ("order_id", "BYTES"),
            ("amount", "FP64"),
            ("items", "INT64"),
            ("express", "BOOL"),
            ("shop", "BYTES"),
            ("ordered_at", "BYTES"),
        )
    ]
}


def test_a_version_is_asked_for_by_its_number(service: Hosted) -> None:
    right = service.post("/v2/models/tiny/versions/1/infer", json=TENSORS)
    assert right.status_code == 200, right.text
    assert service.post("/v2/models/tiny/versions/9/infer", json=TENSORS).status_code == 404
    assert service.get("/v2/models/tiny/versions/1/ready").json() == {"name": "tiny", "ready": True}
    assert service.get("/v2/models/tiny/versions/9").status_code == 404


def test_a_version_that_is_asked_for_by_its_number_is_killed_with_its_model(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        assert service.post("/admin/tiny/kill", json={"why": "wrong since noon"}).status_code == 200
        answer = service.post("/v2/models/tiny/versions/1/infer", json=TENSORS)
        assert answer.status_code == 200, answer.text
        told = {output["name"]: output["data"][0] for output in answer.json()["outputs"]}
        assert (told["answered_by"], told["version"]) == ("rule", 0)
        assert "wrong since noon" in told["reasons"]
        assert service.get("/v2/models/tiny/versions/1/ready").json()["ready"] is True
        for none in ("0", "x", "%C2%84"):
            assert service.get(f"/v2/models/tiny/versions/{none}").status_code == 404
        assert service.post("/admin/tiny/resume", json={"why": "mended"}).status_code == 200
        assert service.post("/v2/models/tiny/versions/9/infer", json=TENSORS).status_code == 404


def test_outcomes_are_on_the_disk_before_they_are_accepted(service: Hosted) -> None:
    told = {"prediction_id": "p-1", "label": True}
    answer = service.post("/tiny/outcomes", json=told)
    assert answer.status_code == 202
    [outcome] = [record for record in service.logged() if getattr(record, "outcome_id", None)]
    assert answer.json() == {"outcome_ids": [outcome.outcome_id]}
    assert (outcome.model, outcome.prediction_id, outcome.label) == ("tiny", "p-1", True)


def test_an_outcome_names_a_person_as_the_predictions_of_the_version_that_serves_do(tmp_path: Path) -> None:
    spec = tiny_spec()
    request = tuple(each.model_copy(update={"personal": each.name == "order_id"}) for each in spec.request)
    with hosted(tmp_path, spec, release=False) as service:
        service.release("tiny", spec.model_copy(update={"request": request}), 1)
        service.core.follower.look()
        assert service.predict(headers={"x-request-id": "personal"}).status_code == 200
        [record] = service.predictions("personal")
        about = {"entity": {"order_id": "A-7"}, "label": True}
        assert service.post("/tiny/outcomes", json=about).status_code == 202
        [outcome] = [each for each in service.logged() if getattr(each, "outcome_id", None)]
        assert outcome.entity == record.entity
        assert record.entity["order_id"].startswith("pseudonym:")


# What can be looked at


def test_each_worker_says_what_it_serves(service: Hosted) -> None:
    body = service.get("/models").json()
    assert [(entry["model"], entry["version"]) for entry in body["models"]] == [("tiny", 1), ("other", 1)]
    service.until(lambda: service.core.heartbeat.workers() != [])
    [worker] = service.get("/workers").json()["workers"]
    assert worker["worker"] == body["worker"]
    assert [entry["version"] for entry in worker["models"]] == [1, 1]
    assert service.get("/v2/models/tiny").json()["versions"] == ["1"]
    assert "/tiny/predict" in service.get("/docs.json").json()["paths"]


def test_metrics_count_what_was_answered_and_refused(service: Hosted) -> None:
    service.predict()
    service.predict(amount="much")
    lines = service.get("/metrics").text.splitlines()
    assert any(line.startswith("pilotage_predictions_total{") and 'model="tiny"' in line for line in lines)
    assert any(line.startswith("pilotage_errors_total{") and "InvalidRequest" in line for line in lines)
    assert any(line.startswith('pilotage_ready{model="tiny"} 1') for line in lines)


def test_what_is_not_ours_goes_on_to_bentoml(service: Hosted) -> None:
    assert service.get("/livez").headers["x-from"] == "bentoml"
    assert service.get("/schema.json").text == "/schema.json"
