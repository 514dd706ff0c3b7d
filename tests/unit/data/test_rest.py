"""A paged endpoint is read whole or not at all, with patience for what may pass."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.data import readers
from pilotage.data.ingest import IngestReport, ingest
from pilotage.data.lake import Lake
from pilotage.data.readers.rest import RestReader
from pilotage.data.source import Daily, RestEndpoint, SourceSpec
from pilotage.errors import SourceUnavailable
from pilotage.settings import Settings
from tests.unit.data.landing import MONDAY, TUESDAY, source

Answer = tuple[int, dict[str, str], bytes]


class Endpoint:
    """A real HTTP server on loopback that answers what the test says: path → answers, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked.append(self.path)
                answers = endpoint.answers.get(self.path, [(404, {}, b"")])
                status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def page(self, path: str, *records: dict[str, Any], after: str | None = None) -> None:
        self.answers[path] = [ok({"items": list(records), "next": after})]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def ok(page: object) -> Answer:
    return 200, {}, json.dumps(page).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the reader wanted to wait; it doesn't."""
    waits: list[float] = []

    def patient(spec: SourceSpec, _settings: Settings) -> RestReader:
        assert isinstance(spec.read, RestEndpoint)
        return RestReader(spec, spec.read, sleep=waits.append)

    monkeypatch.setattr("pilotage.data.ingest.reader_for", patient)
    return waits


def trips(url: str, **changes: object) -> SourceSpec:
    declared: dict[str, object] = {
        "read": RestEndpoint(url=url, records="items", next_page="next", attempts=3),
        "columns": {"id": pl.Int64, "carrier": pl.String},
        "prepare": lambda raw: raw,
        "daily": None,
        "key": ("id",),
    }
    return source(**(declared | changes))


def run(spec: SourceSpec, home: Path, *days: date) -> IngestReport:
    return ingest(
        spec, lake=Lake(str(home / "lake")), settings=Settings(home=home), days=list(days) or None, run_id="r"
    )


def held(home: Path) -> list[tuple[Any, ...]]:
    return Lake(str(home / "lake")).scan("raw/trips").select("id", "carrier").sort("id").collect().rows()


def test_all_pages_are_read(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.page("/trips", {"id": 1, "carrier": "UA"}, after="/trips?page=2")
    endpoint.page("/trips?page=2", {"id": 2, "carrier": None})
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).rows == 2
    assert held(tmp_path) == [(1, "UA"), (2, None)]
    assert waits == []


def test_the_same_records_again_change_nothing(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.page("/trips", {"id": 1, "carrier": "UA"})
    run(trips(f"{endpoint.url}/trips"), tmp_path)
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).unchanged == [f"{endpoint.url}/trips"]
    endpoint.page("/trips", {"id": 2, "carrier": "DL"})
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).rows == 1
    assert held(tmp_path) == [(2, "DL")]


def test_what_passes_is_tried_again_with_growing_patience(
    endpoint: Endpoint, tmp_path: Path, waits: list[float]
) -> None:
    page = ok({"items": [{"id": 1, "carrier": "UA"}]})
    endpoint.answers["/trips"] = [(503, {}, b""), (200, {"Content-Length": "999"}, b'{"items"'), page]
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).rows == 1
    assert len(endpoint.asked) == 3
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 1.5


