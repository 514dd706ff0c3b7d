"""Follows docs/how-to/use-a-model-in-a-notebook.md and promote.md to the letter, and what they call."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from pilotage.data.lake import Lake
from pilotage.errors import NotReleasable, StateUnavailable
from pilotage.features.online import build_online
from pilotage.release.notebook import champion_rows
from pilotage.release.promote import promote
from pilotage.release.records import Registered
from pilotage.release.registry import record
from pilotage.runtime.contract import Contract
from pilotage.settings import PROJECT, Settings
from pilotage.testing.bundles import make_run, tiny_rows, tiny_spec

SPEC = tiny_spec("tiny", with_state=True)
PAGE = (PROJECT / "docs" / "how-to" / "use-a-model-in-a-notebook.md").read_text()
SERVICE_PAGE = (PROJECT / "docs" / "how-to" / "call-the-service.md").read_text()
ORDER = {field.name: field.example for field in SPEC.request} | {"ordered_at": "2024-01-03T10:00:00Z"}
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning", "ignore::FutureWarning")


def publish_state(settings: Settings) -> None:
    stock = pl.DataFrame(
        {"shop": ["north"], "level": [9], "known_at": [datetime(2024, 1, 3, 8, tzinfo=UTC)], "day": [date(2024, 1, 3)]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )
    lake = Lake(settings.lake)
    lake.replace_days("validated/stock", stock, [date(2024, 1, 3)], note={})
    build_online(SPEC, lake=lake, path=settings.online / "tiny.db", run_id="test")


@pytest.mark.slow
def test_the_pages_of_promote_and_notebook_work_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the model's name, its request and its entity are others than on the page."""
    import mlflow

    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    settings = Settings.load()
    with pytest.raises(NotReleasable, match="no champion"):
        champion_rows("tiny", [ORDER])
    for seed in (1, 2, 3):
        run = make_run(tmp_path / f"run{seed}", spec=SPEC, seed=seed)
        assert isinstance(record(SPEC, settings=settings, **run.arguments()), Registered)
    with pytest.raises(NotReleasable, match="version 7"):
        promote("tiny", 7, settings=settings, actor="ada", why="typo")
    promoting = (PROJECT / "docs" / "how-to" / "promote.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", promoting, re.DOTALL):
        exec(compile(code.replace("flight_delay", "tiny"), "promote.md", "exec"), {})

    with pytest.raises(StateUnavailable):
        champion_rows("tiny", [ORDER])
    publish_state(settings)
    Lake(settings.lake).replace("features/tiny", tiny_rows(SPEC, 30).with_columns(flight_id="order_id"), note={})
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    code = re.sub(r"request = \{.*?\n\}", f"request = {ORDER!r}", code, flags=re.DOTALL)
    names: dict[str, Any] = {}
    before = mlflow.get_tracking_uri()
    try:
        exec(compile(code.replace("flight_delay", "tiny"), "notebook.md", "exec"), names)
    finally:
        mlflow.set_tracking_uri(before)
    assert len(names["answers"]) == 30
    assert "probability" in capsys.readouterr().out
    rows = champion_rows("tiny", [ORDER])
    assert rows["stock_level"].tolist() == [9]


def test_the_request_on_the_service_page_is_one_that_the_model_takes() -> None:
    import json

    body, *_ = re.findall(r"-d '(\{.*?\})'", SERVICE_PAGE, re.DOTALL)
    assert Contract(MODEL.request).frame([json.loads(body)]).height == 1
    in_notebook: dict[str, Any] = {}
    exec(re.search(r"request = \{.*?\n\}", PAGE, re.DOTALL).group(), in_notebook)  # type: ignore[union-attr]
    assert in_notebook["request"] == json.loads(body)


@pytest.mark.slow
def test_an_mlflow_server_that_keeps_its_artifacts_to_itself_serves_just_as_well(tmp_path: Path) -> None:
    """As in the containers: artifacts come through the server, and the bundle's copy lies on this disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path / 'm.db'}"]
    command += ["--serve-artifacts", "--artifacts-destination", str(tmp_path / "hidden"), "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        settings = Settings(home=tmp_path / "home", mlflow_uri=f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 200
        while True:
            try:
                if httpx.get(f"{settings.mlflow}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        run = make_run(tmp_path / "run", spec=SPEC)
        result = record(SPEC, settings=settings, **run.arguments())
        assert isinstance(result, Registered)
        assert Path(result.bundle) == settings.bundles / "tiny" / "1"
        release = promote("tiny", 1, settings=settings, actor="ada", why="first")
        assert release.bundle_sha256 == run.candidate.bundle_sha256
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
