"""What lies in a segment, and what can be read of it when bytes are missing or wrong."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pilotage.errors import UnreadableFile
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord, Record, ShadowRecord, StateRecord
from pilotage.runtime.log import Adopted, Damage, adopt_orphans, encode, payloads, read_segment, segments
from pilotage.runtime.log.framing import LONGEST, frame, room, scan, without_room
from pilotage.runtime.log.segments import FORMAT, Header

NAME = "w-20240301T120000.000000Z-000001"
HEADER = frame([(encode(Header(worker="w", at=1)),)])


def prediction(**changes: Any) -> PredictionRecord:
    fields: dict[str, Any] = {
        "prediction_id": "p-1",
        "request_id": "r-1",
        "model": "tiny",
        "entity": {"order": 7},
        "at": 1,
        "moment": None,
        "version": 3,
        "stage": "champion",
        "answered_by": "model",
        "probability": 0.1,
        "decision": False,
        "referred": False,
        "reasons": (),
        "latency_us": 180,
        "caller": "app",
        "request": {"order": 7, "note": "two\nlines and a \x00"},
        "features": {"amount": np.float64(2.5), "days": np.int32(3), "express": np.bool_(True), "courier": None},
        "state": "s",
    }
    return PredictionRecord(**{**fields, **changes})


RECORDS: list[Record] = [
    StateRecord(state="s", model="tiny", through=1, versions={"validated/orders": 4}),
    prediction(),
    ShadowRecord(
        prediction_id="p-1",
        model="tiny",
        version=4,
        at=2,
        probability=None,
        decision=None,
        referred=False,
        error="x",
        latency_us=1,
    ),
    OutcomeRecord(
        outcome_id="o",
        model="tiny",
        prediction_id="p-1",
        entity=None,
        label=True,
        known_at=1,
        received_at=2,
        caller="app",
    ),
]


def write(folder: Path, content: bytes, suffix: str = ".open") -> Path:
    path = folder / f"{NAME}{suffix}"
    path.write_bytes(content)
    return path


def adopt(folder: Path) -> tuple[list[Adopted], list[str]]:
    told: list[str] = []
    return adopt_orphans(folder, report=told.append), told


def test_every_kind_of_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + frame([tuple(encode(record) for record in RECORDS)]))
    expected = list(RECORDS)
    expected[1] = prediction(features={"amount": 2.5, "days": 3, "express": True, "courier": None})
    assert list(read_segment(path)) == expected


def test_a_person_can_read_a_segment_line_by_line(tmp_path: Path) -> None:
    lines = (HEADER + frame([(encode(record),) for record in RECORDS])).splitlines()
    assert [msgspec.json.decode(line[18:])["kind"] for line in lines] == [
        "segment",
        "state",
        "prediction",
        "shadow",
        "outcome",
    ]
    for line in lines:
        assert int(line[:8], 16) == len(line[18:])
        assert int(line[9:17], 16) == crc32(line[18:])


def test_a_value_that_is_no_json_is_refused_and_not_guessed() -> None:
    with pytest.raises(TypeError, match="no object"):
        encode(prediction(features={"amount": object()}))


def test_segments_are_listed_oldest_first_and_nothing_else_is(tmp_path: Path) -> None:
    names = [
        "b-20240301T120000.000000Z-000001.sealed",
        "a-20240301T120001.000000Z-000002.open",
        "a-x-20240302T120000.000000Z-000001.sealed",
    ]
    others = ["a-20240301T120001.000000Z-000003.torn", "mover.json", "a.open", "a-b-c.sealed", f"{NAME}.new"]
    for name in reversed(names + others):
        (tmp_path / name).write_bytes(b"12")
    found = segments(tmp_path)
    assert [each.path.name for each in found] == names
    assert [(each.worker, each.number, each.sealed, each.bytes) for each in found] == [
        ("b", 1, True, 2),
        ("a", 2, False, 2),
        ("a-x", 1, True, 2),
    ]
    assert [each.path.name for each in segments(tmp_path, state="open")] == names[1:2]
    assert segments(tmp_path / "nowhere") == []


def test_a_segment_that_was_sealed_since_it_was_listed_is_read_under_its_new_name(tmp_path: Path) -> None:
    write(tmp_path, HEADER + frame([(b"{}",)]), ".sealed")
    assert list(payloads(tmp_path / f"{NAME}.open")) == [b"{}"]
    with pytest.raises(FileNotFoundError):
        list(payloads(tmp_path / "w-20240301T120000.000000Z-000009.open"))


def test_a_segment_that_is_sealed_while_the_folder_is_listed_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, HEADER)
    sealed = path.with_suffix(".sealed")
    look = Path.iterdir

    def sealing(folder: Path) -> list[Path]:
        names = list(look(folder))
        if path.exists():
            path.rename(sealed)
        return names

    monkeypatch.setattr(Path, "iterdir", sealing)
    assert [each.path for each in segments(tmp_path)] == [sealed]
    sealed.rename(path)
    assert segments(tmp_path, state="open") == []
    sealed.rename(path)
    assert [each.path for each in segments(tmp_path, state="sealed")] == [sealed]


def test_a_segment_whose_names_the_look_at_the_folder_missed_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large folders are read in parts: the new name can lie in the one before, the old one in the one after."""
    write(tmp_path, HEADER, ".sealed")
    look = Path.iterdir
    looks = iter([lambda _: [], look, look])
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(next(looks)(folder)))
    assert [each.name for each in segments(tmp_path)] == [NAME]