def test_the_wait_that_the_endpoint_asks_for_is_kept(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.answers["/trips"] = [(429, {"Retry-After": "7"}, b""), ok({"items": [{"id": 1, "carrier": "UA"}]})]
    run(trips(f"{endpoint.url}/trips"), tmp_path)
    assert waits == [7.0]


def test_a_wait_that_is_no_number_is_passed_over(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.answers["/trips"] = [(429, {"Retry-After": "\u00b2"}, b""), ok({"items": [{"id": 1, "carrier": "UA"}]})]
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).rows == 1
    assert 0.5 <= waits[0] <= 1.0


def test_a_text_that_is_no_unicode_is_rejected_with_the_reason(
    endpoint: Endpoint, tmp_path: Path, waits: list[float]
) -> None:
    endpoint.page("/trips", {"id": 1, "carrier": "\ud800"})
    (rejected,) = run(trips(f"{endpoint.url}/trips"), tmp_path).rejected
    assert "/trips can't be read as declared: 'utf-8' codec can't encode" in rejected.reason


def test_an_endpoint_that_fails_in_the_middle_leaves_what_was_there(
    endpoint: Endpoint, tmp_path: Path, waits: list[float]
) -> None:
    endpoint.page("/trips", {"id": 1, "carrier": "UA"})
    run(trips(f"{endpoint.url}/trips"), tmp_path)
    endpoint.page("/trips", {"id": 8, "carrier": "DL"}, after="/trips?page=2&key=hunter2")
    endpoint.answers["/trips?page=2&key=hunter2"] = [(500, {}, b"")]
    with pytest.raises(SourceUnavailable, match="page 2 can't be read: it answered 500, 3 times") as refused:
        run(trips(f"{endpoint.url}/trips"), tmp_path)
    assert held(tmp_path) == [(1, "UA")]
    assert Lake(str(tmp_path / "lake")).version("raw/trips") == 0
    assert "hunter2" not in str(refused.value)


def test_of_several_days_none_is_written_when_one_fails(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.page("/trips/2013-01-07", {"id": 1, "carrier": "2013-01-07"})
    spec = daily(endpoint)
    with pytest.raises(SourceUnavailable, match="/trips/2013-01-08, page 1 answered 404"):
        run(spec, tmp_path, MONDAY, TUESDAY)
    assert not Lake(str(tmp_path / "lake")).exists("raw/trips")


def test_each_day_is_asked_for_and_replaced(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    for day in (MONDAY, TUESDAY):
        endpoint.page(f"/trips/{day}", {"id": day.day, "carrier": str(day)})
    assert run(daily(endpoint), tmp_path, MONDAY, TUESDAY).days == [MONDAY, TUESDAY]
    endpoint.page(f"/trips/{TUESDAY}", {"id": 80, "carrier": str(TUESDAY)})
    assert run(daily(endpoint), tmp_path).days == [TUESDAY]
    assert held(tmp_path) == [(7, "2013-01-07"), (80, "2013-01-08")]


def daily(endpoint: Endpoint) -> SourceSpec:
    return trips(
        endpoint.url + "/trips/{day}",
        daily=Daily(column="day", first=MONDAY, last=TUESDAY),
        prepare=lambda raw: raw.with_columns(day=pl.col("carrier").str.to_date(strict=False)),
    )


def test_a_host_that_is_not_there_is_named(tmp_path: Path, waits: list[float]) -> None:
    endpoint = Endpoint()
    endpoint.close()
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:\d+/trips, page 1 can't be read: .*refused.*, 3 times"):
        run(trips(f"{endpoint.url}/trips?key=hunter2"), tmp_path)
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: (200, {}, b"<html>"), "page 1 is no JSON object"),
        (lambda: ok([1, 2]), "page 1 is no JSON object"),
        (lambda: ok({"data": []}), "page 1 has no list of records in 'items'; it has data"),
        (lambda: ok({"items": [1]}), "page 1 has no list of records in 'items'"),
        (lambda: ok({"items": [], "next": "/trips"}), "goes in circles"),
        (lambda: ok({"items": [], "next": "http://localhost:1/trips"}), "points to another host, localhost"),
        (lambda: (403, {}, b""), "page 1 answered 403"),
    ],
)
def test_an_answer_that_makes_no_sense_is_named(
    endpoint: Endpoint, tmp_path: Path, waits: list[float], answer: Callable[[], Answer], message: str
) -> None:
    endpoint.answers["/trips"] = [answer()]
    with pytest.raises(SourceUnavailable, match=message):
        run(trips(f"{endpoint.url}/trips"), tmp_path)
    assert waits == []


def test_changed_columns_and_no_records_are_rejected_with_the_reason(
    endpoint: Endpoint, tmp_path: Path, waits: list[float]
) -> None:
    endpoint.page("/trips", {"id": 1, "carriers": "UA"})
    assert (
        "carrier is renamed, probably to carriers" in run(trips(f"{endpoint.url}/trips"), tmp_path).rejected[0].reason
    )
    endpoint.page("/trips")
    assert "is empty: no records" in run(trips(f"{endpoint.url}/trips"), tmp_path).rejected[0].reason


def test_the_reader_of_an_endpoint_waits_by_default() -> None:
    reader = readers.reader_for(trips("http://127.0.0.1:1/trips"), Settings())
    assert isinstance(reader, RestReader)


def test_an_endpoint_can_have_no_other_server_asked(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    """One of ours, say, which asks nobody within the network for a password."""
    elsewhere = endpoint.url.replace("127.0.0.1", "localhost")
    endpoint.answers["/trips"] = [(302, {"Location": f"{elsewhere}/graphql?query=mutation"}, b"")]
    endpoint.page("/graphql?query=mutation", {"id": 1, "carrier": "UA"})
    with pytest.raises(SourceUnavailable, match="/trips sends us on to another host, localhost"):
        run(trips(f"{endpoint.url}/trips"), tmp_path)
    assert endpoint.asked == ["/trips"]
    assert waits == []


def test_an_endpoint_may_have_moved_on_its_own_host(endpoint: Endpoint, tmp_path: Path, waits: list[float]) -> None:
    endpoint.answers["/trips"] = [(307, {"Location": "/v2/trips"}, b"")]
    endpoint.page("/v2/trips", {"id": 1, "carrier": "UA"})
    assert run(trips(f"{endpoint.url}/trips"), tmp_path).rows == 1
