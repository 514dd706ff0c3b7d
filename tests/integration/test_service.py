"""The prediction service as a process: real BentoML, a real ledger, real bundles."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pilotage.data.lake import Lake
from pilotage.features.online import build_online
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.settings import PROJECT, Settings
from pilotage.testing.bundles import ORDER, START, make_bundle, tiny_spec
from pilotage.testing.service import RunningService, release_bundle, running_service

SERVICE = "tests.integration.service_of_tiny_models:TinyService"
STATELESS, STATEFUL = tiny_spec("tiny"), tiny_spec("tiny_state", with_state=True)


def stock(lake: Lake, level: int) -> None:
    """Tells the lake and the online store of the stock in the north, known on 3 January at 08:00."""
    known = datetime(2024, 1, 3, 8, tzinfo=START.tzinfo)
    frame = pl.DataFrame(
        {"shop": ["north"], "level": [level], "known_at": [known], "day": [date(2024, 1, 3)]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC"), "level": pl.Int64},
    )
    lake.replace_days("validated/stock", frame, [date(2024, 1, 3)], note={})


def make_online(settings: Settings, level: int = 17) -> None:
    lake = Lake(settings.lake)
    stock(lake, level)
    build_online(STATEFUL, lake=lake, path=settings.online / f"{STATEFUL.name}.db", run_id="test")


def expected(bundle: Path, request: dict[str, Any], **state: Any) -> float:
    """What the bundle says, asked directly."""
    when = datetime.fromisoformat(request["ordered_at"])
    row = {**request, "ordered_at": when, **state}
    schema = {**STATELESS.request_types(), **opened(bundle).state_types()}
    return float(opened(bundle).score(pl.DataFrame([row], schema=schema))[0])


JSON = {"content-type": "application/json"}


@cache
def opened(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def settings(home: Path) -> Settings:
    return Settings(home=home)


@pytest.fixture(scope="module")
def service(settings: Settings, home: Path) -> Iterator[RunningService]:
    """A service with both champions in place before it starts."""
    for spec in (STATELESS, STATEFUL):
        release_bundle(settings, spec.name, home / spec.name, make_bundle(home / spec.name, spec=spec), version=1)
    make_online(settings)
    with running_service(settings, service=SERVICE, log=home / "service.log") as running:
        running.until("/readyz")
        yield running


def test_an_answer_has_the_bundles_own_probability_the_version_and_what_it_is_about(
    service: RunningService, home: Path
) -> None:
    answer = service.predict("tiny", ORDER)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["probability"] == expected(home / "tiny", ORDER)
    assert body["decision"] is (body["probability"] >= STATELESS.kpi.cost.threshold)
    assert (body["model"], body["version"], body["label"]) == ("tiny", 1, "late")
    assert body["entity"] == {"order_id": "A-7"}
    assert body["state_through"] is None
    assert datetime.fromisoformat(body["predicted_at"]).utcoffset().total_seconds() == 0


def test_requests_that_went_well_leave_the_log_as_it_is(service: RunningService) -> None:
    service.get("/models")
    before = service.log.stat().st_size
    for _ in range(20):
        assert service.get("/models").status_code == 200
        assert service.predict("tiny", ORDER).status_code == 200
    assert service.log.stat().st_size == before


def test_state_features_are_looked_up_as_of_the_requests_own_moment(
    service: RunningService, home: Path, settings: Settings
) -> None:
    after = service.predict("tiny_state", ORDER).json()
    assert after["probability"] == expected(home / "tiny_state", ORDER, stock_level=17)
    assert after["state_through"] == "2024-01-03T08:00:00Z"
    through = datetime(2024, 1, 3, 8, tzinfo=UTC).timestamp()
    pages = text_string_to_metric_families(service.get("/metrics").text)
    known = {each.labels["model"]: each.value for page in pages for each in page.samples if "_through_" in each.name}
    assert known["tiny_state"] == through
    early = {**ORDER, "ordered_at": "2024-01-03T07:59:59Z"}
    before = service.predict("tiny_state", early).json()
    assert before["probability"] == expected(home / "tiny_state", early, stock_level=None)


def test_a_new_online_store_is_noticed_without_a_restart(
    service: RunningService, home: Path, settings: Settings
) -> None:
    make_online(settings, level=2)
    try:
        body = service.predict("tiny_state", ORDER).json()
        assert body["probability"] == expected(home / "tiny_state", ORDER, stock_level=2)
    finally:
        make_online(settings)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"amount": "640"}, "amount", "is a text"),
        ({"amount": True}, "amount", "is a boolean"),
        ({"amount": 1000.01}, "amount", "out of range"),
        ({"items": 3.0}, "items", "is a number"),
        ({"items": 10**30}, "items", "does not fit 64 bits"),
        ({"express": 1}, "express", "is an integer"),
        ({"shop": "east"}, "shop", "none of the allowed"),
        ({"shop": None}, "shop", "not allowed"),
        ({"ordered_at": "2024-01-03T10:00:00"}, "ordered_at", "no time zone"),
        ({"ordered_at": "2024-01-03T10:00:00+01:00"}, "ordered_at", "not in UTC"),
        ({"ordered_at": 1704276000}, "ordered_at", "is an integer"),
        ({"colour": "red"}, "colour", "no field"),
    ],
)
def test_a_request_that_breaks_the_contract_is_answered_with_field_value_and_fix(
    service: RunningService, change: dict[str, Any], field: str, words: str
) -> None:
    answer = service.predict("tiny", {**ORDER, **change})
    assert answer.status_code == 422
    body = answer.json()
    assert body["error"] == "InvalidRequest"
    assert body["field"] == field
    assert words in body["message"]
    assert body["fix"]


def test_a_missing_field_is_named_unless_it_may_be_null(service: RunningService) -> None:
    left_out = {name: value for name, value in ORDER.items() if name != "amount"}
    answer = service.predict("tiny", left_out)
    assert (answer.status_code, answer.json()["field"]) == (422, "amount")
    nullable = {name: value for name, value in ORDER.items() if name != "courier"}
    answers = [service.predict("tiny", request).json()["probability"] for request in (nullable, ORDER)]
    assert answers[0] == answers[1]


def test_bodies_of_another_kind_or_size_are_turned_away(service: RunningService) -> None:
    url = f"{service.url}/tiny/predict"
    assert service.client.post(url, data={"amount": "1"}).status_code == 415
    assert service.client.post(url, content=b"{", headers=JSON).status_code == 422
    memory = psutil.Process(only_worker(service)["pid"]).memory_info().rss

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1024 * 1024

    with suppress(httpx.TransportError):
        # 100 MB that were not announced; the answer comes long before the client is through.
        unannounced = service.client.post(url, content=chunks(), headers=JSON)
        assert (unannounced.status_code, unannounced.json()["error"]) == (413, "RequestTooLarge")
    announced = service.client.post(url, content=b"x" * 70_000, headers=JSON)
    assert announced.status_code == 413
    assert psutil.Process(only_worker(service)["pid"]).memory_info().rss - memory < 50 * 1024 * 1024
    assert service.predict("tiny", ORDER).status_code == 200


def only_worker(service: RunningService) -> dict[str, Any]:
    """What the one worker says of itself."""
    answer = service.until_answer(lambda: service.get("/workers"), lambda found: len(found.json()["workers"]) == 1)
    return dict(answer.json()["workers"][0])


def test_an_unknown_model_is_404_with_the_names_that_there_are(service: RunningService) -> None:
    answer = service.predict("nothing", ORDER)
    assert answer.status_code == 404
    assert answer.json()["error"] == "UnknownModel"
    assert "tiny_state" in answer.json()["fix"]


def test_an_unknown_category_is_answered(service: RunningService, home: Path) -> None:
    request = {**ORDER, "courier": "somebody new"}
    assert service.predict("tiny", request).json()["probability"] == expected(home / "tiny", request)


def test_the_example_of_the_openapi_page_is_a_request_that_works(service: RunningService) -> None:
    page = service.get("/docs.json").json()
    assert service.predict("tiny", page["components"]["schemas"]["TinyRequest"]["example"]).status_code == 200


def test_metrics_count_predictions_by_version_and_errors_by_kind(service: RunningService) -> None:
    service.predict("tiny", ORDER)
    service.predict("tiny", {})
    lines = service.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("pilotage_predictions_total") and 'model="tiny"' in line]
    assert any('version="1"' in line for line in counted), lines[:40]
    assert any(line.startswith("pilotage_errors_total") and 'error="InvalidRequest"' in line for line in lines)


def test_many_clients_at_once_each_get_their_own_answer(service: RunningService, home: Path) -> None:
    amounts = np.linspace(1, 999, 60).round(2).tolist()
    requests = [{**ORDER, "order_id": f"A-{number}", "amount": amount} for number, amount in enumerate(amounts)]
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(lambda request: service.predict("tiny", request), requests)]
    assert [answer["entity"]["order_id"] for answer in answers] == [request["order_id"] for request in requests]
    assert [answer["probability"] for answer in answers] == [expected(home / "tiny", request) for request in requests]


def test_it_listens_on_loopback_only(service: RunningService) -> None:
    family = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_port_that_is_taken_is_named(service: RunningService, home: Path) -> None:
    port = service.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "serving", "--port", port]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"Port {port} of 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_worker_outlives_a_killed_service(tmp_path: Path) -> None:
    with running_service(Settings(home=tmp_path), service=SERVICE, log=tmp_path / "service.log") as running:
        workers = psutil.Process(running.process.pid).children(recursive=True)
        assert workers
        running.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []


def ask_until(running: RunningService, stop: threading.Event) -> list[tuple[int, int, float]]:
    """Status, version and probability of every answer until it is told to stop."""
    answers = []
    while not stop.is_set():
        answer = running.predict("tiny", ORDER)
        answers.append((answer.status_code, answer.json().get("version"), answer.json().get("probability")))
    return answers


def test_a_life_from_no_champion_over_promotions_and_a_bad_bundle_to_a_clean_end(tmp_path: Path) -> None:
    """One process sees it all, so that every step is proved without a restart."""
    settings = Settings(home=tmp_path)
    bundles = [tmp_path / f"v{version}" for version in (1, 2, 3)]
    hashes = [make_bundle(folder, spec=STATELESS, seed=seed) for seed, folder in enumerate(bundles)]
    with running_service(settings, service=SERVICE, log=tmp_path / "service.log") as running:
        assert running.get("/livez").status_code == 200
        assert running.get("/readyz").status_code == 503
        refusal = running.predict("tiny", ORDER)
        assert (refusal.status_code, refusal.json()["error"]) == (503, "ModelNotReady")

        release_bundle(settings, "tiny", bundles[0], hashes[0], version=1)
        # While it loads, the rule answers, and says so.
        first = running.until_answer(
            lambda: running.predict("tiny", ORDER), lambda answer: answer.json().get("answered_by") == "model"
        )
        assert first.json()["probability"] == expected(bundles[0], ORDER)
        assert running.get("/readyz").status_code == 503, "the other model has no champion yet"

        stateful = tmp_path / "stateful"
        release_bundle(settings, "tiny_state", stateful, make_bundle(stateful, spec=STATEFUL), version=1)
        running.until_answer(lambda: running.get("/models"), lambda answer: answer.json()["models"][1]["version"] == 1)
        assert running.get("/readyz").status_code == 503, "its online state is missing"
        stateless = running.predict("tiny_state", ORDER)
        assert (stateless.status_code, stateless.json()["answered_by"]) == (200, "rule")
        assert any("There is no online store" in reason for reason in stateless.json()["reasons"])
        make_online(settings)
        running.until("/readyz")

        with ThreadPoolExecutor(4) as pool:
            # Clients that don't stop asking while the version changes.
            swapped = threading.Event()
            clients = [pool.submit(ask_until, running, swapped) for _ in range(4)]
            release_bundle(settings, "tiny", bundles[1], hashes[1], version=2)
            running.until_answer(lambda: running.predict("tiny", ORDER), lambda answer: answer.json()["version"] == 2)
            swapped.set()
            answers = [answer for client in clients for answer in client.result()]
        right = {version: expected(bundles[version - 1], ORDER) for version in (1, 2)}
        assert {status for status, _, _ in answers} == {200}, "no request fails"
        assert all(probability == right[version] for _, version, probability in answers), "version and score agree"

        damaged = bundles[2] / "model.txt"
        damaged.write_bytes(damaged.read_bytes().replace(b"leaf_value", b"leaf_valoo", 1))
        release_bundle(settings, "tiny", bundles[2], hashes[2], version=3)
        told = running.until_answer(
            lambda: running.get("/models"), lambda answer: answer.json()["models"][0]["problem"] is not None
        )
        assert "version 3 is refused" in told.json()["models"][0]["problem"]
        assert "model.txt" in told.json()["models"][0]["problem"]
        assert running.predict("tiny", ORDER).json()["version"] == 2
        assert running.get("/readyz").status_code == 200, "the version before answers"

        # The registry's copy may go: what is served lies on the service's own disk.
        shutil.rmtree(bundles[1])
        assert running.predict("tiny", ORDER).json()["version"] == 2
        assert (settings.bundles / "tiny" / "2" / "manifest.json").exists()
        tried = {path.name for path in settings.tried.iterdir()}
        assert {*hashes[:2]} <= tried, "none of them needs another trial on this host"
        assert hashes[2] not in tried
        assert running.stop() == [], "no process is left"
        assert running.process.returncode == 0


def test_serving_imports_neither_dagster_nor_mlflow_nor_sklearn_nor_pandas() -> None:
    code = (
        "import sys, serving.service; "
        "heavy = {'dagster', 'mlflow', 'sklearn', 'pandas', 'great_expectations', 'evidently', 'optuna', 'lightgbm'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
