"""The file that workers share their rate limits by."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pilotage.runtime.access import slots
from pilotage.runtime.access.limiter import Limiter
from pilotage.runtime.access.slots import Slots
from tests.unit.runtime.limiting import Clock, caller, granted


def test_names_whose_slots_collide_keep_their_own_numbers(tmp_path: Path):
    table = Slots(tmp_path / "slots", report=pytest.fail, count=8)
    names = [f"key-{number}".encode() for number in range(8)]
    for number, name in enumerate(names):
        table.numbers[table.acquire(name, 0)] = 100 + number
        table.release(name)
    other = Slots(tmp_path / "slots", report=pytest.fail)
    for number, name in enumerate(names):
        assert other.numbers[other.acquire(name, 0)] == 100 + number
        other.release(name)


def test_a_full_table_gives_away_only_what_is_worth_nothing_any_more(tmp_path: Path):
    here, there = (Slots(tmp_path / "slots", report=pytest.fail, count=2) for _ in range(2))
    for name, number in ((b"old", 50), (b"new", 150)):
        here.numbers[here.acquire(name, 0)] = number
        here.release(name)
    with pytest.raises(OSError, match="slots are taken"):
        there.acquire(b"third", 10)
    place = there.acquire(b"third", 100)
    assert there.numbers[place] == 0
    there.numbers[place] = 170
    there.release(b"third")
    assert here.numbers[here.acquire(b"new", 100)] == 150
    here.release(b"new")
    with pytest.raises(OSError, match="slots are taken"):
        here.acquire(b"old", 100)
    assert here.numbers[here.acquire(b"old", 160)] == 0, "whose slot went to another name finds itself a new one"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\xff" * 320,
        struct.pack("=QQQQ", slots._MAGIC, 0, 0, 0),
        struct.pack("=QQQQ", slots._MAGIC, 2**63, slots._boot(), 0) + bytes(64),
        struct.pack("=QQQQ", slots._MAGIC, 9, slots._boot(), 0) + bytes(64),
    ],
)
def test_a_damaged_file_is_made_anew(file: Path, clock: Clock, content: bytes):
    file.parent.mkdir()
    file.write_bytes(content)
    limiter = Limiter(file, clock=clock, report=pytest.fail)
    assert granted(limiter, caller(), 9) == 5
    assert granted(Limiter(file, clock=clock), caller(), 9) == 0


def test_the_file_has_its_place_on_the_disk_and_is_its_owners_alone(file: Path, clock: Clock):
    """A hole in a mapped file kills who writes into it when the disk is full."""
    Limiter(file, clock=clock)
    found = file.stat()
    assert found.st_blocks * 512 >= found.st_size == (1 + slots.COUNT) * 32
    assert found.st_mode & 0o777 == 0o600


def test_where_no_file_can_be_shared_each_worker_limits_by_itself_and_says_so(tmp_path: Path, clock: Clock):
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    told: list[str] = []
    limiter = Limiter(blocked / "limits", clock=clock, report=told.append)
    assert granted(limiter, caller(), 9) == 5
    assert len(told) == 1 and "each worker by itself" in told[0]
    limiter.close()


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path, clock: Clock):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "limits").symlink_to(victim)
    told: list[str] = []
    Limiter(tmp_path / "limits", clock=clock, report=told.append)
    assert victim.read_text() == "precious"
    assert told


def test_an_open_file_is_not_handed_on_to_children(file: Path, clock: Clock):
    Limiter(file, clock=clock)
    handles = [int(link.name) for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == str(file)]
    assert handles
    assert not any(os.get_inheritable(handle) for handle in handles)
