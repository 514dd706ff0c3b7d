"""Ten thousand requests that schemathesis makes of the service's own OpenAPI page, under all of its checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.world import World

REQUESTS = 10_000


@pytest.mark.timeout(2400)
def test_no_fuzzed_request_breaks_the_service_or_its_word(
    tmp_path: Path, seed: int, tell: Callable[[str], None]
) -> None:
    world = World(tmp_path / "home", workers=1)
    report = tmp_path / "report.ndjson"
    with world.serving() as serving:
        before = serving.workers()
        page = serving.running.get("/docs.json").json()
        operations = sum(len(methods) for methods in page["paths"].values())
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{serving.running.url}/docs.json"]
        command += ["--checks", "all", "--seed", str(seed), "--max-examples", str(2 * REQUESTS // operations)]
        command += ["--continue-on-failure", "--workers", "1", "--suppress-health-check", "all", "--no-color"]
        command += ["--report", "ndjson", "--report-ndjson-path", str(report), "--request-timeout", "20"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        (tmp_path / "schemathesis.txt").write_text(done.stdout + done.stderr)
        tell(f"schemathesis: exit code {done.returncode}\n{done.stdout[-6000:]}")
        assert serving.workers()[0]["pid"] == before[0]["pid"], "no worker died"
