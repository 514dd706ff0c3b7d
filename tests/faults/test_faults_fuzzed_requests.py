"""Ten thousand requests that schemathesis makes of the service's own OpenAPI page, under all of its checks."""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime.access.keyfile import create_key
from tests.faults.world import World

REQUESTS = 10_000
EXAMPLES = 280
"""Drawn for each operation, beside what schemathesis makes of the examples and the limits of the API page (3,200)."""
HALVES, OTHER_MODELS = ("--include-path-regex", "--exclude-path-regex"), "tiny_(high|state)"
"""Two processes share the operations: to make a request takes longer than to answer it."""
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(3000)
def test_no_fuzzed_request_breaks_the_service_or_its_word(
    tmp_path: Path, seed: int, tell: Callable[[str], None]
) -> None:
    world = World(tmp_path / "home", workers=1)
    roles = ["predict", "outcomes", "read", "operate"]
    _, key = create_key(world.settings.api_keys, "fuzzer", roles=roles, limit=None)
    with world.serving(ready=False) as serving:
        serving.running.until("/readyz")
        client = serving.running.client
        client.headers["authorization"] = f"Bearer {key}"
        page = client.get(f"{serving.running.url}/docs.json").json()
        declared = {
            (method.upper(), path): set(operation["responses"])
            for path, methods in page["paths"].items()
            for method, operation in methods.items()
        }
        before = serving.until_complete()
        spent = _processor_s()
        with ThreadPoolExecutor(2) as pool:
            page_url = f"{serving.running.url}/docs.json"
            halves = list(pool.map(lambda half: _fuzz(page_url, key, seed, half, tmp_path / half.strip("-")), HALVES))
        answers = [answer for _, report in halves for answer in _answers(report)]
        told = Counter(status for status, _, _ in answers)
        tell(f"{len(answers)} requests to {len(declared)} operations: {dict(sorted(told.items()))}")
        tell(f"to make and check them took {_processor_s() - spent:.0f} s of processor time")
        assert [said for said, _ in halves if said] == []
        assert len(answers) >= REQUESTS
        undeclared = {
            (status, label)
            for status, label, _ in answers
            if status >= 500 and str(status) not in declared[tuple(label.split(" ", 1))]
        }
        assert (undeclared, told[500]) == (set(), 0)
        assert [body for _, _, body in answers if b"Traceback" in body] == []
        assert [each["pid"] for each in serving.until_complete()] == [each["pid"] for each in before]
    assert "Traceback" not in world.logs(), world.logs()[-5000:]


def _fuzz(page_url: str, key: str, seed: int, half: str, folder: Path) -> tuple[str, Path]:
    """Runs schemathesis on a half of the operations. Returns what it said, if it was not content, and its report."""
    folder.mkdir()
    report = folder / "report.ndjson"
    # All checks are on; to name them here would undo what the file says of some. No stateful phase: nothing of this
    # API is made by one call and asked for by another, and two thirds of the time went there.
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
    command += ["run", page_url, half, OTHER_MODELS, "--seed", str(seed)]
    command += ["--max-examples", str(EXAMPLES), "--continue-on-failure"]
    # Without a database Hypothesis does not tend its Pareto front, which on large bodies comes to no end.
    command += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--no-color"]
    command += ["--header", f"Authorization:Bearer {key}", "--request-timeout", "20", "--no-shrink"]
    command += ["--suppress-health-check", "all", "--report", "ndjson", "--report-ndjson-path", str(report)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout[-8000:] + done.stderr[-2000:], report


def _processor_s() -> float:
    """What the processes took that this one waited for: of those that run now, schemathesis alone will be."""
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took.ru_utime + took.ru_stime


def _answers(report: Path) -> Iterator[tuple[int, str, bytes]]:
    """Status, operation and body of everything that was answered."""
    with report.open() as lines:
        for line in lines:
            found: dict[str, Any] = json.loads(line).get("ScenarioFinished", {}).get("recorder") or {}
            for interaction in (found.get("interactions") or {}).values():
                if response := interaction.get("response"):
                    content = (response.get("content") or {}).get("$base64", "")
                    yield response["status_code"], found["label"], base64.b64decode(content)
