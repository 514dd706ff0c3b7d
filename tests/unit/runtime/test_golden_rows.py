"""A version that answers its golden rows otherwise than it was evaluated gets no traffic, by whatever way it comes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pilotage.errors import BundleCorrupt, NotReleasable
from pilotage.release import commands
from pilotage.runtime.baked import bake
from pilotage.runtime.bulk import champion_predictor
from pilotage.runtime.bundle import EXPECTED
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.probe import admit
from pilotage.settings import Settings
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import draft, registered
from tests.unit.runtime.test_bundle import rewrite
from tests.unit.runtime.world import World, bundle_of, world_of

DIFFERS = "on golden row 0, not"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_of(tmp_path, "one")


def differing(world: World, version: int) -> tuple[Path, str]:
    """A bundle with every hash right, also the ledger's, and golden rows that saw other answers."""
    folder = world.home / "registry" / "one" / str(version)
    shutil.copytree(bundle_of(world.specs["one"], version), folder)
    saw = io.BytesIO()
    pl.read_parquet(folder / "golden.parquet").with_columns(pl.col(EXPECTED) * 0.99).write_parquet(saw)
    return folder, rewrite(folder, "golden.parquet", saw.getvalue())


def test_no_decision_gives_it_traffic(world: World) -> None:
    settings, ledger = Settings(home=world.home), InMemoryLedger()
    good = world.made("one", 1)
    for version in (1, 3):
        ledger.append(registered("one", version, bundle=good.bundle, sha256=good.bundle_sha256))
    folder, sha256 = differing(world, 2)
    ledger.append(registered("one", 2, bundle=str(folder), sha256=sha256))
    # As somebody could have promoted it who did not ask: then it is no way back either.
    for version in (1, 2, 3):
        ledger.append(draft("promoted", version, model="one"))
    signed = {"settings": settings, "actor": "ada", "why": "because", "ledger": ledger}
    ways: tuple[Callable[..., object], ...] = (commands.shadow, commands.canary, commands.start_ab, commands.promote)
    for way in ways:
        arguments = (2, 0.1) if way in (commands.canary, commands.start_ab) else (2,)
        with pytest.raises(NotReleasable, match=DIFFERS):
            way("one", *arguments, **signed)
    with pytest.raises(NotReleasable, match=DIFFERS):
        commands.rollback("one", 2, **signed)
    state = commands.rollback("one", **signed)
    assert state.champion is not None
    assert state.champion.version == 1


def test_no_worker_takes_it_up_also_not_by_the_last_known_plans(world: World) -> None:
    world.follower = world.another_follower(admit)
    world.release("one", 1)
    folder, sha256 = differing(world, 2)
    bad = replace(world.made("one", 1), version=2, bundle=str(folder), bundle_sha256=sha256)
    canary = replace(bad, role="canary", share=1.0, salt="s")
    world.decide("one", canary=canary, previous=replace(bad, role="previous_champion"), look=False)
    world.decide("one", shadows=(replace(bad, role="shadow"),))
    roles = world.follower.boards["one"].roles()
    assert [(version, role) for (version, _), role in roles.items()] == [(1, "champion")]
    assert DIFFERS in str(world.status("one")["problem"])
    world.decide("one", champion=bad, previous=None, canary=None, shadows=())
    assert world.champion("one") == 1
    world.down = True
    restarted = world.another_follower(admit)
    restarted.look()
    assert restarted.status()[0]["plans_from"] == "last known copy"
    assert restarted.boards["one"].loaded() == {}


def test_no_bento_and_no_bulk_job_takes_it_along(world: World, tmp_path: Path) -> None:
    good = world.made("one", 1)
    folder, sha256 = differing(world, 2)
    bad = replace(good, version=2, bundle=str(folder), bundle_sha256=sha256)

    def plan(champion: Assignment, previous: Assignment | None = None) -> Plan:
        return Plan(model="one", sequence=1, champion=champion, previous=previous)

    told: list[str] = []
    assert bake(tmp_path / "a", [plan(good, replace(bad, role="previous_champion"))], report=told.append)
    assert DIFFERS in told[0]
    with pytest.raises(BundleCorrupt, match=DIFFERS):
        bake(tmp_path / "b", [plan(bad)])
    with pytest.raises(BundleCorrupt, match=DIFFERS):
        champion_predictor(plan(bad), "one", bundles=tmp_path / "bundles")
