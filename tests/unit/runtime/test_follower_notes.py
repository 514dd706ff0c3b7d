"""What a follower remembers for a restart without the ledger, and goes by there."""

from __future__ import annotations

import fcntl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pilotage.runtime import follower as module
from pilotage.runtime import plans_file
from pilotage.runtime.plan import Plan
from pilotage.runtime.plans_file import PlansFile
from pilotage.runtime.probe import admit
from tests.unit.runtime.world import world_of


def test_a_restart_without_ledger_and_registry_goes_by_the_last_known_plans(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.down = True
    (tmp_path / "registry").rename(tmp_path / "gone")
    restarted = world.another_follower(admission=admit)
    restarted.look()
    assert restarted.ready()
    [entry] = restarted.status()
    assert (entry["version"], entry["plans_from"]) == (1, "last known copy")
    assert abs((datetime.now(UTC) - entry["plans_as_of"]).total_seconds()) < 60  # type: ignore[operator]


def test_a_kill_outlives_a_restart_without_the_ledger(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", killed="wrong")
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.boards["one"].killed == "wrong"


def test_damaged_notes_of_the_last_plans_are_reported_and_nothing_is_made_up(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.down = True
    (tmp_path / "service" / "plans.json").write_bytes(b"{")
    restarted = world.another_follower()
    restarted.look()
    assert not restarted.ready()
    assert any("plans.json holds no plans" in sentence for sentence in world.said)


def test_a_worker_that_lags_does_not_overwrite_newer_notes(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    old = world.release("one", 1, look=False)
    lagging = world.another_follower()
    world.decide("one", killed="wrong")
    world.plans["one"] = old
    lagging.look()
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.boards["one"].killed == "wrong"


def test_a_kill_waits_neither_for_a_stopped_worker_that_holds_the_notes_nor_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    killed, hangs, goes = threading.Event(), threading.Event(), threading.Event()
    write = PlansFile.write

    def hanging(self: PlansFile, *args: Any, **more: Any) -> None:
        hangs.set()
        assert goes.wait(60)
        write(self, *args, **more)

    monkeypatch.setattr(PlansFile, "write", hanging)
    follower = world.another_follower()
    follower._report = lambda sentence: killed.set() if "was killed" in sentence else None
    follower.start()
    assert hangs.wait(60)
    world.decide("one", look=False, killed="wrong")
    assert killed.wait(60)
    assert follower.boards["one"].killed == "wrong"
    goes.set()
    follower.stop()
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.boards["one"].killed == "wrong", "it was remembered in the end"


def test_plans_that_cannot_be_remembered_are_told_once_and_remembered_as_soon_as_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans_file, "_WAIT_S", 0.0)
    world = world_of(tmp_path, "one")
    (tmp_path / "service").mkdir()
    with (tmp_path / "service" / "plans.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world.release("one", 1)
        world.follower.look()
        assert world.champion("one") == 1
        assert "another worker holds" in str(world.status("one")["problem"])
        assert len([sentence for sentence in world.said if "can't be remembered" in sentence]) == 1
    world.follower.look()
    assert world.status("one")["problem"] is None
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.ready()


def test_a_restart_whose_ledger_says_nothing_at_all_goes_by_the_last_known_plans_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", look=False, killed="wrong since noon")
    says, killed = threading.Event(), threading.Event()

    def hanging() -> dict[str, Plan]:
        assert says.wait(60)
        return world.read()

    restarted = world.another_follower()
    restarted._releases = hanging
    restarted._report = lambda sentence: killed.set() if "was killed" in sentence else None
    restarted.start()
    assert restarted.until_settled(60)
    assert restarted.ready()
    [entry] = restarted.status()
    assert (entry["version"], entry["plans_from"]) == (1, "last known copy")
    assert "could not be read within" in str(entry["problem"])
    says.set()
    assert killed.wait(60)
    [entry] = restarted.status()
    assert (entry["killed"], entry["plans_from"], entry["problem"]) == ("wrong since noon", "ledger", None)
    restarted.stop()


def test_last_known_plans_that_are_found_after_the_ledger_answered_are_not_gone_by(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    restarted = world.another_follower()
    world.decide("one", look=False, killed="wrong")
    restarted.follow()
    restarted._recall("too late")
    [entry] = restarted.status()
    assert (entry["killed"], entry["plans_from"], entry["problem"]) == ("wrong", "ledger", None)


def test_what_another_worker_read_holds_here_too_while_the_ledger_is_down(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", "two")
    for name in ("one", "two"):
        world.release(name, 1)
    other = world.another_follower()
    world.decide("one", look=False, killed="wrong")
    world.release("two", 2, look=False)
    other.look()
    world.down = True
    world.follower.look()
    assert world.follower.boards["one"].killed == "wrong"
    assert (world.champion("two"), world.status("two")["plans_from"]) == (2, "last known copy")
    world.down = False
    world.decide("one", killed=None)
    assert world.follower.boards["one"].killed is None


def test_a_kill_whose_note_came_and_went_between_two_looks_waits_for_no_ledger_that_hangs(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    plan = world.plans["one"]
    hangs, goes = threading.Event(), threading.Event()

    def hanging() -> dict[str, Plan]:
        hangs.set()
        assert goes.wait(60)
        return {"one": plan}

    world.follower._releases = hanging
    reading = threading.Thread(target=world.follower.follow)
    reading.start()
    assert hangs.wait(60)
    # As whoever kills leaves it, when the kill is in the ledger and its note is gone.
    PlansFile(tmp_path / "service").update(replace(plan, sequence=plan.sequence + 1, killed="wrong"))
    world.follower.heed()
    assert world.follower.boards["one"].killed == "wrong"
    goes.set()
    reading.join(60)
    assert world.follower.boards["one"].killed == "wrong", "what was read is from before it"


def test_plans_that_another_worker_read_before_this_one_are_not_gone_by(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", killed="wrong")
    # The ledger is an older one that was put back.
    world.plans["one"] = replace(world.plans["one"], sequence=1, killed=None)
    world.follower.look()
    world.follower.look()
    assert world.follower.boards["one"].killed is None


def test_plans_of_a_ledger_that_was_put_back_just_after_a_decision_are_remembered_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PlansFile(tmp_path / "alone")
    decided = datetime.now(UTC)
    file.write({"m": Plan(model="m", sequence=5)}, at=decided)
    for seconds, sequence in ((6, 5), (9, 5), (12, 4)):
        now = file.write({"m": Plan(model="m", sequence=4)}, at=decided + timedelta(seconds=seconds))
        assert now["m"].sequence == sequence
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", killed="wrong")
    world.plans["one"] = replace(world.plans["one"], sequence=1, killed=None)
    world.follower.look()
    monkeypatch.setattr(plans_file, "_AHEAD", timedelta(0))
    world.follower.look()
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.boards["one"].killed is None


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_plans_that_are_no_longer_on_the_disk_are_remembered_again(tmp_path: Path, damage: str) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    file = tmp_path / "service" / "plans.json"
    world.follower.look()
    file.unlink()
    if damage == "damaged":
        file.write_bytes(b"{")
    world.follower.look()
    world.follower.look()
    assert world.status("one")["problem"] is None
    world.down = True
    restarted = world.another_follower()
    restarted.look()
    assert restarted.ready()
