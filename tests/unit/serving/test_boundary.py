"""The HTTP boundary: every error has its status and its words, and the inside stays inside."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from pilotage import errors
from pilotage.errors import InvalidRequest, ModelNotReady, PilotageError, StateUnavailable, UnknownModel
from pilotage.testing.bundles import tiny_spec
from serving.boundary import LARGEST_BODY, Boundary, error_response, json_response, parse
from serving.openapi import describe
from serving.schemas import Answer, Body, request_model


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownModel("No m.", fix="Use n."), 404),
        (InvalidRequest("x is wrong.", fix="Send y.", field="x", value="1"), 422),
        (ModelNotReady("No champion.", fix="Promote."), 503),
        (StateUnavailable("No store.", fix="Build it."), 503),
        (errors.BundleCorrupt("Bits.", fix="Restore."), 500),
    ],
)
def test_our_errors_carry_status_message_fix_and_field(error: PilotageError, status: int) -> None:
    answer = error_response(error)
    assert answer.status_code == status
    assert json.loads(answer.body) == {
        "error": type(error).__name__,
        "message": error.message,
        "fix": error.fix,
        "field": error.details.get("field"),
    }


def test_an_unexpected_error_tells_nothing_to_the_client_and_everything_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = error_response(RuntimeError("kept in secret.txt"))
    assert answer.status_code == 500
    assert b"secret" not in answer.body
    assert "secret.txt" in caplog.text


def test_times_are_written_as_iso_utc() -> None:
    written = json.loads(json_response({"at": datetime(2024, 1, 1, 10, tzinfo=UTC)}).body)
    assert written == {"at": "2024-01-01T10:00:00Z"}


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b'{"a": 1e999}', b"\xff", b"[" * 60_000, b"{} {}"])
def test_what_is_no_json_is_an_invalid_request(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON"):
        parse(raw)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await PlainTextResponse(f"{scope['path']} {len(message['body'])} {message['more_body']}")(scope, receive, send)


class Client:
    """Asks the boundary without a server."""

    def __init__(self) -> None:
        app = Boundary(echo, models=("tiny",), status=lambda: [{"model": "tiny"}], page=lambda: {"openapi": "3.0.2"})
        self.transport = httpx.ASGITransport(app)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._ask("GET", path))

    def post(self, path: str, **request: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **request))

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="http://service") as client:
            return await client.request(method, path, **request)


async def chunks(size: int, number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b"x" * size


@pytest.fixture
def client() -> Client:
    return Client()


def test_the_body_reaches_the_route_whole_however_it_was_sent(client: Client) -> None:
    kind = {"content-type": "application/json"}
    assert client.post("/tiny/predict", content=b"x" * 100, headers=kind).text == "/tiny/predict 100 False"
    assert client.post("/tiny/predict", content=chunks(1, 100), headers=kind).text == "/tiny/predict 100 False"
    assert client.post("/tiny/predict", content=b"x" * LARGEST_BODY, headers=kind).status_code == 200


def test_what_no_route_should_read_is_turned_away(client: Client) -> None:
    kind = {"content-type": "application/json; charset=utf-8"}
    assert client.post("/tiny/predict", content=b"x" * (LARGEST_BODY + 1), headers=kind).status_code == 413
    assert client.post("/tiny/predict", content=chunks(9000, 9), headers=kind).status_code == 413
    assert client.post("/tiny/predict", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/none/predict", content=b"{}", headers=kind).status_code == 404
    refused = client.get("/tiny/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["fix"] == "Send it by POST."
    assert client.post("/other", content=b"x" * 100_000).text.startswith("/other"), "not ours to judge"


def test_models_and_the_page_are_answered_here(client: Client) -> None:
    assert client.get("/models").json() == {"models": [{"model": "tiny"}]}
    assert client.get("/docs.json").json() == {"openapi": "3.0.2"}
    assert client.post("/models", content=b"").text.startswith("/models")


def test_a_client_that_leaves_in_the_middle_ends_the_request() -> None:
    app = Boundary(echo, models=("tiny",), status=list, page=dict)
    scope = {"type": "http", "path": "/tiny/predict", "method": "POST", "headers": []}
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent == []


def test_a_request_type_keeps_the_bytes_and_describes_the_fields() -> None:
    made = request_model(tiny_spec())
    body = made.model_validate_json(b'{"amount": NaN}')
    assert isinstance(body, Body)
    assert body.raw == b'{"amount": NaN}'
    schema = made.model_json_schema()
    assert schema["title"] == "TinyRequest"
    assert schema["additionalProperties"] is False
    assert "courier" not in schema["required"]
    assert schema["properties"]["items"]["maximum"] == 99
    assert schema["example"]["order_id"] == "A-1"
    assert "state_through" in Answer.model_json_schema()["properties"]


def test_the_page_names_our_errors_and_leaves_the_rest_as_it_was() -> None:
    spec = tiny_spec()
    route = {"post": {"responses": {200: {"description": "ok"}, 400: {}}, "tags": ["Service APIs"]}}
    page = {
        "openapi": "3.0.2",
        "info": {},
        "tags": [{"name": "Service APIs"}, {"name": "Infrastructure"}],
        "paths": {"/tiny/predict": route, "/livez": {"get": {}}},
        "components": {"schemas": {"TinyRequest": {}}},
    }
    told = describe(page, {"tiny": spec})
    assert {str(code) for code in told["paths"]["/tiny/predict"]["post"]["responses"]} == {
        "200", "413", "415", "422", "500", "503",
    }  # fmt: skip
    assert told["paths"]["/livez"] == {"get": {}}
    assert "Error" in told["components"]["schemas"]
    assert spec.objective in told["info"]["description"]
    assert spec.limitations[0] in told["info"]["description"]
    assert route["post"]["responses"] == {200: {"description": "ok"}, 400: {}}, "BentoML's own page is not touched"