def test_room_after_the_last_commit_is_no_part_of_a_segment(tmp_path: Path) -> None:
    content = HEADER + frame([(b"{}",)])
    path = write(tmp_path, content + room(3 << 20))
    assert list(payloads(path)) == [b"{}"]
    (adopted,), told = adopt(tmp_path)
    assert (adopted.outcome, adopted.records, adopted.lost_bytes, adopted.evidence) == ("sealed", 1, 0, None)
    assert (adopted.path.read_bytes(), told) == (content, [])


@pytest.mark.parametrize("vacant", [room(30), room(3 << 20)])
def test_behind_room_in_an_open_segment_is_what_is_being_written(tmp_path: Path, vacant: bytes) -> None:
    content = HEADER + frame([(b"1",)]) + vacant + frame([(b"2",)]) + room(100)
    damage: list[Damage] = []
    assert list(payloads(write(tmp_path, content), damage=damage.append)) == [b"1"]
    assert damage == []
    # Nobody writes to a sealed one.
    assert list(payloads(write(tmp_path, content, ".sealed"), damage=damage.append)) == [b"1", b"2"]
    assert [each.end - each.start for each in damage] == [len(vacant)]


def test_a_record_of_which_the_reader_saw_only_parts_is_being_written_too(tmp_path: Path) -> None:
    half = frame([(b'"' + b"x" * 60 + b'"',)])
    content = HEADER + frame([(b"1",)]) + half[:30] + room(30) + half[60:] + frame([(b"2",)])
    damage: list[Damage] = []
    assert list(payloads(write(tmp_path, content), damage=damage.append)) == [b"1"]
    assert damage == []
    assert list(payloads(write(tmp_path, content, ".sealed"), damage=damage.append)) == [b"1", b"2"]
    assert [each.end - each.start for each in damage] == [len(half)]


GROUPS = st.lists(
    st.lists(st.text(max_size=30).map(msgspec.json.encode), min_size=1, max_size=3), min_size=1, max_size=6
)


@given(GROUPS, st.data())
def test_an_open_segment_that_ends_anywhere_gives_its_whole_submissions(groups: list[list[bytes]], data: Any) -> None:
    whole = HEADER
    ends = [len(HEADER)]
    for group in groups:
        whole += frame([group])
        ends.append(len(whole))
    cut = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(st.sampled_from([b"", b"\0" * 30, b"\n" * 30, b"0000", b"0000\n\n\n", b"ffffffff 00000000 {"]))
    content = whole[:cut] + garbage
    # Room ends a line that lacks nothing else.
    cut += whole[cut : cut + 1] == garbage[:1] == b"\n"
    complete = [group for group, end in zip(groups, ends[1:], strict=True) if end <= cut]
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name), content)
        assert list(payloads(path)) == [payload for group in complete for payload in group]
        (adopted,), _ = adopt(Path(name))
        kept = ends[len(complete)] if cut >= len(HEADER) else 0
        assert adopted.records == sum(map(len, complete))
        rest = without_room(content[kept:])
        assert adopted.lost_bytes == len(rest)
        assert (adopted.evidence.read_bytes() if adopted.evidence is not None else b"") == rest
        if complete:
            assert adopted.path.read_bytes() == whole[:kept]
            assert [each.sealed for each in segments(Path(name))] == [True]
        else:
            assert segments(Path(name)) == []


