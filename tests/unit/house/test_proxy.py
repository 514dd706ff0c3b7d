"""The proxy's configuration, in a real nginx in front of small servers that say what reached them."""

import base64
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilotage.settings import PROJECT

pytestmark = [
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

DAGSTER, REPORTS, MLFLOW, SERVICE = 3000, 3001, 5000, 8000
PEOPLE = ("operator", "people")


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Proxy:
    ports: dict[int, int]
    """Port in the configuration → port in this test."""
    certificate: Path
    passwords: dict[str, str]

    def ask(
        self,
        port: int,
        path: str,
        *,
        method: str = "GET",
        user: tuple[str, str] | None = PEOPLE,
        host: str = "localhost",
        **headers: str,
    ):
        tls = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("localhost", self.ports[port], timeout=10, context=tls)
        sent = {"Host": f"{host}:{port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if user is not None:
            sent["Authorization"] = (
                "Basic " + base64.b64encode(f"{user[0]}:{self.passwords[user[1]]}".encode()).decode()
            )
        connection.request(method, path, body="{}" if method == "POST" else None, headers=sent)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    root = tmp_path_factory.mktemp("proxy")
    (root / "deploy").mkdir()
    shutil.copy(PROJECT / "deploy" / "make-secrets", root / "deploy" / "make-secrets")
    told = subprocess.run([root / "deploy" / "make-secrets"], check=True, capture_output=True, text=True).stdout
    passwords = dict(re.findall(r"^(\w+): user \w+, password (\w+)", told, re.MULTILINE))
    reports = root / "reports" / "flight_delay"
    reports.mkdir(parents=True)
    (reports / "drift.html").write_text("<h1>Drift</h1>")

    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    ports = {port: free_port() for port in (DAGSTER, REPORTS, MLFLOW, SERVICE)}
    text = (PROJECT / "deploy" / "nginx" / "default.conf.template").read_text().replace("${DOMAIN}", "localhost")
    for port, here in ports.items():
        text = text.replace(f"listen {port} ", f"listen 127.0.0.1:{here} ")
    text = re.sub(r"http://(webserver|mlflow|service):\d+", f"http://127.0.0.1:{upstream.server_address[1]}", text)
    secrets = {"people": "people", "tls_certificate": "tls.crt", "tls_key": "tls.key"}
    for name, file in secrets.items():
        text = text.replace(f"/run/secrets/{name};", f"{root}/deploy/secrets/{file};")
    text = text.replace("/var/lib/pilotage/reports", str(root / "reports"))
    temporary = "".join(
        f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root it would hand its work to a user that can't read the test's folder.
    worker = "user root;\n" if os.geteuid() == 0 else ""
    config = root / "nginx.conf"
    config.write_text(
        f"{worker}pid {root}/nginx.pid;\nerror_log {root}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}\n}}\n"
    )
    checked = subprocess.run(["nginx", "-t", "-c", config, "-p", root], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr

    process = subprocess.Popen(["nginx", "-c", config, "-p", root, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        for port in ports.values():
            _await(port, process)
        yield Proxy(ports, root / "deploy" / "secrets" / "tls.crt", passwords)
    finally:
        process.terminate()
        process.wait(timeout=10)
        upstream.shutdown()
        upstream.server_close()


def _await(port: int, process: subprocess.Popen) -> None:
    """Returns when somebody listens on the port, or nginx has ended."""
    while process.poll() is None:
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.02)
    pytest.fail("nginx ended at once")


@pytest.mark.parametrize("port", [DAGSTER, REPORTS, MLFLOW])
def test_nobody_gets_in_without_a_password(proxy: Proxy, port: int):
    assert proxy.ask(port, "/", user=None)[0] == 401


def test_a_person_reaches_dagster_mlflow_and_the_reports(proxy: Proxy):
    assert proxy.ask(DAGSTER, "/runs")[0] == 200
    assert proxy.ask(MLFLOW, "/api/2.0/mlflow/experiments/search?max_results=1")[0] == 200
    assert proxy.ask(REPORTS, "/flight_delay/drift.html") == (200, b"<h1>Drift</h1>")
    status, front = proxy.ask(REPORTS, "/")
    assert status == 200
    assert b'href="flight_delay/"' in front


KEY = "Bearer plt_abcdefghij_" + "s" * 43


def reached(proxy: Proxy, path: str = "/flight_delay/predict", **headers: str) -> dict[str, str]:
    """Headers that reached the service."""
    status, body = proxy.ask(SERVICE, path, method="POST", user=None, **headers)
    assert status == 200
    return json.loads(body)["headers"]


def test_an_api_key_reaches_the_service_as_it_came_and_opens_nothing_else(proxy: Proxy):
    assert reached(proxy, Authorization=KEY)["Authorization"] == KEY
    assert "Authorization" not in reached(proxy)
    for port in (DAGSTER, REPORTS, MLFLOW):
        assert proxy.ask(port, "/", user=None, Authorization=KEY)[0] == 401


def test_the_id_of_a_request_reaches_the_service_and_none_is_made_up(proxy: Proxy):
    assert reached(proxy, X_Request_Id="order-7")["X-Request-Id"] == "order-7"
    assert "X-Request-Id" not in reached(proxy)


def test_nobody_can_say_who_they_are_to_the_service_but_by_a_key(proxy: Proxy):
    basic = "Basic " + base64.b64encode(b"operator:guess").decode()
    headers = reached(proxy, Authorization=basic, X_Forwarded_User="operator", X_Forwarded_For="127.0.0.1")
    assert "X-Forwarded-User" not in headers
    assert headers["X-Forwarded-For"] == "127.0.0.1", "nginx's own: the test itself is on loopback"
    assert "X-Forwarded-For" in reached(proxy), "so the service knows that it is not asked from its own machine"


def test_two_api_keys_in_one_request_are_refused(proxy: Proxy):
    status, body = raw(
        proxy,
        "POST /flight_delay/predict HTTP/1.1",
        f"Authorization: {KEY}",
        f"Authorization: {KEY}x",
        "Content-Length: 2",
        body=b"{}",
    )
    assert status == 400, body


def test_metrics_are_not_for_the_outside(proxy: Proxy):
    for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"):
        assert proxy.ask(SERVICE, path, user=None)[0] == 404


def test_a_body_of_more_than_4_mb_does_not_reach_the_service(proxy: Proxy):
    for length, status in ((4 * 1024 * 1024, None), (4 * 1024 * 1024 + 1, 413)):
        lines = ("POST /flight_delay/predict HTTP/1.1", f"Content-Length: {length}", "Expect: 100-continue")
        assert raw(proxy, *lines)[0] == (status or 100)


def raw(proxy: Proxy, *lines: str, body: bytes = b"") -> tuple[int, bytes]:
    """Sends a request to the service's port byte by byte, and gives the first answer."""
    tls = ssl.create_default_context(cafile=str(proxy.certificate))
    with (
        socket.create_connection(("localhost", proxy.ports[SERVICE]), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        head = [lines[0], f"Host: localhost:{SERVICE}", *lines[1:], "", ""]
        connection.sendall("\r\n".join(head).encode() + body)
        answer = connection.recv(65536)
        return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize("port", [DAGSTER, REPORTS, MLFLOW, SERVICE])
def test_another_host_name_is_refused_even_with_a_password(proxy: Proxy, port: int):
    assert proxy.ask(port, "/", host="rebound.example")[0] == 421


@pytest.mark.parametrize(
    "path",
    [
        "/graphql?query=mutation{wipeAssets}",
        "/graphql?%71uery=mutation",
        "/graphql?x=1&query=mutation",
        "/%67raphql?query=mutation",
        "/./graphql?query=mutation",
        "//graphql?query=mutation",
        "/graphql/?query=mutation",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_a_query_by_get_is_refused_however_it_is_spelled(proxy: Proxy, path: str, method: str):
    assert proxy.ask(DAGSTER, path, method=method)[0] == 405


def test_queries_by_post_and_the_editor_work(proxy: Proxy):
    assert proxy.ask(DAGSTER, "/graphql", method="POST")[0] == 200
    assert proxy.ask(DAGSTER, "/graphql", method="POST", Origin="https://localhost:3000")[0] == 200
    assert proxy.ask(DAGSTER, "/graphql")[0] == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://localhost:3000.evil.example"]
)
@pytest.mark.parametrize("port", [DAGSTER, REPORTS, MLFLOW, SERVICE])
def test_a_page_of_another_origin_can_change_nothing(proxy: Proxy, port: int, origin: str):
    assert proxy.ask(port, "/graphql", method="POST", Origin=origin)[0] == 403


@pytest.mark.parametrize("port", [DAGSTER, REPORTS, MLFLOW, SERVICE])
def test_a_page_of_one_of_our_servers_can_change_nothing_on_another(proxy: Proxy, port: int):
    """Reports show what others delivered, and MLflow what notebooks logged, with the operator's password at hand."""
    for other in {DAGSTER, REPORTS, MLFLOW, SERVICE} - {port}:
        assert proxy.ask(port, "/graphql", method="POST", Origin=f"https://localhost:{other}")[0] == 403
    background = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}
    assert proxy.ask(port, "/logs/1", **background)[0] == 403


def test_another_sites_page_can_link_here_but_not_fetch_in_the_background(proxy: Proxy):
    assert proxy.ask(DAGSTER, "/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert proxy.ask(DAGSTER, "/logs/1", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


def test_the_name_of_the_person_goes_on_and_the_password_stays(proxy: Proxy):
    status, body = proxy.ask(DAGSTER, "/runs", X_Forwarded_User="somebody-else")
    headers = json.loads(body)["headers"]
    assert status == 200
    assert headers["X-Forwarded-User"] == "operator"
    assert "Authorization" not in headers
    assert headers["Host"] == "localhost:3000"


def test_its_health_needs_no_password(proxy: Proxy):
    assert proxy.ask(DAGSTER, "/-/health", user=None, host="127.0.0.1")[0] == 200
