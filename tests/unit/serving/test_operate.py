"""Operators over HTTP, the disk that is full, shadows, and the end of a worker."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pilotage.release import commands
from pilotage.release.feed import PlanFeed
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.answer import Record, ShadowRecord
from pilotage.runtime.baked import Baked, bake
from pilotage.runtime.log import read_segment, segments
from pilotage.runtime.log.files import RealFiles
from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.serving.hosted import Hosted, hosted


def events(service: Hosted) -> list[tuple[str, int | None, str, str]]:
    ledger = SqlLedger.of(service.settings)
    try:
        return [(event.kind, event.version, event.actor, event.cause) for event in ledger.events()]
    finally:
        ledger.close()


def test_a_kill_and_a_resume_are_events_of_the_ledger_and_hold_at_once(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), tiny_spec("other")) as service:
        _, key = create_key(service.settings.api_keys, "ada", roles=["operate", "predict"], limit=None)
        service.core.ring.refresh()
        headers = {"authorization": f"Bearer {key}"}
        for body in ({}, {"why": ""}, {"why": " "}, {"why": 7}, {"why": "x", "more": 1}, [], "x"):
            assert service.post("/admin/tiny/kill", json=body, headers=headers).status_code == 422
        mistyped = service.post("/admin/tiny/rollback", json={"why": "x", "versoin": 2}, headers=headers).json()
        assert (mistyped["field"], mistyped["fix"]) == ("versoin", "Use only: why, to, version.")
        for why in ("w" * 1001, "two\nlines", "\x1b[31mred", "\u202ebackwards", "\x00"):
            refused = service.post("/admin/tiny/kill", json={"why": why}, headers=headers)
            assert (refused.status_code, refused.json()["field"]) == (422, "why"), why
        before = service.predict(headers=headers).json()
        killed = service.post("/admin/tiny/kill", json={"why": "wrong since noon"}, headers=headers)
        assert (killed.status_code, killed.json()["killed"]) == (200, "wrong since noon")
        answer = service.predict(headers=headers).json()
        assert (answer["answered_by"], answer["version"]) == ("rule", None)
        assert "wrong since noon" in answer["reasons"][0]
        assert service.predict("other", headers=headers).json()["answered_by"] == "model"
        kind, _, actor, cause = events(service)[-1]
        assert (kind, cause) == ("killed", "wrong since noon")
        assert actor.startswith("ada (key ")
        again = service.post("/admin/tiny/kill", json={"why": "again"}, headers=headers)
        assert again.status_code == 200, "it is what was wanted"
        assert len([event for event in events(service) if event[0] == "killed"]) == 1
        resumed = service.post("/admin/tiny/resume", json={"why": "mended"}, headers=headers)
        assert (resumed.status_code, resumed.json()["killed"]) == (200, None)
        assert service.predict(headers=headers).json()["probability"] == before["probability"]
        twice = service.post("/admin/tiny/resume", json={"why": "mended"}, headers=headers)
        assert (twice.status_code, twice.json()["error"]) == (409, "NotReleasable")


def test_a_rollback_is_answered_by_the_version_before(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        first = service.predict().json()
        nothing = service.post("/admin/tiny/rollback", json={"why": "x"})
        assert (nothing.status_code, nothing.json()["error"]) == (409, "NotReleasable")
        service.release("tiny", service.specs["tiny"], 2)
        service.core.follower.look()
        assert service.predict().json()["version"] == 2
        back = service.post("/admin/tiny/rollback", json={"why": "worse"})
        assert (back.status_code, back.json()["champion"]) == (200, 1), back.text
        answer = service.predict().json()
        assert (answer["version"], answer["probability"]) == (1, first["probability"])


def test_a_rollback_that_names_its_version_is_safe_to_repeat(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        for number in (2, 3):
            service.release("tiny", service.specs["tiny"], number)
        body = {"why": "worse", "version": 3}
        assert service.post("/admin/tiny/rollback", json=body).json()["champion"] == 2
        again = service.post("/admin/tiny/rollback", json=body)
        assert (again.status_code, again.json()["error"]) == (409, "NotReleasable")
        assert service.post("/admin/tiny/rollback", json={"why": "x", "version": True}).json()["field"] == "version"


def test_a_rollback_to_a_version_that_todays_file_wants_approved_is_refused(tmp_path: Path) -> None:
    strict = tiny_spec("tiny", risk="high")
    with hosted(tmp_path, strict) as service:
        service.release("tiny", strict, 2, promote=False)
        service.release("tiny", strict, 3)
        refused = service.post("/admin/tiny/rollback", json={"why": "worse", "to": 2})
        assert (refused.status_code, refused.json()["error"]) == (409, "NotApproved"), refused.text


def test_without_the_ledger_a_kill_holds_at_once_says_where_and_is_on_record_later(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny"), tiny_spec("other")) as service:
        ledger, gone = tmp_path / "ledger.db", tmp_path / "gone.db"
        ledger.rename(gone)
        ledger.mkdir()
        refused = service.post("/admin/tiny/rollback", json={"why": "x"})
        assert (refused.status_code, refused.json()["error"]) == (503, "LedgerUnavailable")
        assert service.predict().json()["answered_by"] == "model"
        for _ in range(2):
            killed = service.post("/admin/tiny/kill", json={"why": "wrong since noon"})
            assert (killed.status_code, killed.json()["error"]) == (503, "KillNotRecorded")
            assert "killed on this host" in killed.json()["message"]
            assert service.predict().json()["answered_by"] == "rule"
        assert service.predict("other").json()["answered_by"] == "model"
        resumed = service.post("/admin/tiny/resume", json={"why": "x"})
        assert (resumed.status_code, resumed.json()["error"]) == (503, "LedgerUnavailable")
        ledger.rmdir()
        gone.rename(ledger)
        service.core.follower.follow()
        assert service.predict().json()["answered_by"] == "rule"
        assert [(kind, cause) for kind, _, _, cause in events(service)].count(("killed", "wrong since noon")) == 1
        assert service.post("/admin/tiny/resume", json={"why": "mended"}).status_code == 200
        assert service.predict().json()["answered_by"] == "model"


def test_a_bento_says_at_its_start_that_nobody_needs_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with hosted(tmp_path / "platform", tiny_spec("tiny")) as service:
        bake(tmp_path / "baked", PlanFeed(service.core.ledger)().values())
    # ``python -m serving`` says it itself, once for all workers.
    assert "No API key" not in caplog.text
    alone = {"release": False, "baked": Baked(tmp_path / "baked")}
    with hosted(tmp_path / "alone", tiny_spec("tiny"), **alone) as service:
        assert "No API key was made" in caplog.text
        create_key(service.settings.api_keys, "ada", roles=["predict"], limit=None)
    caplog.clear()
    with hosted(tmp_path / "alone", tiny_spec("tiny"), **alone):
        assert "No API key" not in caplog.text


def test_without_a_ledger_a_kill_is_kept_on_the_disk_and_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with hosted(tmp_path / "platform", tiny_spec("tiny")) as service:
        plans = PlanFeed(service.core.ledger)()
    bake(tmp_path / "baked", plans.values())
    alone = {"release": False, "baked": Baked(tmp_path / "baked")}
    with hosted(tmp_path / "alone", tiny_spec("tiny"), **alone) as service:
        for action in ("resume", "rollback"):
            refused = service.post(f"/admin/tiny/{action}", json={"why": "x"})
            assert (refused.status_code, refused.json()["error"]) == (409, "NotReleasable")
        killed = service.post("/admin/tiny/kill", json={"why": "wrong since noon"})
        assert (killed.status_code, killed.json()["killed"]) == (200, "wrong since noon")
        assert service.predict().json()["answered_by"] == "rule"
    with hosted(tmp_path / "alone", tiny_spec("tiny"), **alone) as service:
        assert service.predict().json()["answered_by"] == "rule"
        resumed = service.post("/admin/tiny/resume", json={"why": "mended"})
        assert (resumed.status_code, resumed.json()["killed"], resumed.json()["champion"]) == (200, None, 1)
        assert service.predict().json()["answered_by"] == "model"
        assert service.get("/models").json()["models"][0]["plans_from"] == "bento"
        assert not (tmp_path / "alone" / "ledger.db").exists()


class FullDisk(RealFiles):
    """A disk that can be full."""

    full = False

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(file, data, at)


def test_a_full_disk_refuses_or_answers_as_the_spec_says_and_never_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk()
    strict = tiny_spec("strict", risk="high")
    with hosted(tmp_path, tiny_spec("tiny"), strict, filesystem=disk) as service:
        assert service.predict("strict").status_code == 200
        disk.full = True
        refused = service.predict("strict")
        assert (refused.status_code, refused.json()["error"]) == (503, "LogUnavailable")
        answered = service.predict("tiny")
        assert (answered.status_code, answered.json()["logged"]) == (200, False)
        batch = service.post("/tiny/predict/batch", json={"requests": [ORDER, ORDER]}).json()["answers"]
        assert [each["answer"]["logged"] for each in batch] == [False, False]
        assert service.post("/strict/predict/batch", json={"requests": [ORDER]}).status_code == 503
        assert service.post("/tiny/outcomes", json={"prediction_id": "p", "label": True}).status_code == 503
        assert "tiny answers without a record" in caplog.text
        page = service.get("/metrics").text
        assert 'pilotage_unlogged_answers_total{model="tiny"} 3' in page
        assert "pilotage_log_failing 1" in page.splitlines()
        named = service.predict("strict", headers={"x-request-id": "again"})
        assert named.status_code == 503
        disk.full = False
        assert service.predict("strict", headers={"x-request-id": "again"}).status_code == 200
        assert len(service.predictions("again")) == 1


def test_shadows_are_logged_and_never_answered(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        service.release("tiny", service.specs["tiny"], 2, promote=False)
        commands.shadow("tiny", 2, settings=service.settings, actor="ada", why="x")
        service.core.follower.look()
        answers = [service.predict(order_id=f"A-{number}").json() for number in range(20)]
        assert {answer["version"] for answer in answers} == {1}

        def shadows() -> dict[str, ShadowRecord]:
            found = [record for record in records(service) if isinstance(record, ShadowRecord)]
            return {record.prediction_id: record for record in found}

        service.until(lambda: len(shadows()) == 20)
        loaded = service.core.follower.boards["tiny"].shadows[0]
        expected = loaded.predictor.score_one(ORDER, None).probability
        for answer in answers:
            shadow = shadows()[answer["prediction_id"]]
            assert (shadow.version, shadow.error) == (2, None)
            assert shadow.probability == expected
            assert shadow.probability != answer["probability"]
        wanted = 'pilotage_shadow_predictions_total{model="tiny",version="2",result="answered"} 20'
        assert wanted in service.get("/metrics").text


def records(service: Hosted) -> list[Record]:
    return [record for each in segments(service.settings.prediction_log) for record in read_segment(each.path)]


def test_what_was_answered_is_sealed_when_a_worker_stops(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        ids = {service.predict(order_id=f"A-{number}").json()["prediction_id"] for number in range(20)}
        settings = service.settings
    left: list[Any] = segments(settings.prediction_log)
    assert [each.sealed for each in left] == [True]
    assert {record.prediction_id for record in read_segment(left[0].path)} == ids  # type: ignore[union-attr]
    assert list(settings.heartbeats.iterdir()) == []
