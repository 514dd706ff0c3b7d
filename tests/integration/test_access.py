"""Who gets in to a running service, with two workers: keys, roles, limits, and what people try instead."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pilotage.runtime.access.caller import Limit
from pilotage.runtime.access.keyfile import create_key, revoke_key
from pilotage.settings import Settings
from pilotage.testing.bundles import ORDER, make_bundle
from pilotage.testing.service import RunningService, release_bundle, running_service
from tests.integration.test_service import SERVICE, STATEFUL, STATELESS, make_online

BODY = json.dumps(ORDER).encode()
BATCH = {"requests": [ORDER, ORDER]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("access"), service_workers=2)


@pytest.fixture(scope="module")
def keys(settings: Settings) -> dict[str, str]:
    """A key for each role, under its name."""
    return {
        role: create_key(settings.api_keys, f"only {role}", roles=[role], limit=None)[1]
        for role in ("predict", "outcomes", "read", "operate")
    }


@pytest.fixture(scope="module")
def service(settings: Settings, keys: dict[str, str]) -> Iterator[RunningService]:
    home = settings.home
    for spec in (STATELESS, STATEFUL):
        release_bundle(settings, spec.name, home / spec.name, make_bundle(home / spec.name, spec=spec), version=1)
    make_online(settings)
    with running_service(settings, service=SERVICE, log=home / "service.log") as running:
        # Each new connection goes to either worker.
        while {ask(running, "GET", "/readyz").status_code for _ in range(20)} != {200}:
            pass
        seen: set[str] = set()
        while len(seen) < 2:
            seen.add(ask(running, "GET", "/models", headers=bearer(keys["read"])).json()["worker"])
        yield running
        log = (home / "service.log").read_text()
        assert "Traceback" not in log
        assert [key for key in keys.values() if key.split("_", 2)[2] in log] == []


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(service: RunningService, method: str, path: str, **more: object) -> httpx.Response:
    """On a connection of its own, so that any worker may get it."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        return client.request(method, path, **more)  # type: ignore[arg-type]


ROUTES = [
    ("POST", "/tiny/predict", "predict"),
    ("POST", "/tiny/predict/batch", "predict"),
    ("POST", "/tiny/invocations", "predict"),
    ("POST", "/v2/models/tiny/infer", "predict"),
    ("POST", "/tiny/outcomes", "outcomes"),
    ("GET", "/models", "read"),
    ("GET", "/workers", "read"),
    ("GET", "/docs.json", "read"),
    ("POST", "/admin/tiny/kill", "operate"),
    ("POST", "/admin/tiny/resume", "operate"),
    ("POST", "/admin/tiny/rollback", "operate"),
]


@pytest.mark.parametrize(("method", "path", "role"), ROUTES)
def test_each_route_takes_one_role_and_no_other(
    service: RunningService, keys: dict[str, str], method: str, path: str, role: str
) -> None:
    nobody = ask(service, method, path, json={})
    # The words are each protocol's own.
    assert (nobody.status_code, "No API key was sent" in nobody.text) == (401, True)
    assert nobody.headers["www-authenticate"] == "Bearer"
    for other, key in keys.items():
        answer = ask(service, method, path, json={}, headers=bearer(key))
        if other == role:
            # Let in; what is wrong then is the empty body.
            assert answer.status_code in (200, 400, 422), answer.text
        else:
            assert (answer.status_code, f"--role {role}" in answer.text) == (403, True)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
@pytest.mark.parametrize(
    "path",
    [
        "/tiny/predict",
        "/tiny/predict/",
        "//tiny/predict",
        "/./tiny/predict",
        "/tiny/%70redict",
        "/tiny//predict",
        "/TINY/predict",
        "/tiny/predict;x",
        "/predict_tiny",
        "/admin/tiny/kill",
        "/admin/tiny/kill/",
        "/schema.json",
        "/docs.json",
        "/tasks",
        "/nothing",
    ],
)
def test_no_spelling_of_a_path_is_a_way_in(service: RunningService, method: str, path: str) -> None:
    status, answer = raw(service, f"{method} {path} HTTP/1.1".encode(), b"Content-Length: 2", body=b"{}")
    assert status == 401, answer


def test_health_needs_no_key(service: RunningService) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"):
        assert ask(service, "GET", path).status_code == 200


