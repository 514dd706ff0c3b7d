"""A person's kill holds on this host first, and is in the ledger once, whoever reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import ConfigError, KillNotRecorded, LedgerConflict, LedgerUnavailable
from pilotage.release import champions, commands, killing
from pilotage.release.events import Draft, Event
from pilotage.release.feed import plan_of
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.kill_notes import KillNote, KillNotes
from pilotage.runtime.plan import Plan
from pilotage.runtime.plans_file import PlansFile
from pilotage.settings import Settings
from tests.unit.release.lives import registered

ADA: dict[str, Any] = {"actor": "ada", "why": "wrong since noon"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    ledger = SqlLedger.of(settings)
    ledger.append(registered("m", 1))
    ledger.close()
    PlansFile(settings.service_state).write({"m": Plan(model="m", sequence=1)})
    return settings


@contextmanager
def outage(settings: Settings) -> Iterator[None]:
    """The ledger's file is somewhere else, and something else in its place."""
    file = settings.home / "ledger.db"
    file.rename(file.with_name("away.db"))
    file.mkdir()
    yield
    file.rmdir()
    file.with_name("away.db").rename(file)


@contextmanager
def no_room(settings: Settings) -> Iterator[None]:
    """The last known plans can't be written."""
    (settings.service_state / "plans.lock").unlink()
    (settings.service_state / "plans.lock").mkdir()
    yield
    (settings.service_state / "plans.lock").rmdir()


def kills(settings: Settings) -> list[Event]:
    ledger = SqlLedger.of(settings)
    try:
        return [event for event in ledger.events() if event.kind == "killed"]
    finally:
        ledger.close()


def known(settings: Settings) -> dict[str, Plan]:
    there = PlansFile(settings.service_state).read()
    assert there is not None
    return there.plans


def noted(settings: Settings) -> list[str]:
    return [note.model for note in KillNotes(settings.service_state).read()]


def test_without_the_ledger_it_holds_here_says_so_and_is_recorded_later(settings: Settings) -> None:
    with outage(settings):
        with pytest.raises(KillNotRecorded, match="m is killed on this host, and perhaps on no other"):
            commands.kill("m", settings=settings, **ADA)
        assert noted(settings) == ["m"]
        with pytest.raises(LedgerUnavailable):
            killing.record(settings)
        with pytest.raises(LedgerUnavailable):
            commands.resume("m", settings=settings, actor="bob", why="mended")
        assert noted(settings) == ["m"]
    [note] = KillNotes(settings.service_state).read()
    killing.record(settings)
    killing.record(settings)
    [event] = kills(settings)
    assert (event.actor, event.cause) == ("ada", "wrong since noon")
    assert event.payload == {"note": note.id, "since": note.at.isoformat()}
    assert noted(settings) == []


def test_a_kill_leaves_no_note_and_a_second_one_no_event(settings: Settings) -> None:
    for _ in range(2):
        assert commands.kill("m", settings=settings, **ADA).killed is not None
    assert (len(kills(settings)), noted(settings)) == (1, [])


def test_whoever_records_it_there_is_one_event(settings: Settings) -> None:
    notes = KillNotes(settings.service_state)
    for _ in range(5):
        notes.write(KillNote.of("m", **ADA))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: killing.record(settings), range(4)))
        assert (len(kills(settings)), noted(settings)) == (1, [])
        notes.write(KillNote.of("m", actor="bob", why="wrong, too"))


def test_a_note_that_was_left_behind_does_not_kill_a_second_time(settings: Settings) -> None:
    with outage(settings), pytest.raises(KillNotRecorded):
        commands.kill("m", settings=settings, **ADA)
    [path] = (settings.service_state / "kills").iterdir()
    left = path.read_bytes()
    killing.record(settings)
    commands.resume("m", settings=settings, actor="bob", why="mended")
    path.write_bytes(left)
    killing.record(settings)
    assert (len(kills(settings)), noted(settings)) == (1, [])


def test_a_resume_ends_a_kill_that_waits_for_the_ledger(settings: Settings) -> None:
    with outage(settings), pytest.raises(KillNotRecorded):
        commands.kill("m", settings=settings, **ADA)
    assert commands.resume("m", settings=settings, actor="bob", why="mended").killed is None
    assert (len(kills(settings)), noted(settings)) == (1, [])


def test_a_service_that_starts_before_any_worker_read_of_a_kill_knows_of_it(settings: Settings) -> None:
    read_before = Plan(model="m", sequence=1), Plan(model="other", sequence=1)
    file = PlansFile(settings.service_state)
    file.write({plan.model: plan for plan in read_before})
    at = datetime.now(UTC)
    commands.kill("m", settings=settings, **ADA)
    with outage(settings), pytest.raises(KillNotRecorded):
        commands.kill("other", settings=settings, **ADA)
    # A worker that was slow to write what it had read.
    file.write({plan.model: plan for plan in read_before}, at=at)
    assert [(model, plan.killed) for model, plan in known(settings).items()] == [("m", ADA["why"]), ("other", None)]
    assert noted(settings) == ["other"], "by its note"
    killing.record(settings)
    assert [plan.killed for plan in known(settings).values()] == [ADA["why"]] * 2
    commands.resume("m", settings=settings, actor="bob", why="mended")
    file.write({"m": replace(read_before[0], sequence=5), "other": known(settings)["other"]})
    assert [plan.killed for plan in known(settings).values()] == [None, ADA["why"]]


