"""Whatever the disk does: what was acknowledged is in the log, once, whole and in order; what was not may be."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import LogUnavailable
from pilotage.runtime.log import adopt_orphans, payloads, segments
from pilotage.runtime.log.appender import Appender
from pilotage.runtime.log.framing import without_room
from pilotage.testing.faulty_files import Crashed, FaultyFiles


def appender(folder: Path, files: FaultyFiles, *, told: list[str] | None = None, **sizes: int) -> Appender:
    return Appender(
        folder,
        worker="w",
        report=(told if told is not None else []).append,
        seal_after_s=60,
        files=files,
        **{"segment_bytes": 400, **sizes},
    )


def numbered(number: int, size: int = 0) -> bytes:
    return json.dumps({"number": number, "text": "x" * size}).encode()


def read(folder: Path) -> list[int]:
    return [json.loads(payload)["number"] for segment in segments(folder) for payload in payloads(segment.path)]


OPERATIONS = ["write", "sync", "truncate", "rename", "create", "sync_folder", "remove"]
BATCH = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=3), min_size=1, max_size=4)
LIFE = st.fixed_dictionaries(
    {
        "batches": st.lists(BATCH, max_size=8),
        "faults": st.dictionaries(st.sampled_from(OPERATIONS), st.sampled_from([0.1, 0.5, 1.0]), max_size=4),
        "crash_after": st.none() | st.integers(0, 60),
        "power": st.booleans(),
        "room": st.sampled_from([0, 60, 5000]),
        "repair_crashes_after": st.none() | st.integers(0, 12),
    }
)


@settings(max_examples=250)
@given(seed=st.integers(0, 2**32), lives=st.lists(LIFE, min_size=1, max_size=4))
def test_what_was_acknowledged_is_there_once_whole_and_in_order(seed: int, lives: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "log"
        folder.mkdir()
        files = FaultyFiles(folder, seed=seed)
        acknowledged: list[int] = []
        submitted: list[list[int]] = []
        number = 0
        for life in lives:
            files.faults, files.crash_after = life["faults"], None
            if life["crash_after"] is not None:
                files.crash_after = len(files.calls) + life["crash_after"]
            log = appender(folder, files, room_bytes=life["room"])
            try:
                for batch in life["batches"]:
                    groups: list[list[int]] = []
                    texts: list[Sequence[bytes]] = []
                    for sizes in batch:
                        groups.append(list(range(number, number + len(sizes))))
                        texts.append([numbered(number + index, size) for index, size in enumerate(sizes)])
                        number += len(sizes)
                    submitted += groups
                    try:
                        log.append(texts)
                    except LogUnavailable:
                        continue
                    acknowledged += [each for group in groups for each in group]
                    log.rotate()
                log.close()
            except Crashed:
                pass
            files.crash(power=life["power"])
            _repair(folder, files, life["repair_crashes_after"])
        files.faults, files.crash_after = {}, None
        adopt_orphans(folder, report=lambda _: None, files=files)
        found = read(folder)
        assert not segments(folder, state="open")
        assert len(set(found)) == len(found)
        assert found == sorted(found)
        assert set(acknowledged) <= set(found)
        assert set(found) <= set(range(number))
        if not list(folder.glob("*.damaged")):
            # A submission is there all or not at all. (A damaged segment keeps what can be read of one.)
            for group in submitted:
                assert len({each in found for each in group}) == 1


def _repair(folder: Path, files: FaultyFiles, crash_after: int | None) -> None:
    if crash_after is not None:
        files.crash_after = len(files.calls) + crash_after
    try:
        adopt_orphans(folder, report=lambda _: None, files=files)
    except Crashed:
        files.crash(power=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def failing(files: FaultyFiles, *plan: tuple[str, int]) -> None:
    """The next calls of these operations fail, each once and in this order."""
    left = list(plan)

    def before(operation: str) -> None:
        if left and left[0][0] == operation:
            raise OSError(left.pop(0)[1], "told to fail")

    files.before = before


def taken_until(log: Appender, problem: str) -> int:
    """Number of the last record that was taken before one was refused."""
    taken = -1
    with pytest.raises(LogUnavailable, match=problem):
        for number in range(100):
            log.append([[numbered(number, 40)]])
            taken = number
    return taken


def test_a_full_disk_refuses_takes_back_its_part_and_recovers_by_itself(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    log.append([[numbered(1)]])
    before = without_room((path := segments(folder)[0].path).read_bytes())
    for _ in range(50):
        failing(files, ("write", errno.ENOSPC), ("write", errno.ENOSPC))
        with pytest.raises(LogUnavailable, match="told to fail"):
            log.append([[numbered(2)]])
        assert without_room(path.read_bytes()) == before
    failing(files)
    log.append([[numbered(3)]])
    assert read(folder) == [1, 3]
    assert len(segments(folder)) == 1
    assert [line.rsplit(": ", 1)[-1] for line in told[:1]] == ["told to fail"]
    assert len(told) == 2
    assert told[1].endswith("can be written again, after 50 failures")


def test_commits_are_written_over_room_that_was_made_before(folder: Path) -> None:
    log = appender(folder, FaultyFiles(folder), room_bytes=1000, segment_bytes=100_000)
    sizes = []
    for number in range(40):
        log.append([[numbered(number, 40)]])
        sizes.append(segments(folder)[0].bytes)
    assert 2 < len(set(sizes)) < 10, "new room is made when there is none left"
    assert read(folder) == list(range(40))
    log.close()
    log.append([[numbered(40, 2000)]])
    (open_one,) = segments(folder, state="open")
    assert without_room(open_one.path.read_bytes()) + b"\n" == open_one.path.read_bytes(), "what is large makes none"
    log.close()
    content = segments(folder, state="sealed")[0].path.read_bytes()
    assert content == without_room(content) + b"\n", "what is sealed has none"
    assert read(folder) == list(range(41))


def test_a_disk_without_room_for_more_takes_what_it_has_room_for(folder: Path) -> None:
    class Small(FaultyFiles):
        def write(self, file: int, data: bytes | memoryview, at: int) -> int:
            if at >= 600:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(file, bytes(data)[: 600 - at], at)

    log = appender(folder, Small(folder), room_bytes=400, segment_bytes=10_000)
    taken = taken_until(log, "No space")
    assert read(folder) == list(range(taken + 1))
    assert 500 < len(without_room(segments(folder)[0].path.read_bytes())) <= 600


def test_an_error_while_room_is_made_is_an_error_of_the_commit(folder: Path) -> None:
    class Broken(FaultyFiles):
        def write(self, file: int, data: bytes | memoryview, at: int) -> int:
            if at and len(data) > 1000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().write(file, data, at)

    log = appender(folder, Broken(folder), room_bytes=1000, segment_bytes=10_000)
    taken = taken_until(log, "Input/output error")
    assert taken > 5
    assert [segment.sealed for segment in segments(folder)] == [True]
    assert read(folder) == list(range(taken + 1))


def test_room_that_could_not_be_cut_off_is_no_damage(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    log.append([[numbered(1)]])
    failing(files, ("truncate", errno.EIO))
    log.close()
    (sealed,) = segments(folder)
    assert sealed.sealed
    assert sealed.path.read_bytes().endswith(b"\n\n")
    assert (read(folder), told) == ([1], [])


@pytest.mark.parametrize("fault", [("write", errno.EIO), ("sync", errno.EIO), ("sync", errno.ENOSPC)])
def test_a_segment_that_met_an_error_gets_no_more_records(folder: Path, fault: tuple[str, int]) -> None:
    files = FaultyFiles(folder)
    log = appender(folder, files)
    log.append([[numbered(1)]])
    failing(files, fault)
    with pytest.raises(LogUnavailable):
        log.append([[numbered(2)]])
    log.append([[numbered(3)]])
    assert [segment.sealed for segment in segments(folder)] == [True, False]
    assert read(folder) == [1, 3]


def test_a_segment_that_can_not_be_cut_says_beside_it_up_to_where_it_counts(folder: Path) -> None:
    files = FaultyFiles(folder)
    log = appender(folder, files)
    log.append([[numbered(1)]])
    failing(files, ("sync", errno.EIO), ("truncate", errno.EIO))
    with pytest.raises(LogUnavailable):
        log.append([[numbered(2)]])
    assert b'"number": 2' in segments(folder)[0].path.read_bytes()
    assert read(folder) == [1]
    log.append([[numbered(3)]])
    assert read(folder) == [1, 3]
    log.close()
    adopted = adopt_orphans(folder, report=lambda _: None)
    assert [(each.outcome, each.records) for each in adopted] == [("torn", 1)]
    assert b'"number": 2' in adopted[0].evidence.read_bytes()
    assert read(folder) == [1, 3]
    assert not list(folder.glob("*.committed"))


def test_a_segment_that_can_be_neither_cut_nor_marked_stays_locked_until_it_can(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    log.append([[numbered(1)]])
    failing(files, ("sync", errno.EIO), ("truncate", errno.EIO), ("create", errno.EROFS))
    with pytest.raises(LogUnavailable):
        log.append([[numbered(2)]])
    assert adopt_orphans(folder, report=lambda _: None) == []
    log.append([[numbered(3)]])
    log.close()
    assert [segment.sealed for segment in segments(folder)] == [True, True]
    assert read(folder) == [1, 3]


def test_a_segment_that_can_not_be_sealed_is_sealed_by_whoever_looks_next(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    log.append([[numbered(1)]])
    failing(files, ("rename", errno.EIO))
    log.close()
    assert "could not be sealed" in told[0]
    assert [each.outcome for each in adopt_orphans(folder, report=told.append)] == ["sealed"]
    assert read(folder) == [1]


def test_a_disk_without_room_for_a_new_segment_leaves_nothing_behind(folder: Path) -> None:
    files = FaultyFiles(folder, faults={"write": 1.0}, errors=[errno.ENOSPC])
    log = appender(folder, files)
    with pytest.raises(LogUnavailable):
        log.append([[numbered(1)]])
    assert list(folder.iterdir()) == []
    files.faults = {}
    log.append([[numbered(1)]])
    assert read(folder) == [1]


class Watched(FaultyFiles):
    """A fellow looks for orphans right after each of the next new segments was created, before it is locked."""

    looks = 0

    def create(self, path: Path) -> int:
        file = super().create(path)
        if self.looks and path.suffix == ".new":
            self.looks -= 1
            adopt_orphans(path.parent, report=lambda _: None)
        return file


def test_a_segment_that_a_fellow_takes_for_an_orphan_while_it_is_made_refuses_nothing(folder: Path) -> None:
    files, told = Watched(folder), []
    log = appender(folder, files, told=told)
    files.looks = 3
    log.append([[numbered(1)]])
    assert (read(folder), told, files.looks) == ([1], [], 0)
    assert [path.suffix for path in folder.iterdir()] == [".open"]
    log.close()
    files.looks = 100
    with pytest.raises(LogUnavailable, match="another process took the new file"):
        log.append([[numbered(2)]])
    files.looks = 0
    log.append([[numbered(3)]])
    assert read(folder) == [1, 3]


def test_a_segment_that_somebody_removed_is_noticed_before_anything_is_acknowledged(folder: Path) -> None:
    told: list[str] = []
    log = appender(folder, FaultyFiles(folder), told=told)
    log.append([[numbered(1)]])
    segments(folder)[0].path.unlink()
    with pytest.raises(LogUnavailable, match="removed by somebody"):
        log.append([[numbered(2)]])
    log.append([[numbered(3)]])
    assert read(folder) == [3]


def test_a_disk_that_fails_every_other_time_is_told_once_in_a_while(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    for number in range(50):
        files.faults, files.errors = {"write": 1.0}, (errno.ENOSPC,)
        with pytest.raises(LogUnavailable):
            log.append([[numbered(100)]])
        files.faults = {}
        log.append([[numbered(number)]])
    assert len(told) == 2
    assert "can't be written" in told[0]
    assert told[1].endswith("can be written again, after 1 failures")
    assert read(folder) == list(range(50))


def test_a_disk_that_stays_broken_is_told_once_in_a_while(folder: Path) -> None:
    files, told = FaultyFiles(folder), []
    log = appender(folder, files, told=told)
    log.append([[numbered(1)]])
    files.faults, files.errors = dict.fromkeys(["write", "truncate", "create"], 1.0), (errno.EIO,)
    for _ in range(100):
        with pytest.raises(LogUnavailable):
            log.append([[numbered(2)]])
    assert len(told) == 3
    files.faults = {}
    log.append([[numbered(3)]])
    assert read(folder) == [1, 3]
