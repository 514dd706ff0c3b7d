"""The gateway: who may ask, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from pilotage.runtime.access.caller import ROLES, Limit
from pilotage.runtime.access.keyfile import create_key
from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.serving.hosted import JSON, Hosted, hosted

PREDICTING = ("/tiny/predict", "/tiny/predict/batch", "/tiny/invocations", "/v2/models/tiny/infer", "/invocations")


def test_without_keys_only_this_machine_is_answered(service: Hosted) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"x-forwarded-for": "10.0.0.1"}):
        answer = service.post("/tiny/predict", json=ORDER, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), headers
        assert service.post("/admin/tiny/kill", json={"why": "x"}, headers=headers).status_code == 401
    for headers in ({"host": "localhost:8000"}, {"host": "[::1]:8000"}, {"origin": "http://127.0.0.1:8000"}):
        assert service.post("/tiny/predict", json=ORDER, headers=headers).status_code == 200


def test_with_keys_each_route_needs_its_role(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        keys = service.settings.api_keys
        made = {role: create_key(keys, role, roles=[role], limit=None)[1] for role in ROLES}
        service.core.ring.refresh()
        calls = {
            "predict": [("POST", path) for path in PREDICTING],
            "outcomes": [("POST", "/tiny/outcomes")],
            "read": [("GET", "/models"), ("GET", "/workers"), ("GET", "/docs.json"), ("GET", "/schema.json")],
            "operate": [("POST", f"/admin/tiny/{action}") for action in ("kill", "resume", "rollback")],
        }
        for role, routes in calls.items():
            for method, path in routes:
                assert service.ask(method, path, json={}).status_code == 401, path
                for other, key in made.items():
                    answer = service.ask(method, path, json={}, headers={"authorization": f"Bearer {key}"})
                    assert (answer.status_code == 403) is (role != other), (path, other, answer.text)
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
            assert service.get(path).status_code == 200, path
        assert service.get("/v2/models/tiny/versions/1/ready").status_code == 200


def test_who_may_predict_may_ask_how_and_a_wrong_address_is_called_so(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        made = {
            role: {
                "authorization": f"Bearer {create_key(service.settings.api_keys, role, roles=[role], limit=None)[1]}"
            }
            for role in ROLES
        }
        service.core.ring.refresh()
        for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
            assert service.get(path).status_code == 401
            statuses = {role: service.get(path, headers=headers).status_code for role, headers in made.items()}
            assert statuses == {"predict": 200, "read": 200, "outcomes": 403, "operate": 403}
        for headers in made.values():
            unknown = service.post("/tinny/predict", json=ORDER, headers=headers)
            assert (unknown.status_code, unknown.json()["error"]) == (404, "UnknownModel")
            assert service.get("/tiny/predictions", headers=headers).status_code == 404
        for path in ("/tinny/predict", "/tiny/predictions", "/tiny/predict/"):
            assert service.post(path, json=ORDER).status_code == 401


def test_a_key_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        limit = Limit(per_second=0.01, burst=3)
        _, key = create_key(service.settings.api_keys, "slow", roles=["predict"], limit=limit)
        service.core.ring.refresh()
        headers = {"authorization": f"Bearer {key}"}
        batch = service.post("/tiny/predict/batch", json={"requests": [ORDER] * 4}, headers=headers)
        assert batch.status_code == 413, "more rows than the key can ever send, which costs nothing"
        statuses = [service.predict(headers=headers).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = service.predict(headers=headers)
        assert refused.json()["error"] == "RateLimited"
        assert 0 < int(refused.headers["retry-after"]) <= 101


@pytest.mark.parametrize("path", ["/tiny/predict/batch", "/tiny/invocations", "/v2/models/tiny/infer"])
def test_a_body_without_rows_counts_as_one_request_of_its_key(tmp_path: Path, path: str) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        limit = Limit(per_second=0.01, burst=3)
        _, key = create_key(service.settings.api_keys, "broken", roles=["predict"], limit=limit)
        service.core.ring.refresh()
        headers = {"authorization": f"Bearer {key}", **JSON}
        statuses = [service.post(path, content=b"{", headers=headers).status_code for _ in range(4)]
        assert statuses[3] == 429
        assert 429 not in statuses[:3]


@pytest.mark.parametrize("path", PREDICTING)
def test_of_a_key_that_has_used_up_its_limit_no_body_is_read(tmp_path: Path, path: str) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        headers = limited(service, burst=1)
        assert service.predict(headers=headers).status_code == 200
        read: list[bytes] = []

        async def told() -> AsyncIterator[bytes]:
            read.append(b"{")
            yield b"{"

        assert service.post(path, content=told(), headers=headers).status_code == 429
        assert read == []


def test_a_batch_counts_its_rows_and_nothing_if_they_are_too_many_for_now(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        headers = limited(service, burst=10)

        def batch(rows: int) -> httpx.Response:
            return service.post("/tiny/predict/batch", json={"requests": [ORDER] * rows}, headers=headers)

        assert [batch(rows).status_code for rows in (7, 4, 4)] == [200, 429, 429]
        assert 0 < int(batch(4).headers["retry-after"]) <= 101, "one request too many"
        assert [batch(rows).status_code for rows in (2, 1, 1)] == [200, 200, 429]


def test_a_batch_that_is_sent_again_with_its_id_counts_as_one_request(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        headers = {**limited(service, burst=6), "x-request-id": "again"}
        rows = {"requests": [ORDER] * 4}
        statuses = [service.post("/tiny/predict/batch", json=rows, headers=headers).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]


def limited(service: Hosted, *, burst: int) -> dict[str, str]:
    """What a key of so many requests sends."""
    limit = Limit(per_second=0.01, burst=burst)
    _, key = create_key(service.settings.api_keys, "limited", roles=["predict"], limit=limit)
    service.core.ring.refresh()
    return {"authorization": f"Bearer {key}", **JSON}


@pytest.mark.parametrize(
    "path", ["/tiny/predict", "/tiny/predict/batch", "/v2/models/tiny/infer", "/models", "/nothing"]
)
def test_who_may_not_ask_is_told_so_before_what_is_wrong_with_their_headers(tmp_path: Path, path: str) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        _, key = create_key(service.settings.api_keys, "all", roles=ROLES, limit=None)
        service.core.ring.refresh()
        method = "GET" if path == "/models" else "POST"
        for wrong, status in (({"x-request-id": "a b"}, 422), ({"content-length": "0" * 30}, 400)):
            assert service.ask(method, path, headers=wrong).status_code == 401
            known = {"authorization": f"Bearer {key}", **wrong}
            assert service.ask(method, path, headers=known).status_code == status
        assert 'pilotage_auth_failures_total{reason="unauthenticated"} 2' in service.get("/metrics").text