@given(GROUPS, st.data())
def test_bytes_in_the_middle_that_are_no_record_cost_only_themselves(groups: list[list[bytes]], data: Any) -> None:
    lines = [frame([group]).splitlines(keepends=True) for group in groups]
    flat = [line for group in lines for line in group]
    last = frame([(b'"last"',)])
    broken = data.draw(st.integers(0, len(flat) - 1))
    line = bytearray(flat[broken])
    at = data.draw(st.integers(18, len(line) - 2))
    line[at] ^= data.draw(st.integers(1, 255))
    assume(not line.endswith(b"\n\n"))  # That looks like room.
    expected = [each[18:-1] for index, each in enumerate(flat) if index != broken] + [b'"last"']
    flat[broken] = bytes(line)
    content = HEADER + b"".join(flat) + last
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name), content)
        damage: list[Damage] = []
        assert list(payloads(path, damage=damage.append)) == expected
        assert [content[each.start : each.end] for each in damage] == [bytes(line)]
        with pytest.raises(UnreadableFile, match="damaged"):
            list(payloads(path))
        (adopted,), told = adopt(Path(name))
        assert (adopted.outcome, adopted.records, adopted.lost_bytes) == ("damaged", len(expected), len(line))
        assert adopted.evidence is not None
        assert adopted.evidence.read_bytes() == content
        assert list(payloads(adopted.path)) == expected
        assert "IS DAMAGED" in told[0]
        assert "acknowledged predictions are lost" in told[0]
        assert adopt(Path(name)) == ([], [])


def test_damage_within_the_last_commit_may_be_of_what_was_never_acknowledged(tmp_path: Path) -> None:
    content = HEADER + frame([(b'"one"',), (b'"two"',), (b'"three"',)])
    write(tmp_path, content.replace(b"two", b"\0\0\0"))
    _, told = adopt(tmp_path)
    assert "acknowledged predictions may be lost" in told[0]


def test_a_sealed_segment_that_lost_its_end_is_damaged_and_not_torn(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + frame([(b'"one"',), (b'"two"',)])[:-3], ".sealed")
    reading = payloads(path)
    assert next(reading) == b'"one"'
    with pytest.raises(UnreadableFile, match="damaged"):
        next(reading)


@pytest.mark.parametrize("content", [b"", HEADER, HEADER[:-4]])
def test_an_orphan_without_a_record_is_removed_and_its_bytes_kept(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    (adopted,), _ = adopt(tmp_path)
    assert (adopted.outcome, adopted.records) == ("empty", 0)
    assert not path.exists()
    rest = b"" if content == HEADER else content
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([rest] if rest else [])


def test_a_segment_of_another_format_is_left_alone(tmp_path: Path) -> None:
    content = frame([(encode(Header(worker="w", at=1, format=FORMAT + 1)),), (b"{}",)])
    path = write(tmp_path, content)
    adopted, told = adopt(tmp_path)
    assert adopted == []
    assert f"format {FORMAT + 1}" in told[0]
    assert path.read_bytes() == content
    with pytest.raises(UnreadableFile, match=f"format {FORMAT + 1}"):
        list(payloads(path))


def test_a_segment_that_was_written_a_moment_ago_is_left_to_the_workers(tmp_path: Path) -> None:
    write(tmp_path, HEADER + frame([(b"{}",)]))
    assert adopt_orphans(tmp_path, report=pytest.fail, quiet_s=3600) == []
    assert [each.outcome for each in adopt_orphans(tmp_path, report=pytest.fail)] == ["sealed"]


def test_what_was_being_made_when_its_worker_died_is_removed(tmp_path: Path) -> None:
    write(tmp_path, HEADER, ".new")
    assert adopt(tmp_path) == ([], [])
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=400), st.lists(st.integers(1, 50)))
def test_any_bytes_are_read_to_their_end_without_an_error(content: bytes, sizes: list[int]) -> None:
    left = [content]

    def read(size: int) -> bytes:
        # Reads come back short whenever they like.
        step = sizes.pop() if sizes else size
        data, left[0] = left[0][:step], left[0][step:]
        return data

    found = list(scan(read))
    assert all(one.end == two.start for one, two in pairwise(found))
    content = without_room(content)
    assert (found[0].start, found[-1].end) == (0, len(content)) if content else not found


@given(GROUPS, st.integers(1, 40))
def test_reads_of_any_size_find_the_same_records(groups: list[list[bytes]], size: int) -> None:
    left = [frame(groups)]

    def read(_: int) -> bytes:
        data, left[0] = left[0][:size], left[0][size:]
        return data

    assert [each.payload for each in scan(read)] == [payload for group in groups for payload in group]


def test_a_length_that_nothing_can_have_is_not_waited_for() -> None:
    content = b"%08x+00000000 " % (LONGEST + 1) + b"x" * 100 + b"\n" + frame([(b"{}",)])
    left = [content]

    def read(size: int) -> bytes:
        data, left[0] = left[0][:50], left[0][50:]
        return data

    assert [each.payload for each in scan(read)] == [None, b"{}"]
