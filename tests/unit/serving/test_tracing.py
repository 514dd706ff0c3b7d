"""Traces, as a collector receives them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pilotage.settings import PROJECT
from serving.tracing import Traced, Tracing
from tests.unit.serving.codec_cases import answer
from tests.unit.serving.collector import Collector, attributes

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BEGAN = 1_700_000_000_000_000_000


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def trace(collector: Collector) -> Iterator[Callable[..., Tracing]]:
    """Starts tracing to the collector, and ends it."""
    made: list[Tracing] = []

    def start(**options: Any) -> Tracing:
        tracing = Tracing(options.pop("endpoint", collector.url), worker="w1", **{"every_s": 0.01, **options})
        made.append(tracing)
        tracing.start()
        return tracing

    yield start
    for tracing in made:
        tracing.stop()


def traced(**changes: Any) -> Traced:
    fields: dict[str, Any] = {
        "method": "POST",
        "route": "/{model}/predict",
        "status": 200,
        "request_id": "r-1",
        "traceparent": None,
        "started": BEGAN,
        "ended": BEGAN + 2_000_000,
    }
    return Traced(**{**fields, **changes})


def test_a_prediction_is_one_span_with_its_phases_and_ids(collector: Collector, trace: Callable[..., Tracing]):
    seconds = (0.00001, 0.00003, 0.00002, 0.0003, 0.0005)
    trace().record(traced(model="tiny", answer=answer(), seconds=seconds))
    path, request = collector.requests.get(timeout=30)
    assert path == "/v1/traces"
    [resource] = request.resource_spans
    assert attributes(resource.resource)["service.name"] == "pilotage"
    [span] = resource.scope_spans[0].spans
    assert span.name == "POST /{model}/predict"
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (BEGAN, BEGAN + 2_000_000)
    assert span.parent_span_id == b""
    assert any(span.trace_id)
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/{model}/predict",
        "http.response.status_code": 200,
        "pilotage.request_id": "r-1",
        "pilotage.model": "tiny",
        "pilotage.prediction_id": "p-0",
        "pilotage.version": 3,
        "pilotage.stage": "champion",
        "pilotage.answered_by": "model",
        "pilotage.referred": False,
        "pilotage.phase.parse_seconds": 0.00001,
        "pilotage.phase.features_seconds": 0.00003,
        "pilotage.phase.predict_seconds": 0.00002,
        "pilotage.phase.log_seconds": 0.0003,
        "pilotage.phase.total_seconds": 0.0005,
    }


def test_the_callers_trace_goes_on(collector: Collector, trace: Callable[..., Tracing]):
    trace().record(traced(traceparent=f"00-{TRACE}-{SPAN}-01"))
    [span] = collector.spans(1)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.span_id.hex() != SPAN


def test_a_trace_that_the_caller_does_not_sample_is_not_sent(collector: Collector, trace: Callable[..., Tracing]):
    tracing = trace()
    tracing.record(traced(request_id="unsampled", traceparent=f"00-{TRACE}-{SPAN}-00"))
    tracing.record(traced(request_id="sampled"))
    [span] = collector.spans(1)
    assert attributes(span)["pilotage.request_id"] == "sampled"
    assert tracing.dropped == 0


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_a_traceparent_that_can_not_be_read_begins_a_trace_of_its_own(
    collector: Collector, trace: Callable[..., Tracing], header: str
):
    trace().record(traced(traceparent=header))
    [span] = collector.spans(1)
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known(
    collector: Collector, trace: Callable[..., Tracing]
):
    trace().record(traced(traceparent=f"01-{TRACE}-{SPAN}-01-more"))
    assert collector.spans(1)[0].trace_id.hex() == TRACE


def test_only_an_error_of_ours_is_an_error_of_the_span(collector: Collector, trace: Callable[..., Tracing]):
    tracing = trace()
    tracing.record(traced(status=422, error="InvalidRequest"))
    tracing.record(traced(status=503, error="ModelNotReady"))
    spans = {attributes(span)["error.type"]: span.status.code for span in collector.spans(2)}
    assert spans == {"InvalidRequest": 0, "ModelNotReady": 2}


def test_what_waits_is_sent_at_the_end(collector: Collector, trace: Callable[..., Tracing]):
    tracing = trace(every_s=3600)
    for _ in range(20):
        tracing.record(traced())
    tracing.stop()
    assert len(collector.spans(20)) == 20


def test_a_collector_that_hangs_never_holds_up_an_answer_and_what_it_misses_is_counted(
    collector: Collector, trace: Callable[..., Tracing]
):
    collector.holding = threading.Event()
    tracing = trace(capacity=100, batch=10, every_s=0.001, timeout_s=30)
    for _ in range(1_000):
        tracing.record(traced())
    # Up to a batch is on its way, up to the capacity waits; the rest is given up.
    assert 1_000 - 100 - 10 <= tracing.dropped <= 1_000 - 100
    collector.holding.set()
    tracing.stop(30)
    assert len(collector.spans(1_000 - tracing.dropped)) == 1_000 - tracing.dropped


def test_without_a_collector_spans_are_dropped_and_said_once(
    trace: Callable[..., Tracing], collector: Collector, caplog: pytest.LogCaptureFixture
):
    collector.close()
    tracing = trace(timeout_s=0.2)
    for _ in range(3):
        tracing.record(traced())
    tracing.stop(30)
    assert tracing.dropped == 3
    assert len(caplog.records) == 1
    # The fixture closes it again.
    collector.close = lambda: None  # type: ignore[method-assign]


def test_a_collector_that_refuses_every_batch_is_one_line_with_what_it_said(
    collector: Collector, trace: Callable[..., Tracing], caplog: pytest.LogCaptureFixture
):
    collector.status = 401
    tracing = trace(batch=1)
    for _ in range(20):
        tracing.record(traced())
    tracing.stop(30)
    assert tracing.dropped == 20
    [line] = caplog.records
    assert line.levelname == "WARNING"
    assert "dropped until it does" in line.getMessage() and "401" in line.getMessage()


def test_a_service_without_an_endpoint_imports_nothing_of_opentelemetry():
    code = "import sys, serving.tracing; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
