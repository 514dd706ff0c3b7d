"""The follower carries out what was decided, refuses what can't be served, and never drops what answers."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.errors import ModelNotReady, UnknownModel
from pilotage.features.online import build_online
from pilotage.runtime import follower as module
from pilotage.runtime import refusals
from pilotage.runtime.plan import Plan
from pilotage.testing.bundles import make_bundle, tiny_spec
from tests.unit.runtime.world import World, world_of


def test_nothing_is_ready_before_every_model_has_a_champion(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", "two")
    world.follower.look()
    assert not world.follower.ready()
    with pytest.raises(ModelNotReady, match="none was promoted yet"):
        world.answer("one")
    with pytest.raises(UnknownModel, match="three"):
        world.follower.board("three")
    world.release("one", 1)
    assert not world.follower.ready()
    world.release("two", 1)
    assert world.follower.ready()
    assert (world.status("one")["version"], world.status("one")["problem"]) == (1, None)


@pytest.mark.parametrize("damage", [False, True], ids=["loaded", "refused"])
def test_it_says_when_all_that_the_first_plans_name_was_tried(tmp_path: Path, damage: bool) -> None:
    world = world_of(tmp_path, "one", "two")
    world.release("one", 1, damage=damage, look=False)
    assert not world.follower.until_settled(0.0)
    world.follower.follow()
    assert not world.follower.until_settled(0.0), "a version has to be loaded first"
    world.follower.load_missing()
    assert world.follower.until_settled(0.0)


def test_with_nothing_to_load_it_says_so_at_once_also_without_a_ledger(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.down = True
    world.follower.start()
    assert world.follower.until_settled(60.0)
    world.follower.stop()


def test_a_damaged_release_is_refused_and_the_version_before_goes_on(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.release("one", 2, damage=True)
    assert world.champion("one") == 1
    assert world.follower.ready()
    assert "version 2 is refused" in str(world.status("one")["problem"])
    world.release("one", 3)
    assert world.champion("one") == 3
    assert world.status("one")["problem"] is None or "version 2" in str(world.status("one")["problem"])


def test_a_refused_version_is_tried_again_later_and_not_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    world = world_of(tmp_path, "one")
    tried: list[int] = []
    original = module.load
    monkeypatch.setattr(
        module, "load", lambda model, assignment, **more: (tried.append(1), original(model, assignment, **more))[1]
    )
    world.release("one", 1, damage=True)
    world.follower.look()
    assert len(tried) == 1
    now[0] = 2.0
    world.follower.look()
    assert len(tried) == 2
    now[0] = 2.6
    world.follower.look()
    assert len(tried) == 2, "the pause grows"


def test_a_version_that_was_repaired_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    world = world_of(tmp_path, "one")
    world.release("one", 1, damage=True)
    make_bundle(tmp_path / "again", spec=tiny_spec("one"), seed=1)
    (tmp_path / "again" / "model.txt").replace(tmp_path / "registry" / "one" / "1" / "model.txt")
    now[0] = 100.0
    world.follower.look()
    assert world.follower.ready()


def test_a_rollback_to_a_loaded_version_needs_no_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.release("one", 2)
    first = world.follower.boards["one"].previous
    assert first is not None
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("nothing is to be loaded"))
    world.decide("one", champion=replace(world.plans["one"].previous, role="champion"), previous=None)
    champion = world.follower.boards["one"].champion
    assert champion is not None
    assert champion.predictor is first.predictor


def test_what_was_rolled_back_answers_nobody_while_the_version_to_go_back_to_loads(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    for version in (2, 3):
        world.release("one", version)
    oldest = world.made("one", 1, damage=True)
    world.decide("one", look=False, champion=oldest, taken_back=(3,))
    world.follower.follow()
    board = world.follower.boards["one"]
    assert (board.champion, board.previous and board.previous.version) == (None, 2)
    assert world.answer("one").answer.version == 2
    world.follower.look()
    assert world.answer("one").answer.version == 2, "not even if that one can't be loaded"
    world.decide("one", previous=None)
    assert world.answer("one").answer.answered_by == "rule"


def test_a_kill_is_carried_out_without_waiting_for_a_version_that_loads(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.release("one", 2, look=False)
    world.decide("one", look=False, killed="wrong since noon")
    world.follower.follow()
    board = world.follower.boards["one"]
    assert board.killed == "wrong since noon"
    assert (board.champion, board.previous, board.canary, board.shadows) == (None, None, None, ())
    assert world.follower.ready(), "it is ready to say so"
    assert any("was killed: wrong since noon" in sentence for sentence in world.said)


def test_a_kill_is_not_taken_back_by_who_read_the_plans_before_it(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    has_read, go_on = threading.Event(), threading.Event()
    inside: list[int] = []

    def slow() -> dict[str, Plan]:
        inside.append(len(inside))
        plans = world.read()
        if threading.current_thread() is poller:
            has_read.set()
            go_on.wait(60)
        assert inside.pop() == 0, "the feed of plans is for one thread at a time"
        return plans

    world.follower._releases = slow
    poller, killer = (threading.Thread(target=world.follower.follow) for _ in range(2))
    poller.start()
    assert has_read.wait(60)
    world.decide("one", look=False, killed="wrong")
    killer.start()
    killer.join(0.2)
    go_on.set()
    killer.join(60)
    poller.join(60)
    assert world.follower.boards["one"].killed == "wrong"
    assert world.follower.trouble("one") is None


def test_a_model_that_is_resumed_answers_again_without_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, "one")
    plan = world.release("one", 1)
    # As the ledger reduces it: a killed model has no assignments at all.
    world.decide("one", champion=None, killed="x")
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("nothing is to be loaded"))
    world.decide("one", champion=plan.champion, killed=None)
    assert world.champion("one") == 1


def test_versions_without_a_role_are_let_go(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    for version in (1, 2, 3):
        world.release("one", version)
    loaded = world.follower.boards["one"].loaded()
    assert sorted(version for version, _ in loaded) == [2, 3]
    assert world.follower._known["one"].keys() == loaded.keys()


def test_a_version_that_our_own_walk_of_the_trees_leaves_to_lightgbm_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    scorer = world.follower.boards["one"].champion.predictor.bundle.scorer  # type: ignore[union-attr]
    assert world.status("one")["left_to_lightgbm"] == (scorer.left_to_lightgbm or None)
    scorer.left_to_lightgbm = "a tree has linear leaves"
    assert world.status("one")["left_to_lightgbm"] == "a tree has linear leaves"
    scorer.left_to_lightgbm = ""
    assert world.status("one")["left_to_lightgbm"] is None


def test_canary_and_shadows_are_loaded_and_let_go_with_their_roles(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    canary = world.made("one", 2, "canary", share=0.25, salt="s")
    world.decide("one", canary=canary, shadows=(world.made("one", 3, "shadow"),))
    status = world.status("one")
    assert status["canary"] == {"version": 2, "share": 0.25}
    assert status["shadows"] == [3]
    before = world.follower.boards["one"].canary
    world.decide("one", canary=replace(canary, share=0.5), shadows=())
    after = world.follower.boards["one"].canary
    assert before is not None and after is not None
    assert after.loaded is before.loaded
    assert after.share == 0.5
    assert sorted(version for version, _ in world.follower.boards["one"].loaded()) == [1, 2]


def test_a_canary_that_is_refused_leaves_the_champion_alone(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.decide("one", canary=world.made("one", 2, "canary", damage=True, share=0.5, salt="s"))
    assert world.champion("one") == 1
    assert world.follower.boards["one"].canary is None
    assert "version 2 is refused" in str(world.status("one")["problem"])


def test_what_is_loaded_goes_on_while_the_ledger_is_down(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.down = True
    world.follower.look()
    assert world.champion("one") == 1
    assert world.follower.ready()
    assert "no database" in str(world.status("one")["problem"])
    assert world.status("one")["plans_from"] == "last known copy"
    world.down = False
    world.release("one", 2)
    assert world.champion("one") == 2
    assert (world.status("one")["problem"], world.status("one")["plans_from"]) == (None, "ledger")


def test_a_release_that_fails_in_an_unforeseen_way_does_not_end_the_following(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one", "two")
    world.release("one", 1)
    broken = replace(world.made("one", 2), bundle=None)  # type: ignore[arg-type]
    world.decide("one", champion=broken)
    world.release("two", 1)
    assert world.champion("one") == 1
    assert "version 2 is refused" in str(world.status("one")["problem"])
    assert world.champion("two") == 1


def make_online(home: Path, level: int = 9) -> datetime:
    lake = Lake(str(home / "lake"))
    known = datetime(2024, 1, 3, 8, tzinfo=UTC)
    stock = pl.DataFrame(
        {"shop": ["north"], "level": [level], "known_at": [known], "day": [date(2024, 1, 3)]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )
    lake.replace_days("validated/stock", stock, [date(2024, 1, 3)], note={})
    spec = tiny_spec("stateful", with_state=True)
    build_online(spec, lake=lake, path=home / "online" / "stateful.db", run_id="test")
    return known


def test_a_model_with_history_is_ready_only_with_its_online_state(tmp_path: Path) -> None:
    world = world_of(tmp_path, "stateful")
    world.release("stateful", 1)
    assert world.champion("stateful") == 1
    assert not world.follower.ready()
    assert "online store" in str(world.status("stateful")["problem"])
    known = make_online(tmp_path)
    world.follower.look()
    assert world.follower.ready()
    assert world.status("stateful")["problem"] is None
    assert world.status("stateful")["state_through"] == known
    world.follower.stop()


def test_a_request_in_flight_keeps_its_board_while_another_takes_over(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    held = world.follower.boards["one"]
    world.release("one", 2)
    assert held.champion is not None
    assert held.champion.version == 1
    assert world.champion("one") == 2


def test_it_follows_in_the_background_and_stops(tmp_path: Path) -> None:
    world: World = world_of(tmp_path, "one")
    world.release("one", 1, look=False)
    world.follower.start()
    ready = threading.Event()
    world.follower._chores = (lambda: ready.set() if world.follower.ready() else None,)
    assert ready.wait(60)
    world.follower.stop()
    assert not any(thread.name.startswith("pilotage-") for thread in threading.enumerate())


def test_a_model_of_which_the_ledger_makes_no_sense_is_served_as_before_and_says_so(tmp_path: Path) -> None:
    world = world_of(tmp_path, "one")
    world.release("one", 1)
    world.plans["one"] = replace(world.plans["one"], problem="Event 7 makes no sense.")
    world.follower.look()
    assert (world.champion("one"), world.status("one")["problem"]) == (1, "Event 7 makes no sense.")
