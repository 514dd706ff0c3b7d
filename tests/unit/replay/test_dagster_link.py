"""What a replay asks of Dagster is what Dagster's own schema knows, and what Dagster says of a failure is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from graphql import parse, validate

from pilotage.errors import ConfigError, ReleaseError
from pilotage.replay import dagster_link
from pilotage.replay.dagster_link import Dagster, Run, Wanted

PLACE = {
    "workspaceOrError": {
        "locationEntries": [
            {"name": "there", "locationOrLoadError": {"repositories": [{"name": "all", "jobs": [{"name": "j"}]}]}}
        ]
    }
}


class WebServer(ThreadingHTTPServer):
    """Answers one query after another with what it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        here = "workspaceOrError" in body["query"]
        status, content = (200, {"data": PLACE}) if here else self.server.answers.pop(0)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def looked(told: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"data": {"sensorDryRun": {"__typename": "DryRunInstigationTick", "evaluationResult": told}}}


@pytest.fixture
def server() -> Iterator[WebServer]:
    running = WebServer()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def dagster(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dagster]:
    monkeypatch.setattr(dagster_link, "LOOK_S", 0.001)
    made = Dagster(server.url)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["_LOCATION", "_LAUNCH", "_RUNS", "_LOOK"])
def test_every_query_is_one_that_dagster_understands(name: str) -> None:
    from dagster_graphql.schema import create_schema

    assert validate(create_schema().graphql_schema, parse(getattr(dagster_link, name))) == []


def test_a_sensor_that_looks_says_what_it_would_launch(server: WebServer, dagster: Dagster) -> None:
    wants = {"jobName": "retrain_m", "runConfigYaml": "ops:\n  ask: {config: {once: a}}\n", "tags": [
        {"key": "k", "value": "v"}
    ]}  # fmt: skip
    told = {"skipReason": None, "error": None, "runRequests": [wants]}
    server.answers = [looked(told)]
    assert dagster.look("alarms") == [
        Wanted(job="retrain_m", config={"ops": {"ask": {"config": {"once": "a"}}}}, tags={"k": "v"})
    ]
    assert server.asked[-1]["variables"]["s"] == {
        "repositoryLocationName": "there", "repositoryName": "all", "sensorName": "alarms",
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        {"__typename": "SensorNotFoundError", "message": "there is no such sensor"},
        {
            "__typename": "DryRunInstigationTick",
            "evaluationResult": {
                "skipReason": None, "runRequests": None, "error": {"message": "there is no such sensor"},
            },
        },
    ],
)  # fmt: skip
def test_a_sensor_that_can_not_look_ends_the_replay_with_the_reason(
    server: WebServer, dagster: Dagster, answer: dict[str, Any]
) -> None:
    server.answers = [(200, {"data": {"sensorDryRun": answer}})]
    with pytest.raises(ReleaseError, match="alarms could not look: there is no such sensor"):
        dagster.look("alarms")


def test_a_sensor_that_skips_wants_nothing(server: WebServer, dagster: Dagster) -> None:
    told = {"skipReason": "No alarm is open.", "error": None, "runRequests": None}
    server.answers = [looked(told)]
    assert dagster.look("alarms") == []


def test_what_dagster_says_of_its_failure_is_told_after_it_was_asked_again(server: WebServer, dagster: Dagster) -> None:
    server.answers = [(500, {"data": {"message": "an argument is missing"}})] * 5
    with pytest.raises(ConfigError, match=r"500 .*an argument is missing"):
        dagster.runs()
    assert server.answers == []


def test_a_failure_that_passes_is_not_told(server: WebServer, dagster: Dagster) -> None:
    run = {
        "runId": "r", "jobName": "j", "status": "SUCCESS", "creationTime": 1.0, "startTime": 3.5, "endTime": 9.75,
        "tags": [{"key": "k", "value": "v"}],
    }  # fmt: skip
    found = {"data": {"runsOrError": {"results": [run]}}}
    server.answers = [(503, {}), (200, found)]
    [only] = dagster.runs(tags={"k": "v"})
    assert only == Run(id="r", job="j", status="SUCCESS", tags={"k": "v"}, created=1.0, started=3.5, over=9.75)
    assert only.facts() == {"run": "r", "job": "j", "status": "SUCCESS", "start_s": 2.5, "work_s": 6.2}
    assert server.asked[-1]["variables"]["f"] == {"tags": [{"key": "k", "value": "v"}]}
