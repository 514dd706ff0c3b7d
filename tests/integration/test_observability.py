"""What two workers of a running service tell: one page of metrics, traces at a collector, log lines as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle, tiny_spec
from pilotage.testing.service import RunningService, release_bundle, running_service
from tests.unit.serving.collector import Collector, attributes

SERVICE = "tests.integration.service_of_tiny_models:TinyService"
SPEC = tiny_spec("tiny")
ORDER = {field.name: field.example for field in SPEC.request}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("observability")
    settings = Settings(home=home, service_workers=2, otel_endpoint=collector.url, log_format="json")
    release_bundle(settings, "tiny", home / "tiny", make_bundle(home / "tiny", spec=SPEC), version=1)
    with running_service(settings, service=SERVICE, log=home / "service.log") as running:
        running.until_answer(lambda: running.get("/metrics"), lambda answer: loaded(answer) == 2)
        yield running


def samples(answer: httpx.Response) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def metrics(service: RunningService) -> httpx.Response:
    """The page, over a connection of its own: one that is kept may be to a worker that is dead by now."""
    return httpx.get(f"{service.url}/metrics", timeout=30)


def loaded(answer: httpx.Response) -> float:
    """Workers that have the champion loaded."""
    if answer.status_code != 200:
        return 0
    labels = frozenset({("model", "tiny"), ("version", "1"), ("role", "champion")})
    return samples(answer).get(("pilotage_versions", labels), 0)


def answered(answer: httpx.Response) -> float:
    return sum(value for (name, _), value in samples(answer).items() if name == "pilotage_predictions_total")


def until_answered(service: RunningService, number: int) -> None:
    """What another worker did is on the page within a second, and stays there, whoever is asked."""
    service.until_answer(lambda: metrics(service), lambda answer: answered(answer) == number)
    assert [answered(metrics(service)) for _ in range(6)] == [number] * 6


def ask(service: RunningService, number: int) -> set[int]:
    """Predicts over a connection each, so that both workers get some."""
    return {httpx.post(f"{service.url}/tiny/predict", json=ORDER, timeout=30).status_code for _ in range(number)}


def workers(service: RunningService) -> list[psutil.Process]:
    """The processes that listen, but for the one that started them."""
    family = psutil.Process(service.process.pid).children(recursive=True)
    return [each for each in family if any("metrics" in file.path for file in each.open_files())]


def test_whichever_worker_is_asked_it_counts_for_all_and_for_those_that_died(service: RunningService) -> None:
    assert ask(service, 20) == {200}
    until_answered(service, 20)
    first, second = workers(service)
    first.kill()
    service.until_answer(
        lambda: metrics(service), lambda answer: loaded(answer) == 2 and first.pid not in psutil.pids()
    )
    until_answered(service, 20)
    assert ask(service, 20) == {200}
    until_answered(service, 40)
    assert second.is_running()


def test_a_request_is_a_span_of_its_callers_trace(service: RunningService, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "r-77"}
    answer = httpx.post(f"{service.url}/tiny/predict", json=ORDER, headers=headers, timeout=30)
    assert answer.headers["x-request-id"] == "r-77"
    span = collector.find(lambda span: span.trace_id.hex() == TRACE)
    assert span.parent_span_id.hex() == SPAN
    told = attributes(span)
    assert told["pilotage.request_id"] == "r-77"
    assert told["pilotage.prediction_id"] == answer.json()["prediction_id"]
    assert told["http.route"] == "/{model}/predict"
    phases = [told[f"pilotage.phase.{phase}_seconds"] for phase in ("parse", "predict", "log", "total")]
    assert 0 < sum(phases[:3]) < 2 * phases[3]
    assert "A-1" not in str(span), "nothing of what was sent is in it"


def test_the_services_own_lines_are_json_and_hold_nothing_that_was_sent(service: RunningService) -> None:
    ask(service, 1)
    refused = httpx.post(f"{service.url}/tiny/predict", json={**ORDER, "order_id": ["Ada Lovelace"]}, timeout=30)
    assert refused.status_code == 422
    written = service.log.read_text()
    ours = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert any("tiny" in line["message"] for line in ours), written
    assert all({"at", "level", "message", "process"} <= line.keys() for line in ours)
    assert "Ada" not in written