def test_a_kill_that_can_not_be_remembered_for_a_restart_holds_by_its_note_until_it_can(settings: Settings) -> None:
    with no_room(settings):
        assert commands.kill("m", settings=settings, **ADA).killed is not None
        killing.record(settings)
        assert (noted(settings), known(settings)["m"].killed) == (["m"], None)
    killing.record(settings)
    assert (noted(settings), known(settings)["m"].killed) == ([], ADA["why"])
    assert len(kills(settings)) == 1


def test_a_kill_that_was_never_remembered_can_be_resumed(settings: Settings) -> None:
    with no_room(settings):
        commands.kill("m", settings=settings, **ADA)
        assert commands.resume("m", settings=settings, actor="bob", why="mended").killed is None
        killing.record(settings)
    assert (len(kills(settings)), noted(settings)) == (1, [])


@pytest.mark.parametrize("recorded_by", ["the killer", "a worker"])
def test_a_kill_that_another_one_recorded_and_that_is_over_by_now_is_not_recorded_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, recorded_by: str
) -> None:
    append = SqlLedger.append

    def slow(self: SqlLedger, draft: Draft, **more: Any) -> Event:
        """Between this one's look and its event, another one records the kill, and bob resumes the model."""
        monkeypatch.setattr(SqlLedger, "append", append)
        killing.record(settings)
        commands.resume("m", settings=settings, actor="bob", why="mended")
        return append(self, draft, **more)

    if recorded_by == "a worker":
        KillNotes(settings.service_state).write(KillNote.of("m", **ADA))
    monkeypatch.setattr(SqlLedger, "append", slow)
    if recorded_by == "a worker":
        killing.record(settings)
    else:
        assert commands.kill("m", settings=settings, **ADA).killed is None
    assert (len(kills(settings)), noted(settings)) == (1, [])
    assert champions.states(settings=settings)["m"].killed is None


def test_a_kill_holds_by_its_note_while_plans_of_a_ledger_that_was_put_back_are_remembered(settings: Settings) -> None:
    # A backup is put back while no service runs: what it remembers is of later events than the ledger has.
    file = PlansFile(settings.service_state)
    ago = datetime.now(UTC) - timedelta(days=1)
    file.write({"m": Plan(model="m", sequence=500), "other": Plan(model="other", sequence=2)}, at=ago)
    assert commands.kill("m", settings=settings, **ADA).killed is not None
    assert commands.kill("other", settings=settings, **ADA).killed is not None
    assert (noted(settings), known(settings)["m"].killed) == (["m"], None)
    killing.record(settings)
    assert noted(settings) == ["m"]
    # A worker follows the ledger for some seconds.
    plans = {model: plan_of(state) for model, state in champions.states(settings=settings).items()}
    file.write(plans, at=datetime.now(UTC) + timedelta(seconds=20))
    killing.record(settings)
    assert (len(kills(settings)), noted(settings)) == (2, [])
    assert [plan.killed for plan in known(settings).values()] == [ADA["why"]] * 2


def test_a_kill_that_is_refused_holds_nowhere(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="why is missing"):
        commands.kill("m", settings=settings, actor="ada", why=" ")
    with pytest.raises(LedgerConflict):
        commands.kill("m", settings=settings, seen=99, **ADA)
    assert (kills(settings), noted(settings)) == ([], [])


def test_where_it_can_not_be_noted_the_ledger_is_enough(settings: Settings) -> None:
    (settings.service_state / "kills").write_bytes(b"")
    assert commands.kill("m", settings=settings, **ADA).killed is not None
    with outage(settings), pytest.raises(LedgerUnavailable) as caught:
        commands.kill("other", settings=settings, **ADA)
    assert not isinstance(caught.value, KillNotRecorded)


def test_where_no_service_runs_none_is_noted(settings: Settings) -> None:
    (settings.service_state / "plans.json").unlink()
    with outage(settings), pytest.raises(LedgerUnavailable) as caught:
        commands.kill("m", settings=settings, **ADA)
    assert (isinstance(caught.value, KillNotRecorded), noted(settings)) == (False, [])


def test_a_kill_holds_here_though_this_writer_may_not_write(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef0123456789abcdef")
    keyed = settings.model_copy(update={"ledger_key_file": tmp_path / "key"})
    ledger = SqlLedger.of(keyed)
    ledger.append(registered("m", 2))
    ledger.close()
    with pytest.raises(KillNotRecorded, match="m is killed on this host"):
        commands.kill("m", settings=settings, **ADA)
    assert (kills(settings), noted(settings)) == ([], ["m"])
    assert commands.resume("m", settings=keyed, actor="bob", why="mended").killed is None
    assert (len(kills(settings)), noted(settings)) == (1, [])


def test_what_the_ledger_refuses_is_told_and_keeps_no_other_kill_waiting(settings: Settings, tmp_path: Path) -> None:
    """A writer without the key of a keyed ledger, say."""
    (tmp_path / "key").write_bytes(b"0123456789abcdef0123456789abcdef")
    keyed = settings.model_copy(update={"ledger_key_file": tmp_path / "key"})
    ledger = SqlLedger.of(keyed)
    ledger.append(registered("m", 2))
    ledger.close()
    for model in ("m", "other"):
        KillNotes(settings.service_state).write(KillNote.of(model, **ADA))
    told: list[str] = []
    killing.record(settings, report=told.append)
    assert ["The kill of m" in told[0], "The kill of other" in told[1]] == [True, True]
    assert sorted(noted(settings)) == ["m", "other"]
    killing.record(keyed)
    assert (len(kills(settings)), noted(settings)) == (2, [])
