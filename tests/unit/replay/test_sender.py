"""Requests go out in order, few at once, and again under the same id until they are answered."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pilotage.errors import ConfigError, ServingError
from pilotage.replay.sender import Sender, Sent


class Service(ThreadingHTTPServer):
    """Answers with the body's number; fails as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.order: list[int] = []
        self.outcomes: list[dict[str, Any]] = []
        self.failures: dict[int, list[int]] = {}
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        self.server.gate.wait(10)
        if self.path.endswith("/outcomes"):
            self.server.outcomes += body["outcomes"]
            status = 202
        else:
            with self.server.lock:
                self.server.asked[self.headers["x-request-id"]] += 1
                self.server.order.append(body["number"])
                left = self.server.failures.get(body["number"], [])
                status = left.pop(0) if left else 200
        with self.server.lock:
            self.server.busy -= 1
        if status == 0:
            self.close_connection = True
            return
        data = json.dumps({"number": body.get("number")}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.gate.set()
    running.shutdown()
    thread.join()
    running.server_close()


def requests(count: int) -> list[tuple[str, str, dict[str, int]]]:
    return [(f"key {number}", f"id-{number}", {"number": number}) for number in range(count)]


def test_every_request_is_answered_and_known_by_its_key(service: Service) -> None:
    found: list[Sent] = []
    sent = Sender(service.url, "m", at_once=4).predict(requests(30), answered=found.append)
    assert sent == 30
    assert {one.key: one.answer["number"] for one in found} == {f"key {number}": number for number in range(30)}
    assert all(one.attempts == 1 and one.latency_ms > 0 for one in found)


def test_no_more_wait_at_once_than_may(service: Service) -> None:
    service.gate.clear()
    threading.Timer(0.3, service.gate.set).start()
    Sender(service.url, "m", at_once=3).predict(requests(12), answered=lambda _: None)
    assert service.busiest == 3


def test_one_at_a_time_keeps_the_order(service: Service) -> None:
    Sender(service.url, "m", at_once=1).predict(requests(20), answered=lambda _: None)
    assert service.order == list(range(20))


def test_what_was_not_answered_is_sent_again_under_the_same_id(service: Service) -> None:
    # Overloaded; a connection that ends without an answer; a gateway that gave up.
    service.failures = {1: [503], 2: [0], 3: [504, 503]}
    found: list[Sent] = []
    Sender(service.url, "m", at_once=2).predict(requests(5), answered=found.append)
    assert {one.key: one.attempts for one in found} == {
        "key 0": 1, "key 1": 2, "key 2": 2, "key 3": 3, "key 4": 1,
    }  # fmt: skip
    assert service.asked == {"id-0": 1, "id-1": 2, "id-2": 2, "id-3": 3, "id-4": 1}


def test_a_refusal_ends_it_and_is_not_repeated(service: Service) -> None:
    service.failures = {2: [422]}
    found: list[Sent] = []
    with pytest.raises(ServingError, match="422"):
        Sender(service.url, "m", at_once=1).predict(requests(50), answered=found.append)
    assert service.asked["id-2"] == 1
    # What was under way is answered and kept; the rest is not begun.
    assert [one.key for one in found][:2] == ["key 0", "key 1"]
    assert len(service.order) < 50


def test_a_wanted_key_is_named(service: Service) -> None:
    service.failures = {0: [401]}
    with pytest.raises(ConfigError, match="wants an API key"):
        Sender(service.url, "m", at_once=1).predict(requests(1), answered=lambda _: None)


def test_it_stops_when_it_is_told_to_and_waits_for_what_is_under_way(service: Service) -> None:
    found: list[Sent] = []
    sent = Sender(service.url, "m", at_once=2).predict(
        requests(40), answered=found.append, stop=lambda: len(found) >= 5
    )
    assert sent == len(found)
    assert 5 <= sent < 40


def test_it_stops_in_a_pause_too_however_long_that_is(service: Service) -> None:
    found: list[Sent] = []
    sent = Sender(service.url, "m", at_once=2).predict(
        requests(3),
        answered=found.append,
        stop=lambda: len(found) == 1,
        pace=lambda position: 3600.0 if position else 0.0,
    )
    assert sent == 1


def test_outcomes_go_in_portions(service: Service) -> None:
    Sender(service.url, "m", at_once=2).tell([{"prediction_id": str(number), "label": True} for number in range(1203)])
    assert [one["prediction_id"] for one in service.outcomes] == [str(number) for number in range(1203)]


def test_nobody_there_is_said_after_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotage.replay.sender._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("pilotage.replay.sender._LONGEST_PAUSE_S", 0.001)
    with pytest.raises(ServingError, match="did not answer in 8 attempts"):
        Sender("http://127.0.0.1:9", "m", at_once=1).predict(requests(1), answered=lambda _: None)
