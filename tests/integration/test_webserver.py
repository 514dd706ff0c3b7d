"""The guard in front of Dagster's real web server: without it each of these requests carries out a mutation."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.bench.serving.server import free_port
from tests.unit.cli.programs import until

pytestmark = pytest.mark.slow

MUTATION = {"query": "mutation { setNuxSeen }"}
DEFINITIONS = "import dagster as dg\n\ndefs = dg.Definitions()\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("dagster")
    (root / "nothing.py").write_text(DEFINITIONS)
    (root / "workspace.yaml").write_text(f"load_from: [{{python_file: {root / 'nothing.py'}}}]\n")
    (root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    port = free_port()
    command = [sys.executable, "-m", "pilotage.cli.webserver", "-w", str(root / "workspace.yaml"), "-p", str(port)]
    variables = {**os.environ, "DAGSTER_HOME": str(root), "PILOTAGE_HOME": str(root)}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _answers(port), seconds=120)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(port: int) -> bool:
    try:
        return ask(port, "/server_info", method="GET")[0] == 200
    except OSError:
        return False


def ask(port: int, path: str = "/graphql", *, method: str = "POST", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, body=json.dumps(MUTATION) if method == "POST" else None, headers=sent)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_its_own_pages_and_programs_are_answered(port: int) -> None:
    done = (200, b'{"data":{"setNuxSeen":true}}')
    assert ask(port) == done
    assert ask(port, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") == done
    assert ask(port, "/runs", method="GET")[0] == 200


def test_no_page_of_elsewhere_has_a_mutation_carried_out(port: int) -> None:
    assert ask(port, "/graphql?query=mutation%20%7BsetNuxSeen%7D", method="GET")[0] == 403
    assert ask(port, Host="evil.example")[0] == 403
    # What a browser sends for a page without asking whether it may.
    assert ask(port, Origin="http://evil.example", Content_Type="text/plain; application/json")[0] == 403
