"""Serves the folder of reports as static pages, read-only, to this machine.

python -m pilotage.cli.reports --folder DIR --host HOST --port PORT
"""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HEALTH = "/-/health"


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder; a request that names another host is refused, so that no web page can read them."""

    def __init__(self, *args: Any, hosts: frozenset[str], **options: Any) -> None:
        self._hosts = hosts
        super().__init__(*args, **options)

    def send_head(self) -> Any:
        # A page elsewhere whose name resolves to loopback would be same-origin with us; its Host gives it away.
        if self.headers.get("Host", "").lower() not in self._hosts:
            self.send_error(403, "Unknown host")
            return None
        if self.path == HEALTH:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b'{"status": "ok"}')
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_request(self, *_: object) -> None:
        """Says nothing of requests that went well; the health poll alone would fill the log."""


def serve(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; the caller runs it."""
    hosts = frozenset(f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]", host.lower()))
    ThreadingHTTPServer.daemon_threads = True
    return ThreadingHTTPServer((host, port), partial(Handler, directory=str(folder), hosts=hosts))


def main() -> None:
    parser = argparse.ArgumentParser(prog="pilotage.cli.reports")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    serve(arguments.folder, arguments.host, arguments.port).serve_forever()


if __name__ == "__main__":
    main()