def raw(service: RunningService, *lines: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Sends what no client library would, and gives status and whole answer."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        head = [lines[0], b"Host: localhost", b"Connection: close", *lines[1:], b"", b""]
        connection.sendall(b"\r\n".join(head) + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer


def predict_raw(service: RunningService, *headers: bytes) -> tuple[int, bytes]:
    lines = (b"POST /tiny/predict HTTP/1.1", b"Content-Type: application/json", b"Content-Length: %d" % len(BODY))
    return raw(service, *lines, *headers, body=BODY)


def test_the_scheme_and_the_headers_name_may_be_written_in_any_case(
    service: RunningService, keys: dict[str, str]
) -> None:
    key = keys["predict"].encode()
    for header in (b"authorization: bearer " + key, b"AUTHORIZATION: BEARER " + key, b"Authorization:Bearer  " + key):
        assert predict_raw(service, header)[0] == 200


def test_what_people_send_instead_of_a_key_is_refused_and_breaks_nothing(
    service: RunningService, keys: dict[str, str]
) -> None:
    key = keys["predict"].encode()
    good = b"Authorization: Bearer " + key
    for headers in (
        [good, good],
        [good, b"authorization: Bearer x"],
        [b"Authorization: x", good],
        [b"Authorization: Bearer " + key + b"," + key],
        [b"Authorization: Bearer " + b"a" * 10_000],
        [b"Authorization: Bearer \xff\xfe\xe9" + key],
        [b"Authorization: Bearer " + "schlüssel".encode()],
        [b"Authorization: Basic " + key],
        [b"Authorization: " + key],
        [b"Authorization:"],
        [b"X-Api-Key: " + key],
        [b"Cookie: Authorization=Bearer " + key],
        [b"Proxy-Authorization: Bearer " + key],
        [b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-User: operator", b"X-Real-Ip: 127.0.0.1"],
        [b"Authorization: Bearer plt_" + b"_" * 60],
        [b"Authorization: Bearer plt__" + key.split(b"_", 2)[2]],
    ):
        status, answer = predict_raw(service, *headers)
        # 400 is the HTTP parser's own; it never gets to us.
        assert status in (400, 401), (headers, answer)
        assert b"probability" not in answer
    assert predict_raw(service, good)[0] == 200


def test_a_key_in_the_address_is_no_key(service: RunningService, keys: dict[str, str]) -> None:
    for name in ("authorization", "api_key", "key", "access_token"):
        assert ask(service, "POST", f"/tiny/predict?{name}={keys['predict']}", json=ORDER).status_code == 401


def test_an_unknown_key_and_a_wrong_secret_get_the_same_answer(service: RunningService, keys: dict[str, str]) -> None:
    secret = keys["predict"].split("_", 2)[2]
    answers = {
        ask(service, "POST", "/tiny/predict", json=ORDER, headers=bearer(key)).text
        for key in (keys["predict"][:-2] + "zz", f"plt_zzzzzzzzzz_{secret}", "plt_zzzzzzzzzz_zz")
    }
    assert len(answers) == 1


def test_a_limit_holds_exactly_over_both_workers(service: RunningService, settings: Settings) -> None:
    """One request in 1,000 seconds: all that is let through is the burst, whichever worker is asked."""
    limit = Limit(per_second=0.001, burst=40)
    key = create_key(settings.api_keys, "often", roles=["predict"], limit=limit)[1]
    # Two rows at once cost two, and until the key is known everywhere a refusal costs nothing.
    service.until_answer(
        lambda: ask(service, "POST", "/tiny/predict/batch", json=BATCH, headers=bearer(key)),
        lambda answer: answer.status_code == 200,
    )
    # What the key could never send costs nothing.
    larger = service.until_answer(
        lambda: ask(service, "POST", "/tiny/predict/batch", json={"requests": [ORDER] * 41}, headers=bearer(key)),
        lambda answer: answer.status_code != 401,
    )
    assert (larger.status_code, larger.json()["error"]) == (413, "RequestTooLarge")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: ask(service, "POST", "/tiny/predict", json=ORDER, headers=bearer(key)),
                range(150),
            )
        )
    statuses = Counter(answer.status_code for answer in answers if answer.status_code != 401)
    assert statuses[200] == 38
    assert set(statuses) == {200, 429}
    late = next(answer for answer in answers if answer.status_code == 429)
    assert late.json()["error"] == "RateLimited"
    assert 0 < int(late.headers["retry-after"]) <= 1001
    assert ask(service, "POST", "/tiny/predict/batch", json=BATCH, headers=bearer(key)).status_code == 429


def test_a_revoked_key_is_refused_within_five_seconds_by_every_worker_on_connections_that_stay(
    service: RunningService, settings: Settings
) -> None:
    key, text = create_key(settings.api_keys, "lost", roles=["predict", "read"], limit=None)
    connected: dict[str, httpx.Client] = {}
    with ExitStack() as open_clients:
        while len(connected) < 2:
            client = open_clients.enter_context(httpx.Client(base_url=service.url, timeout=30, headers=bearer(text)))
            if (answer := client.get("/models")).status_code == 200:
                connected[answer.json()["worker"]] = client

        def answers() -> list[httpx.Response]:
            return [client.post("/tiny/predict", json=ORDER) for client in connected.values()]

        assert [answer.status_code for answer in answers()] == [200, 200]
        revoke_key(settings.api_keys, key.id, why="test")
        revoked = time.monotonic()
        while {answer.status_code for answer in answers()} != {401}:
            assert time.monotonic() - revoked < 5
        assert all("was revoked" in answer.json()["message"] for answer in answers())


def test_with_a_key_file_that_is_lost_the_keys_stay_and_the_door_stays_shut(
    service: RunningService, settings: Settings, keys: dict[str, str], tmp_path: Path
) -> None:
    aside = tmp_path / "keys.json"
    settings.api_keys.rename(aside)
    try:
        service.until_answer(
            lambda: ask(service, "POST", "/tiny/predict", json=ORDER, headers=bearer(keys["predict"])),
            lambda _: "can't be used" in service.log.read_text(),
        )
        assert ask(service, "POST", "/tiny/predict", json=ORDER, headers=bearer(keys["predict"])).status_code == 200
        assert ask(service, "POST", "/tiny/predict", json=ORDER).status_code == 401
    finally:
        aside.rename(settings.api_keys)
