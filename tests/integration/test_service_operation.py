"""The service as an operator has it: several workers, a kill, a restart with nothing else there, a dead worker."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pilotage.release import commands
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.log import read_segment, segments
from pilotage.settings import Settings
from pilotage.testing.bundles import ORDER, make_bundle
from pilotage.testing.service import RunningService, register_bundle, release_bundle, running_service
from tests.integration.test_service import SERVICE, STATEFUL, STATELESS, make_online


def prepared(home: Path, workers: int = 1) -> Settings:
    """A home with both champions and their state."""
    settings = Settings(home=home, service_workers=workers)
    for spec in (STATELESS, STATEFUL):
        folder = home / "registry" / spec.name
        release_bundle(settings, spec.name, folder, make_bundle(folder, spec=spec), version=1)
    make_online(settings)
    return settings


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, RunningService]]:
    """A service of two workers."""
    home = tmp_path_factory.mktemp("two")
    settings = prepared(home, workers=2)
    with running_service(settings, service=SERVICE, log=home / "service.log") as running:
        running.until_answer(lambda: running.get("/workers"), lambda answer: all_serve(answer, 2, version=1))
        yield settings, running


def all_serve(answer: httpx.Response, workers: int, **wanted: Any) -> bool:
    """Whether so many workers say these things of the first model."""
    said = [worker["models"][0] for worker in answer.json()["workers"]]
    return len(said) == workers and all(each.get(name) == value for each in said for name, value in wanted.items())


def ask_all(running: RunningService, number: int, first: int = 0) -> list[dict[str, Any]]:
    """Answers to requests over connections of their own, so that every worker gets some."""

    def ask(index: int) -> dict[str, Any]:
        url = f"{running.url}/tiny/predict"
        answer = httpx.post(url, json={**ORDER, "order_id": f"A-{first + index}"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, range(number)))


def test_after_a_kill_no_worker_answers_from_a_version_until_it_is_resumed(
    two: tuple[Settings, RunningService],
) -> None:
    settings, running = two
    commands.kill("tiny", settings=settings, actor="ada", why="wrong since noon")
    running.until_answer(
        lambda: running.get("/workers"), lambda answer: all_serve(answer, 2, killed="wrong since noon")
    )
    answers = ask_all(running, 40)
    assert {answer["answered_by"] for answer in answers} == {"rule"}
    assert {answer["version"] for answer in answers} == {None}
    commands.resume("tiny", settings=settings, actor="ada", why="mended")
    running.until_answer(lambda: running.get("/workers"), lambda answer: all_serve(answer, 2, killed=None, version=1))
    assert {answer["answered_by"] for answer in ask_all(running, 20)} == {"model"}


def test_a_canary_answers_the_same_entities_in_every_worker(two: tuple[Settings, RunningService]) -> None:
    settings, running = two
    folder = settings.home / "registry" / "tiny-2"
    register_bundle(settings, "tiny", folder, make_bundle(folder, spec=STATELESS, seed=2), version=2)
    commands.canary("tiny", 2, 0.5, settings=settings, actor="ada", why="try it", spec=STATELESS)
    wanted = {"version": 2, "share": 0.5}
    running.until_answer(lambda: running.get("/workers"), lambda answer: all_serve(answer, 2, canary=wanted))
    first, again = ask_all(running, 60), ask_all(running, 60)
    assert [answer["version"] for answer in first] == [answer["version"] for answer in again]
    assert {answer["stage"] for answer in first} == {"champion", "canary"}
    commands.rollback("tiny", settings=settings, actor="ada", why="enough")
    running.until_answer(lambda: running.get("/workers"), lambda answer: all_serve(answer, 2, canary=None))
    assert {answer["version"] for answer in ask_all(running, 20)} == {1}


def test_what_a_dead_worker_answered_is_in_the_log_and_its_segment_is_taken_over(
    two: tuple[Settings, RunningService],
) -> None:
    settings, running = two
    ids = {answer["prediction_id"] for answer in ask_all(running, 30, first=1000)}
    victim = running.get("/workers").json()["workers"][0]
    psutil.Process(victim["pid"]).kill()

    def is_taken_over(_: object) -> bool:
        theirs = [each for each in segments(settings.prediction_log) if each.worker == victim["worker"]]
        return bool(theirs) and all(each.sealed for each in theirs)

    # Over a connection of its own: an older one may end in the dead worker.
    running.until_answer(lambda: httpx.get(f"{running.url}/livez", timeout=30), is_taken_over)
    logged = [record for each in segments(settings.prediction_log) for record in read_segment(each.path)]
    assert ids <= {record.prediction_id for record in logged if isinstance(record, PredictionRecord)}


def test_a_restart_needs_no_ledger_no_registry_and_no_lake_and_remembers_a_kill(tmp_path: Path) -> None:
    settings = prepared(tmp_path)
    with running_service(settings, service=SERVICE, log=tmp_path / "before.log") as running:
        running.until("/readyz")
        before = running.predict("tiny_state", ORDER).json()
        commands.kill("tiny", settings=settings, actor="ada", why="wrong")
        running.until_answer(lambda: running.predict("tiny", ORDER), lambda answer: answer.json()["version"] is None)
        assert running.stop() == []
    for gone in ("registry", "lake"):
        shutil.rmtree(tmp_path / gone)
    (tmp_path / "ledger.db").unlink()
    (tmp_path / "ledger.db").mkdir()
    with running_service(settings, service=SERVICE, log=tmp_path / "after.log") as running:
        running.until("/readyz")
        after = running.predict("tiny_state", ORDER).json()
        assert (after["probability"], after["version"]) == (before["probability"], 1)
        assert running.predict("tiny", ORDER).json()["answered_by"] == "rule"
        for entry in running.get("/models").json()["models"]:
            assert entry["plans_from"] == "last known copy"
            assert entry["plans_as_of"]
            assert "can't be used" in entry["problem"]


def test_every_answer_under_swaps_is_in_the_log_as_it_was_given(tmp_path: Path) -> None:
    settings = prepared(tmp_path)
    with running_service(settings, service=SERVICE, log=tmp_path / "service.log") as running:
        running.until("/readyz")
        stop = threading.Event()

        def ask(client: int) -> list[dict[str, Any]]:
            answers, number = [], 0
            with httpx.Client(timeout=30) as http:
                while not stop.is_set():
                    number += 1
                    sent = {**ORDER, "order_id": f"{client}-{number}", "amount": float(number % 900)}
                    answer = http.post(f"{running.url}/tiny/predict", json=sent)
                    assert answer.status_code == 200, answer.text
                    answers.append(answer.json())
            return answers

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(ask, client) for client in range(4)]
            for version in (2, 3):
                folder = tmp_path / f"v{version}"
                sha256 = make_bundle(folder, spec=STATELESS, seed=version)
                release_bundle(settings, "tiny", folder, sha256, version=version)
                running.until_answer(
                    lambda: running.predict("tiny", ORDER), lambda answer, v=version: answer.json()["version"] == v
                )
            rolled = time.monotonic()
            commands.rollback("tiny", settings=settings, actor="ada", why="worse")
            running.until_answer(lambda: running.predict("tiny", ORDER), lambda answer: answer.json()["version"] == 2)
            print(f"rolled back and answered by the version before after {time.monotonic() - rolled:.2f} s")
            stop.set()
            answers = [answer for client in clients for answer in client.result()]
        assert running.stop() == []
    logged = {
        record.prediction_id: record
        for each in segments(settings.prediction_log)
        for record in read_segment(each.path)
        if isinstance(record, PredictionRecord)
    }
    assert {answer["version"] for answer in answers} == {1, 2, 3}
    for answer in answers:
        record = logged[answer["prediction_id"]]
        for name in ("version", "stage", "answered_by", "probability", "decision", "entity"):
            assert answer[name] == getattr(record, name)
    # The same features got the same probability from the same version, and no other.
    said: dict[tuple[int | None, float], set[float | None]] = {}
    for record in logged.values():
        said.setdefault((record.version, record.request["amount"]), set()).add(record.probability)
    assert all(len(probabilities) == 1 for probabilities in said.values())
