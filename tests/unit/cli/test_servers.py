"""Health is what a server answers over HTTP, in words that say what is wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilotage.cli import servers
from pilotage.cli.runs import OWNER, owner
from pilotage.settings import Settings
from serving.heartbeat import Heartbeat


class Answers:
    """A server that gives prepared answers, and keeps what it was asked."""

    def __init__(self) -> None:
        self.prepared: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[Any] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                answers.asked.append(json.loads(self.rfile.read(length)))
                self._answer()

            def _answer(self) -> None:
                queue = answers.prepared[self.path]
                status, body = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def settings(answers: Answers, tmp_path: Any) -> Settings:
    port = answers.port
    return Settings(home=tmp_path, dagster_port=port, mlflow_port=port, service_port=port, reports_port=port)


def check(program: Any) -> str | None:
    return program.check()  # type: ignore[no-any-return]


def location(status: str, message: str | None = None) -> dict[str, Any]:
    around = "DagsterUserCodeLoadError: Error occurred during the loading of Dagster definitions in\n  stack"
    error = None if message is None else {"message": around, "causes": [{"message": message}]}
    entry = {"name": "pilotage", "loadStatus": status, "locationOrLoadError": error}
    return {"data": {"workspaceOrError": {"locationEntries": [entry]}}}


def test_dagster_is_well_once_the_definitions_are_loaded(answers: Answers, settings: Settings) -> None:
    unreachable = location("LOADED", "gRPC")
    [entry] = unreachable["data"]["workspaceOrError"]["locationEntries"]
    entry["locationOrLoadError"]["message"] = "dagster._core.errors.DagsterUserCodeUnreachableError: Could not reach …"
    answers.prepared["/graphql"] = [
        (200, location("LOADING")),
        (200, unreachable),
        (200, location("LOADED", "DeclarationError: assets/models/x.py: no such source\n  stack")),
        (200, location("LOADED")),
    ]
    dagster = servers.dagster(settings)
    assert [check(dagster) for _ in range(4)] == [
        "loading definitions",
        "waits for the code server",
        "definitions don't load: DeclarationError: assets/models/x.py: no such source",
        None,
    ]


def test_a_daemon_without_a_heartbeat_is_named(answers: Answers, settings: Settings) -> None:
    def health(healthy: bool) -> tuple[int, Any]:
        statuses = [
            {"daemonType": "SENSOR", "required": True, "healthy": healthy},
            {"daemonType": "BACKFILL", "required": False, "healthy": False},
        ]
        return 200, {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}}

    answers.prepared["/graphql"] = [health(False), health(True)]
    daemon = servers.daemon(settings)
    assert [check(daemon), check(daemon)] == ["no heartbeat of sensor", None]


def test_the_watch_over_alerts_is_well_once_it_has_looked(settings: Settings, tmp_path: Path) -> None:
    watch = servers.watch(settings.model_copy(update={"home": tmp_path}))
    assert check(watch) == "has not looked yet"
    (tmp_path / "watch.json").write_text(json.dumps({"at": datetime.now(UTC).isoformat()}))
    assert check(watch) is None


def test_the_service_is_well_when_every_champion_is_served(answers: Answers, settings: Settings) -> None:
    loading = {"model": "a", "ready": False, "problem": "bundle is corrupt"}
    without = {"model": "b", "ready": False, "problem": "none was promoted yet"}
    answers.prepared["/models"] = [
        (503, {"message": "starting up"}),
        (200, {"models": []}),
        (200, {"models": [loading, without]}),
        (200, {"models": [{**loading, "ready": True}, without]}),
    ]
    service = servers.service(settings, lambda: ["a"])
    assert [check(service) for _ in range(4)] == ["starting up", "loading", "a: bundle is corrupt", None]


def test_where_api_keys_are_needed_the_services_workers_leave_word_in_the_home(
    answers: Answers, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"home": tmp_path})
    answers.prepared["/models"] = [(401, {"message": "No API key was sent."})]
    service = servers.service(settings, lambda: ["a"])
    assert check(service) == "loading"

    served = {"model": "a", "ready": True, "problem": None, "version": 3}

    def says(worker: str, *models: dict[str, object], ago: float = 0.0) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("serving.heartbeat.time", SimpleNamespace(time=lambda: time.time() - ago))
            Heartbeat(settings.heartbeats, worker=worker).beat([*models])

    says("w1", {**served, "ready": False, "problem": "bundle is corrupt"}, ago=servers.WORD_SECONDS + 1)
    says("w2", served)
    (settings.heartbeats / "w3.json").write_text("{")
    (settings.heartbeats / "w4.new").write_text("{}")
    assert check(service) is None, "who is long silent has ended"
    assert [model["version"] for model in servers.served(settings)] == [3]
    for worker in ("w1", "w5"):
        says(worker, {**served, "ready": False, "problem": "bundle is corrupt"})
        assert check(service) == "a: bundle is corrupt", "one that can't is one too many"
        says(worker, served)


def test_a_server_that_is_not_there_and_one_that_is_another_are_told_apart(
    answers: Answers, settings: Settings
) -> None:
    answers.prepared["/models"] = [(200, ["something else"])]
    assert check(servers.service(settings)) == "no answer: it is no prediction service"
    nobody = settings.model_copy(update={"service_port": 1})
    assert check(servers.service(nobody)) == "no answer yet"


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhal", b"hello\r\n\r\n"])
def test_an_answer_that_is_cut_off_or_no_http_is_said(reply: bytes, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        odd = settings.model_copy(update={"service_port": server.getsockname()[1]})
        assert str(check(servers.service(odd))).startswith("no answer: it is cut off, or no HTTP: ")
        assert servers.served(odd) == []
        thread.join()


def test_lost_runs_are_cancelled_and_those_whose_owner_lives_are_not(answers: Answers, settings: Settings) -> None:
    def run(name: str, *tags: tuple[str, str]) -> dict[str, Any]:
        return {"runId": name, "tags": [{"key": key, "value": value} for key, value in tags]}

    found = [run("mine", (OWNER, owner())), run("dead", (OWNER, "1@5")), run("daemon's", ("other", "x"))]
    answers.prepared["/graphql"] = [
        (200, {"data": {"runsOrError": {"results": found}}}),
        (200, {"data": {"terminateRuns": {"__typename": "TerminateRunsResult"}}}),
    ]
    assert servers.end_lost_runs(settings) == ["dead", "daemon's"]
    assert answers.asked[1]["variables"] == {"runs": ["dead", "daemon's"]}
    assert "MARK_AS_CANCELED_IMMEDIATELY" in answers.asked[1]["query"]


def test_mlflow_listens_where_it_should_and_knows_its_names(settings: Settings) -> None:
    command = list(servers.mlflow(settings).command)
    port = str(settings.mlflow_port)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-hosts") + 1] == f"127.0.0.1:{port},localhost:{port}"
    assert command[command.index("--workers") + 1] == "1"
    assert servers.mlflow(settings).variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_no_process_list_shows_the_password_of_a_store(settings: Settings) -> None:
    store = "postgresql://mlflow:hunter2@db.example/mlflow"
    program = servers.mlflow(settings.model_copy(update={"mlflow_uri": store}))
    assert "hunter2" not in " ".join(program.command)
    assert program.variables["MLFLOW_BACKEND_STORE_URI"] == program.variables["MLFLOW_REGISTRY_STORE_URI"] == store
