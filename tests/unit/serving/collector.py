"""A receiver of traces to test with."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """A tiny OTLP/HTTP receiver on loopback."""

    def __init__(self) -> None:
        self.requests: queue.Queue[tuple[str, ExportTraceServiceRequest]] = queue.Queue()
        self.holding: threading.Event | None = None
        """Where set, requests wait for it."""
        self.status = 200
        """What it answers."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if outer.holding is not None:
                    outer.holding.wait(30)
                self.send_response(outer.status)
                self.end_headers()
                outer.requests.put((self.path, ExportTraceServiceRequest.FromString(body)))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def spans(self, number: int) -> list[Any]:
        """Waits for so many spans."""
        found: list[Any] = []
        while len(found) < number:
            _, request = self.requests.get(timeout=30)
            found += [span for r in request.resource_spans for scope in r.scope_spans for span in scope.spans]
        return found

    def find(self, accept: Callable[[Any], bool]) -> Any:
        """Waits for a span."""
        while True:
            for span in self.spans(1):
                if accept(span):
                    return span

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
