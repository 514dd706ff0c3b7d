"""Kills that were noted on this host hold whatever the plans say, and until the plans say what is to be."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest

from pilotage.runtime.kill_notes import KillNote, KillNotes
from pilotage.runtime.plan import Plan
from tests.unit.runtime.world import World, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two models, released."""
    world = world_of(tmp_path, "one", "two")
    world.release("one", 1)
    world.release("two", 1)
    return world


@pytest.fixture
def notes(tmp_path: Path) -> KillNotes:
    return KillNotes(tmp_path / "service")


def noted(notes: KillNotes, model: str, why: str = "wrong") -> KillNote:
    note = KillNote.of(model, actor="ada", why=why)
    notes.write(note)
    return note


def killed(world: World, model: str = "one") -> str | None:
    return world.follower.boards[model].killed


def test_it_holds_without_the_ledger_for_its_model_alone_and_after_a_restart(world: World, notes: KillNotes) -> None:
    world.down = True
    noted(notes, "one", "wrong since noon")
    world.follower.look()
    assert world.answer("one").answer.answered_by == "rule"
    assert "wrong since noon" in str(world.answer("one").answer.reasons)
    assert "killed on this host by ada" in str(world.status("one")["problem"])
    assert world.answer("two").answer.answered_by == "model"
    world.follower = world.another_follower()
    world.follower.start()
    assert killed(world) == "wrong since noon", "before it answers its first request"
    world.follower.stop()


class Sayings(list[str]):
    """What was said; rings when it is this."""

    def __init__(self, heard: threading.Event, sentence: str) -> None:
        super().__init__()
        self._heard, self._sentence = heard, sentence

    def append(self, said: str) -> None:
        super().append(said)
        if said == self._sentence:
            self._heard.set()


def test_it_waits_for_no_ledger_that_hangs(world: World, notes: KillNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes = threading.Event(), threading.Event()

    def read() -> dict[str, Plan]:
        hangs.set()
        assert goes.wait(60)
        return dict(world.plans)

    monkeypatch.setattr(world, "read", read)
    heard = threading.Event()
    monkeypatch.setattr(world, "said", Sayings(heard, "one was killed: wrong"))
    world.follower = world.another_follower()
    world.follower.start()
    try:
        assert hangs.wait(60)
        noted(notes, "one")
        assert heard.wait(60), "its own thread heeds it"
        assert killed(world) == "wrong"
    finally:
        goes.set()
        world.follower.stop()


def test_a_note_that_is_gone_holds_until_the_ledger_was_read_after_it_went(world: World, notes: KillNotes) -> None:
    note = noted(notes, "one")
    world.follower.look()
    notes.remove(note)
    world.down = True
    world.follower.look()
    assert killed(world) == "wrong"
    world.down = False
    world.decide("one", killed="wrong, on record")
    assert killed(world) == "wrong, on record"
    world.decide("one", killed=None)
    assert killed(world) is None
    assert world.answer("one").answer.answered_by == "model"


def test_a_note_that_goes_while_the_ledger_is_read_holds_until_it_is_read_again(
    world: World, notes: KillNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = noted(notes, "one")
    before = dict(world.plans)

    def read() -> dict[str, Plan]:
        # Recorded just after what this one sees.
        notes.remove(note)
        return before

    monkeypatch.setattr(world, "read", read)
    world.follower = world.another_follower()
    world.follower.heed()
    world.follower.follow()
    assert killed(world) == "wrong"
    world.follower.follow()
    assert killed(world) is None


def test_what_is_loaded_meanwhile_answers_as_soon_as_it_may(world: World, notes: KillNotes) -> None:
    note = noted(notes, "one")
    world.release("one", 2)
    assert (world.champion("one"), killed(world)) == (None, "wrong")
    loads = world.follower.loads
    notes.remove(note)
    world.follower.look()
    assert (world.champion("one"), world.follower.loads) == (2, loads)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": "one"}', b"\xff"])
def test_a_damaged_note_kills_the_model_that_its_name_says(world: World, notes: KillNotes, content: bytes) -> None:
    noted(notes, "two")
    [path] = (world.home / "service" / "kills").iterdir()
    path.with_name("0123.one.json").write_bytes(content)
    world.follower.look()
    assert f"is damaged: {path.parent}" in str(killed(world, "one"))
    assert killed(world, "two") == "wrong"


def test_on_a_full_disk_the_name_alone_kills(world: World, notes: KillNotes) -> None:
    assert notes.write(KillNote.of("two", actor="ada", why="wrong"))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files can be made, and take nothing.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        whole = notes.write(KillNote.of("one", actor="ada", why="wrong"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not whole
    world.follower.look()
    assert "is damaged" in str(killed(world, "one"))
    assert world.answer("one").answer.answered_by == "rule"
    assert killed(world, "two") == "wrong"


def test_notes_that_can_not_be_read_are_told_and_those_that_were_hold(world: World, notes: KillNotes) -> None:
    noted(notes, "one")
    world.follower.look()
    folder = world.home / "service" / "kills"
    folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")
    world.follower.look()
    assert killed(world) == "wrong"
    assert "can't be read" in str(world.status("two")["problem"])
    assert world.answer("two").answer.answered_by == "model"
    folder.unlink()
    folder.with_name("away").rename(folder)
    world.follower.look()
    assert world.status("two")["problem"] is None


def test_only_what_was_written_whole_counts(world: World, notes: KillNotes) -> None:
    noted(notes, "one")
    [path] = (world.home / "service" / "kills").iterdir()
    (path.parent / "0123.new").write_bytes(path.read_bytes()[:20])
    assert [note.model for note in notes.read()] == ["one"]
