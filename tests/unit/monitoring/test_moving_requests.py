"""The mover takes no segment away that a repeated request may still have to be answered from."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pilotage.errors import LogUnavailable
from pilotage.features.state import microseconds
from pilotage.runtime import idempotency
from pilotage.runtime.idempotency import Fresh, Idempotency, Logged
from pilotage.runtime.requests_table import LIFETIME_S
from pilotage.runtime.requests_wal import WriteAheadLog
from tests.unit.monitoring.logs import prediction, write_segment
from tests.unit.monitoring.test_moving import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def worker(desk: Desk) -> Idempotency:
    return Idempotency.of(desk.settings, report=lambda _: None)


def dies_with_a_request(desk: Desk, dying: Idempotency, *, sealed: bool = False) -> Path:
    """Logs the prediction of a request under way, and no more."""
    path = write_segment(desk.folder, [prediction(1, at=microseconds(datetime.now(UTC)))], sealed=sealed)
    dying.close()  # Its lock goes as with its process.
    return path


def ask(asked: Idempotency) -> object:
    return asked.begin("key-1", "r00001", b"body", model="tiny")


def remembers(desk: Desk) -> bool:
    """Whether whoever repeats the request is answered from what was logged."""
    successor = worker(desk)
    claim = ask(successor)
    successor.close()
    return isinstance(claim, Logged) and [record.prediction_id for record in claim.records] == ["p00001"]


def busy(*_: object, **__: object) -> None:
    raise LogUnavailable("The table is locked.", fix="Ask again later.", reason="locked", busy=True)


def test_what_a_dead_worker_answered_under_a_clients_own_id_is_remembered_when_its_segment_is_gone(
    desk: Desk,
) -> None:
    dying = worker(desk)
    assert isinstance(ask(dying), Fresh)
    dies_with_a_request(desk, dying)
    desk.move()
    assert desk.left() == []
    assert remembers(desk)


def test_what_a_worker_answered_that_dies_while_others_segments_are_moved_is_remembered(desk: Desk) -> None:
    desk.folder.mkdir(parents=True)
    dying = worker(desk)
    assert isinstance(ask(dying), Fresh)

    def dies(step: str) -> None:
        if step == "adopted":
            dies_with_a_request(desk, dying, sealed=True)  # Another worker took its segment over.

    desk.move(step=dies)
    assert desk.left() == []
    assert desk.counts() == {"predictions/tiny": 1}
    assert remembers(desk)


def test_segments_stay_until_what_they_tell_of_the_dead_could_be_noted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = worker(desk)
    assert isinstance(ask(dying), Fresh)
    path = dies_with_a_request(desk, dying, sealed=True)
    write_segment(desk.folder, [prediction(2)], number=2)

    with monkeypatch.context() as patched:
        patched.setattr(Idempotency, "maintain", busy)
        for _ in range(2):
            report = desk.move(batch_bytes=1)
            assert report.waiting == 2
        assert desk.counts() == {"predictions/tiny": 1}, "in the lake, once"
        assert path.name in desk.left()
    desk.move(batch_bytes=1)
    assert desk.left() == []
    assert desk.counts() == {"predictions/tiny": 2}
    assert remembers(desk)


def test_a_table_of_requests_that_stays_unusable_holds_the_log_up_for_no_longer_than_an_id_is_remembered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = worker(desk)
    ask(dying)
    dying.close()
    monkeypatch.setattr(Idempotency, "maintain", busy)
    path = write_segment(desk.folder, [prediction(1)])
    desk.move()
    assert desk.left() == [path.name]
    ago = time.time() - LIFETIME_S - 1
    os.utime(path, (ago, ago))
    desk.move()
    assert desk.left() == []
    assert desk.counts() == {"predictions/tiny": 1}


def test_a_segment_stays_while_a_living_worker_has_still_to_store_what_it_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_SETTLING_S", 0.0)
    answering = worker(desk)
    claim = ask(answering)
    assert isinstance(claim, Fresh)
    path = write_segment(desk.folder, [prediction(1, at=microseconds(datetime.now(UTC)))])
    with monkeypatch.context() as patched:
        # Out of file descriptors, say: this worker can't use the table, and keeps the answer.
        patched.setattr(answering._requests, "use", busy)
        answering.finish(claim, b"answer", 200)
    desk.move()
    assert desk.counts() == {"predictions/tiny": 1}
    assert desk.left() == [path.name]
    answering._unsaved.clear()
    answering.close()  # It is killed before it could.
    desk.move()
    assert desk.left() == []
    assert desk.counts() == {"predictions/tiny": 1}, "in the lake, once"
    assert remembers(desk)


def test_what_begins_after_a_segment_was_sealed_holds_it_up_no_longer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_SETTLING_S", 0.0)
    path = write_segment(desk.folder, [prediction(1)])
    ago = time.time() - 1
    os.utime(path, (ago, ago))
    answering = worker(desk)
    assert isinstance(ask(answering), Fresh)
    desk.move()
    assert desk.left() == []
    answering.close()


def test_a_segment_stays_until_what_was_noted_is_on_the_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = worker(desk)
    ask(dying)
    path = dies_with_a_request(desk, dying, sealed=True)
    emptied: list[bool] = []
    empty = WriteAheadLog.empty

    def another_is_at_it(self: WriteAheadLog, now: float) -> bool:
        emptied.append(len(emptied) > 1 and empty(self, now))
        return emptied[-1]

    def looks(step: str) -> None:
        if step == "settled":
            assert emptied == [False, False, True]
            assert path.exists()

    monkeypatch.setattr(WriteAheadLog, "empty", another_is_at_it)
    monkeypatch.setattr(idempotency, "_SETTLING_S", 60.0)
    desk.move(step=looks)
    assert desk.left() == []
    assert remembers(desk)
