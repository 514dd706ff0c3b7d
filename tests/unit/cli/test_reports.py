"""Reports are served read-only, to this machine, and to no page of another origin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pilotage.cli.reports import serve


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "reports" / "drift").mkdir(parents=True)
    (tmp_path / "reports" / "drift" / "report.html").write_text("<p>drift</p>")
    (tmp_path / "secret").write_text("secret")
    probe = serve(tmp_path / "reports", "127.0.0.1", 0)
    found = int(probe.server_address[1])
    probe.server_close()
    server = serve(tmp_path / "reports", "127.0.0.1", found)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_report_is_served(port: int) -> None:
    assert ask(port, "/drift/report.html") == (200, b"<p>drift</p>")
    assert ask(port, "/drift/report.html", host=f"localhost:{port}")[0] == 200


def test_the_front_page_leads_to_every_report(port: int, tmp_path: Path) -> None:
    (tmp_path / "reports" / "flights" / "run-1").mkdir(parents=True)
    (tmp_path / "reports" / "flights" / "index.html").touch()
    (tmp_path / "reports" / "a<b").mkdir()
    (tmp_path / "reports" / "a<b" / "drift.html").touch()
    status, page = ask(port, "/")
    assert status == 200
    assert b'<a href="flights/index.html">flights: data quality</a>' in page
    assert b'<a href="drift/report.html">drift: report</a>' in page
    assert b"a<b" not in page
    assert b"run-1" in ask(port, "/flights/run-1/")[1]
    assert b"run-1" not in page


def test_health_is_answered(port: int) -> None:
    assert ask(port, "/-/health") == (200, b'{"status": "ok"}')
    assert ask(port, "/-/health", method="HEAD") == (200, b"")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:80"])
def test_another_host_is_refused(port: int, host: str) -> None:
    assert ask(port, "/drift/report.html", host=host)[0] == 403


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/drift/../../secret"])
def test_nothing_outside_the_folder_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    assert ask(port, "/drift/report.html", method=method)[0] == 501
