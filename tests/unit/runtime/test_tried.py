"""A bundle has one trial on a host: the same bytes and the same code need no other one, and anything else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import BundleCorrupt
from pilotage.runtime import probe, tried
from pilotage.runtime.tried import Tried
from pilotage.testing.bundles import make_bundle, tiny_spec


class World:
    """A bundle, what was noted, and the trials that there were."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bundle = folder / "tiny"
        self.digest = make_bundle(self.bundle, spec=tiny_spec())
        self.tried = Tried(folder / "tried")
        self.trials: list[str] = []
        self.code: int | None = 0
        monkeypatch.setattr(probe, "_try", self._try)
        monkeypatch.setattr(tried, "_seen", set())

    def admit(self) -> None:
        """As the next process of this host would."""
        tried._seen.clear()
        probe.admit(self.bundle, sha256=self.digest, tried=self.tried)

    def _try(self, directory: Path, digest: str) -> tuple[int | None, list[str]]:
        self.trials.append(digest)
        return self.code, []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_the_same_bytes_are_tried_once_for_all_processes_of_a_host(world: World) -> None:
    for _ in range(3):
        world.admit()
    assert probe.require_fit(world.bundle, tried=world.tried) == world.digest
    assert world.trials == [world.digest]


def test_other_bytes_have_a_trial_of_their_own(world: World) -> None:
    world.admit()
    other = make_bundle(world.folder / "other", spec=tiny_spec(), seed=1)
    probe.admit(world.folder / "other", sha256=other, tried=world.tried)
    assert world.trials == [world.digest, other]


def test_other_code_tries_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.admit()
    monkeypatch.setattr(tried, "_code", lambda: "another release")
    world.admit()
    world.admit()
    assert len(world.trials) == 2


def test_the_engine_s_own_files_and_what_parses_are_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    file = tmp_path / "runtime" / "row.py"
    file.write_text("a = 1")
    monkeypatch.setattr(tried, "_ENGINE", tmp_path)
    codes = [tried._code()]
    file.write_text("a = 12")
    codes.append(tried._code())
    monkeypatch.setattr(tried.metadata, "version", lambda name: f"99 of {name}")
    codes.append(tried._code())
    assert len(set(codes)) == 3
    assert codes[-1] == tried._code()


@pytest.mark.parametrize("code", [1, -6, None])
def test_what_did_not_come_through_is_tried_each_time(world: World, code: int | None) -> None:
    world.code = code
    for _ in range(2):
        with pytest.raises(BundleCorrupt):
            world.admit()
    assert len(world.trials) == 2


def test_a_file_that_was_damaged_since_its_trial_is_refused(world: World) -> None:
    world.admit()
    with (world.bundle / "model.txt").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BundleCorrupt, match=r"model\.txt"):
        world.admit()


@pytest.mark.parametrize("content", [b"", b"half a no", b"\xff\xfe"])
def test_a_damaged_note_is_none(world: World, content: bytes) -> None:
    world.admit()
    note = world.folder / "tried" / world.digest
    whole = note.read_bytes()
    note.write_bytes(content)
    world.admit()
    assert len(world.trials) == 2
    assert note.read_bytes() == whole


def test_a_good_bundle_is_admitted_where_nothing_can_be_noted(world: World) -> None:
    (world.folder / "tried").write_text("a file where the folder should be")
    world.admit()
    assert probe.require_fit(world.bundle, tried=world.tried) == world.digest
    assert len(world.trials) == 1, "this process has seen it"
    world.admit()
    assert len(world.trials) == 2
