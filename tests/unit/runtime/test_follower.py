"""The follower takes up what is released, refuses what can't be served, and never drops what answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import ModelNotReady, UnknownModel
from pilotage.features.online import build_online
from pilotage.runtime import follower as module
from pilotage.runtime.follower import Follower
from pilotage.testing.bundles import START, make_bundle, tiny_spec

STATEFUL = tiny_spec("stateful", with_state=True)


@dataclass(frozen=True)
class Told:
    version: int
    bundle: str
    bundle_sha256: str
    sequence: int
    promoted_at: datetime = START
    trained_at: datetime = START


class World:
    """What is released, and a follower of it."""

    def __init__(self, home: Path, *models: str) -> None:
        self.home = home
        self.releases: dict[str, Told] = {}
        self.said: list[str] = []
        self.down = False
        self.follower = Follower(
            models, releases=self.read, bundles=home / "shelf", online=home / "online", report=self.said.append
        )

    def read(self) -> dict[str, Told]:
        if self.down:
            raise ConnectionError("no database")
        return self.releases

    def release(self, model: str, version: int, *, seed: int = 1, damage: bool = False) -> None:
        folder = self.home / "registry" / model / str(version)
        sha256 = make_bundle(folder, spec=STATEFUL if model == "stateful" else tiny_spec(model), seed=seed)
        if damage:
            (folder / "model.txt").write_text("tree")
        self.releases[model] = Told(version, str(folder), sha256, sequence=version)
        self.follower.look()

    def status(self, model: str) -> dict[str, object]:
        [entry] = [entry for entry in self.follower.status() if entry["model"] == model]
        return entry


def test_nothing_is_ready_before_every_model_has_a_champion(tmp_path: Path) -> None:
    world = World(tmp_path, "one", "two")
    world.follower.look()
    assert not world.follower.ready()
    with pytest.raises(ModelNotReady, match="none was promoted yet"):
        world.follower.serving("one")
    with pytest.raises(UnknownModel, match="three"):
        world.follower.serving("three")
    world.release("one", 1)
    assert not world.follower.ready()
    world.release("two", 1)
    assert world.follower.ready()
    assert world.status("one")["version"] == 1
    assert world.status("one")["problem"] is None


def test_a_damaged_release_is_refused_and_the_version_before_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, "one")
    world.release("one", 1)
    world.release("one", 2, damage=True)
    assert world.follower.serving("one").predictor.version == 1
    assert world.follower.ready()
    assert "version 2 is refused" in str(world.status("one")["problem"])
    world.release("one", 3, seed=2)
    assert world.follower.serving("one").predictor.version == 3
    assert world.status("one")["problem"] is None


def test_a_refused_release_is_tried_again_later_and_not_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    world = World(tmp_path, "one")
    world.release("one", 1, damage=True)
    tried: list[object] = []
    monkeypatch.setattr(world.follower, "_take_up", lambda *arguments: tried.append(arguments))
    world.follower.look()
    assert tried == []
    now[0] = 2.0
    world.follower.look()
    assert len(tried) == 1


def test_a_release_that_was_repaired_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    world = World(tmp_path, "one")
    world.release("one", 1, damage=True)
    make_bundle(tmp_path / "again", spec=tiny_spec("one"), seed=1)
    (tmp_path / "again" / "model.txt").replace(tmp_path / "registry" / "one" / "1" / "model.txt")
    now[0] = 100.0
    world.follower.look()
    assert world.follower.ready()


def test_what_is_loaded_goes_on_while_the_ledger_is_down(tmp_path: Path) -> None:
    world = World(tmp_path, "one")
    world.release("one", 1)
    world.down = True
    world.follower.look()
    assert world.follower.serving("one").predictor.version == 1
    assert world.follower.ready()
    assert any("no database" in sentence for sentence in world.said)
    assert "no database" in str(world.status("one")["problem"])
    world.down = False
    world.release("one", 2, seed=2)
    assert world.follower.serving("one").predictor.version == 2
    assert world.status("one")["problem"] is None


def test_a_release_that_fails_in_an_unforeseen_way_does_not_end_the_following(tmp_path: Path) -> None:
    world = World(tmp_path, "one", "two")
    world.release("one", 1)
    world.releases["one"] = Told(2, None, "", sequence=2)  # type: ignore[arg-type]
    world.release("two", 1)
    assert world.follower.serving("one").predictor.version == 1
    assert "version 2 is refused" in str(world.status("one")["problem"])
    assert world.follower.serving("two").predictor.version == 1


def test_a_model_with_history_is_ready_only_with_its_online_state(tmp_path: Path) -> None:
    world = World(tmp_path, "stateful")
    world.release("stateful", 1)
    assert world.follower.serving("stateful").predictor.version == 1
    assert not world.follower.ready()
    assert "online store" in str(world.status("stateful")["problem"])
    lake = Lake(str(tmp_path / "lake"))
    known = datetime(2024, 1, 3, 8, tzinfo=UTC)
    stock = pl.DataFrame(
        {"shop": ["north"], "level": [9], "known_at": [known], "day": [date(2024, 1, 3)]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )
    lake.replace_days("validated/stock", stock, [date(2024, 1, 3)], note={})
    build_online(STATEFUL, lake=lake, path=tmp_path / "online" / "stateful.db", run_id="test")
    world.follower.look()
    assert world.follower.ready()
    assert world.status("stateful")["problem"] is None
    assert world.status("stateful")["state_through"] == known
    (tmp_path / "online" / "stateful.db").unlink()
    world.follower.look()
    assert not world.follower.ready()
    world.follower.stop()


def test_a_request_in_flight_keeps_its_version_while_another_takes_over(tmp_path: Path) -> None:
    world = World(tmp_path, "one")
    world.release("one", 1)
    held = world.follower.serving("one")
    world.release("one", 2, seed=2)
    assert held.predictor.version == 1
    assert world.follower.serving("one").predictor.bundle.sha256 != held.predictor.bundle.sha256


def test_it_follows_in_the_background_and_stops(tmp_path: Path) -> None:
    world = World(tmp_path, "one")
    world.follower.start()
    world.follower.stop()
    assert not any(thread.name == "pilotage-follower" for thread in __import__("threading").enumerate())
