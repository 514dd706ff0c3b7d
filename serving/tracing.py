"""OpenTelemetry traces: one span a request, with what each phase took, sent by a thread of its own.

Only where ``PILOTAGE_OTEL_ENDPOINT`` is set: without, nothing of OpenTelemetry is even imported. A span is made after
the answer, of what the gateway knows by then, so that tracing costs the answer one append to a queue. What the
collector does not take in time is dropped and counted, never waited for. Fields of a request are never in a span.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any, NamedTuple

from pilotage.runtime.answer import Answer
from serving.logs import Seldom
from serving.metrics_text import PHASES

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_PATH = "/v1/traces"
_SAMPLED = 1
_LIBRARY = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""The logger of what sends the spans: it says each try that fails, several a second."""
logger = logging.getLogger("bentoml.pilotage")


class Traced(NamedTuple):
    """A request that was answered."""

    method: str
    route: str
    """Template, not the address as it was sent."""
    status: int
    request_id: str
    traceparent: str | None
    """The header as it came (W3C Trace Context)."""
    started: int
    """Nanoseconds since 1970 UTC."""
    ended: int
    model: str | None = None
    answer: Answer | None = None
    """Of a prediction."""
    seconds: Sequence[float] | None = None
    """What each of ``PHASES`` took."""
    error: str | None = None
    """Kind of the error that was answered."""


class _First(logging.Handler):
    """Keeps the first thing that is said, which is the cause of the others."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = self.said or record.getMessage()


class Tracing:
    """Sends spans to a collector by OTLP over HTTP."""

    def __init__(
        self,
        endpoint: str,
        *,
        worker: str,
        capacity: int = 8_192,
        batch: int = 512,
        every_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        """Prepares the exporter; nothing is sent before ``start``.

        Args:
            endpoint: The collector's base address, such as ``http://127.0.0.1:4318``.
            worker: Name of this process.
            capacity: Spans that may wait; the oldest of more are dropped.
            batch: Spans of one request to the collector.
            every_s: Seconds between requests, where there is less than a batch.
            timeout_s: Seconds that the collector gets, retries included.
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self.dropped = 0
        """Spans that were not taken in time."""
        self._queue: deque[Traced] = deque()
        self._capacity, self._batch, self._every_s = capacity, batch, every_s
        base = endpoint.rstrip("/")
        self._exporter = OTLPSpanExporter(
            endpoint=base if base.endswith(_PATH) else f"{base}{_PATH}", timeout=timeout_s
        )
        self._resource = Resource(
            {
                "service.name": "pilotage",
                "service.version": installed("pilotage"),
                "service.instance.id": worker,
            }
        )
        self._wake = threading.Event()
        self._stopping = False
        self._told = False
        self._warn = Seldom(logger.warning)
        self._reason = _First()
        library = logging.getLogger(_LIBRARY)
        library.handlers, library.propagate = [self._reason], False
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def record(self, traced: Traced) -> None:
        """Takes a request; never waits."""
        queue = self._queue
        if len(queue) >= self._capacity:
            queue.popleft()
            self.dropped += 1
        queue.append(traced)
        if len(queue) >= self._batch:
            self._wake.set()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Sends what waits, for so long, and ends."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self.dropped += len(self._queue)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every_s)
            self._wake.clear()
            while self._queue and self._send():
                pass

    def _send(self) -> bool:
        """Sends up to a batch. Returns whether the collector took it."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        taken: list[Traced] = []
        while self._queue and len(taken) < self._batch:
            try:
                taken.append(self._queue.popleft())
            except IndexError:
                # The loop's thread made room in between.
                break
        spans = [span for traced in taken if (span := self._span(traced)) is not None]
        if not spans:
            return True
        self._reason.said = ""
        try:
            took = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            logger.exception("Traces can't be sent")
            took = False
        if not took:
            self.dropped += len(spans)
            if not self._told:
                self._warn(
                    f"The trace collector does not take the spans; they are dropped until it does. {self._reason.said}"
                )
        self._told = not took
        return took

    def _span(self, traced: Traced) -> ReadableSpan | None:
        """A request as a span; ``None`` if the caller does not sample its trace."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        parent = None
        trace_id = random.getrandbits(128)
        if (given := _parent(traced.traceparent)) is not None:
            trace_id, parent_id, flags = given
            if not flags & _SAMPLED:
                return None
            parent = SpanContext(trace_id, parent_id, is_remote=True, trace_flags=TraceFlags(flags))
        span_id = random.getrandbits(64) or 1
        return ReadableSpan(
            name=f"{traced.method} {traced.route}",
            context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(_SAMPLED)),
            parent=parent,
            resource=self._resource,
            attributes=_attributes(traced),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if traced.status >= 500 else StatusCode.UNSET),
            start_time=traced.started,
            end_time=traced.ended,
            instrumentation_scope=InstrumentationScope("pilotage.serving"),
        )


def _attributes(traced: Traced) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": traced.method,
        "http.route": traced.route,
        "http.response.status_code": traced.status,
        "pilotage.request_id": traced.request_id,
    }
    if traced.model is not None:
        attributes["pilotage.model"] = traced.model
    if traced.error is not None:
        attributes["error.type"] = traced.error
    if traced.answer is not None:
        attributes["pilotage.prediction_id"] = traced.answer.prediction_id
        attributes["pilotage.answered_by"] = traced.answer.answered_by
        attributes["pilotage.referred"] = traced.answer.referred
        if traced.answer.version is not None:
            attributes["pilotage.version"] = traced.answer.version
        if traced.answer.stage is not None:
            attributes["pilotage.stage"] = traced.answer.stage
    for phase, seconds in zip(PHASES, traced.seconds or (), strict=False):
        attributes[f"pilotage.phase.{phase}_seconds"] = seconds
    return attributes


def _parent(header: str | None) -> tuple[int, int, int] | None:
    """Trace id, span id and flags of a ``traceparent`` (W3C, section 3.2); ``None`` if it can't be read."""
    found = _TRACEPARENT.fullmatch(header) if header else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return (trace_id, span_id, int(found[4], 16)) if trace_id and span_id else None
