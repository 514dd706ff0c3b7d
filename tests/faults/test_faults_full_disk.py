"""A disk that is full or broken while clients ask: answered or refused as declared, and told as it is."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.bad_disk_switch import SWITCH
from tests.faults.checker import check
from tests.faults.crowd import Crowd
from tests.faults.world import Serving, World

MODELS = ("tiny", "tiny_high")
ROUNDS = 4
BAD = "tests.faults.bad_disk:BadDiskService"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory; with room for several times what 70,000 requests leave, which is 60 MB: the
    log, the table of those with an id, and its write-ahead log, which is emptied at 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk; the bad disk has no room either")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all room that there is."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


def suffers(crowd: Crowd) -> None:
    """Waits until both models were seen to do as they declare."""
    crowd.until_more(20, 200, model="tiny", logged=False)
    crowd.until_more(20, 503, error="LogUnavailable")


def recovered(crowd: Crowd) -> None:
    """Waits until both are answered and logged again."""
    for model in MODELS:
        crowd.until_more(50, 200, model=model, logged=True)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", ["log", "home"])
def test_a_full_disk_stops_what_must_be_logged_and_nothing_acknowledged_is_missing(
    small_disk: Path, tmp_path: Path, what: str, draw: random.Random, tell: Callable[[str], None]
) -> None:
    if what == "home":
        world = World(small_disk / "home")
    else:
        world = World(tmp_path / "home")
        world.settings.prediction_log.symlink_to(small_disk)
    killed = 0
    with world.serving() as serving, Crowd(serving.port, draw, models=MODELS) as crowd:
        for round_ in range(ROUNDS):
            crowd.until_more(draw.randrange(1, 100))
            ballast = fill(small_disk)
            suffers(crowd)
            if draw.random() < 0.5:
                killed += _kill_one(serving, draw)
            ballast.unlink()
            recovered(crowd)
            serving.until_complete()
            tell(f"full and free again, {round_ + 1} times; {len(crowd.seen)} requests")
        crowd.stop()
    assert "No space left on device" in world.logs()
    checked = check(world, crowd.seen)
    tell(f"{killed} workers killed while it was full; {checked} {checked.reasons}")
    assert checked.unlogged
    assert set(checked.refused) == {"LogUnavailable"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "faults",
    [
        {"write": [0.3, "ENOSPC"]},
        {"write": [0.3, "EIO"]},
        {"sync": [0.3, "EIO"]},
        {"write": [0.2, "EIO"], "sync": [0.2, "EIO"], "create": [0.2, "EIO"], "rename": [0.1, "EIO"]},
    ],
    ids=["no-room", "write", "fsync", "everything"],
)
def test_a_disk_that_fails_now_and_then_loses_nothing_that_was_acknowledged(
    world: World, seed: int, draw: random.Random, tell: Callable[[str], None], faults: dict[str, list[object]]
) -> None:
    switch, killed = world.home / SWITCH, 0
    with world.serving(service=BAD) as serving, Crowd(serving.port, draw, models=MODELS) as crowd:
        for round_ in range(ROUNDS):
            crowd.until_more(draw.randrange(1, 100))
            aside = switch.with_suffix(".new")
            aside.write_text(json.dumps({"seed": f"{seed} {round_}", **faults}))
            aside.replace(switch)
            suffers(crowd)
            crowd.until_more(draw.randrange(100, 500))
            if draw.random() < 0.5:
                killed += _kill_one(serving, draw)
            switch.unlink()
            recovered(crowd)
            serving.until_complete()
            tell(f"bad and good again, {round_ + 1} times; {len(crowd.seen)} requests")
        crowd.stop()
    checked = check(world, crowd.seen)
    tell(f"{killed} workers killed meanwhile; {checked}")
    assert checked.unlogged
    assert set(checked.refused) == {"LogUnavailable"}


def _kill_one(serving: Serving, draw: random.Random) -> int:
    """Kills a worker; the other one, or both, says which there are."""
    pids = sorted(each["pid"] for each in serving.workers())
    if not pids:
        return 0
    serving.kill_workers([draw.choice(pids)])
    return 1
