"""Serves the folder of reports as static pages, read-only, to this machine.

python -m pilotage.cli.reports --folder DIR --host HOST --port PORT
"""

from __future__ import annotations

import argparse
import io
from datetime import UTC, datetime
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HEALTH = "/-/health"
FRONT = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Reports</title><style>
body{font:15px/1.6 system-ui,sans-serif;color:#1c2733;margin:0 auto;max-width:700px;padding:24px}h1{font-size:22px}
a{color:#0b62a4}table{border-collapse:collapse;width:100%}td{padding:5px 10px 5px 0;border-bottom:1px solid #e3e8ee}
</style></head><body><h1>Reports</h1>"""
NAMES = {"index": "data quality", "drift": "drift"}
"""What the pages of a source or model are called, by their file."""


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

    def list_directory(self, path: Any) -> Any:
        """The front page says what there is; other folders are listed as they are."""
        if Path(path) != Path(self.directory):
            return super().list_directory(path)
        page = _front(Path(path)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        return io.BytesIO(page)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_request(self, *_: object) -> None:
        """Says nothing of requests that went well; the health poll alone would fill the log."""


def _front(folder: Path) -> str:
    """Links to the pages of every source and model."""
    rows = []
    for page in sorted(folder.glob("*/*.html")):
        name, kind = page.parent.name, NAMES.get(page.stem, page.stem)
        made = datetime.fromtimestamp(page.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
        link = f'<a href="{escape(name)}/{escape(page.name)}">{escape(name)}: {escape(kind)}</a>'
        rows.append(f"<tr><td>{link}</td><td>{made}</td></tr>")
    body = f"<table>{''.join(rows)}</table>" if rows else "<p>There are none yet.</p>"
    return f"{FRONT}{body}</body></html>"


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
