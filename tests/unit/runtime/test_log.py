"""The queue between the loop and the disk: who waits for what, and what happens when the disk is slow or gone."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pilotage.errors import LogUnavailable, RequestTooLarge
from pilotage.runtime.answer import StateRecord
from pilotage.runtime.log import PredictionLog, adopt_orphans, encode, read_segment, segments
from pilotage.runtime.log.framing import without_room
from tests.unit.runtime.disks import Disk


def state(name: str) -> bytes:
    return encode(StateRecord(state=name, model="tiny", through=None, versions={}))


def read(folder: Path) -> list[str]:
    return [record.state for segment in segments(folder) for record in read_segment(segment.path)]


@pytest.fixture(autouse=True, params=["the kernel syncs", "a thread syncs"])
def who_syncs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "kernel", request.param == "the kernel syncs")


def run(folder: Path, scenario: Callable[[PredictionLog, Disk], Awaitable[None]], **options: object) -> list[str]:
    """Runs a scenario with a started log, closes it, and gives what it reported."""
    told: list[str] = []
    disk = Disk()
    log = PredictionLog(folder, worker="w-0", report=told.append, filesystem=disk, **options)  # type: ignore[arg-type]

    async def main() -> None:
        log.start(asyncio.get_running_loop())
        try:
            await scenario(log, disk)
        finally:
            disk.go.set()
            await asyncio.to_thread(log.close, 10)

    asyncio.run(main())
    return told


def test_a_record_is_in_the_open_segment_before_its_caller_goes_on(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        for number in range(5):
            await log.submit(state(f"s{number}"))
            assert read(tmp_path) == [f"s{index}" for index in range(number + 1)]
        assert (log.committed, log.depth, log.queued_bytes) == (5, 0, 0)
        written = without_room(segments(tmp_path, state="open")[0].path.read_bytes())
        assert log.unsealed_bytes == len(written + b"\n")

    assert run(tmp_path, scenario) == []
    assert [segment.sealed for segment in segments(tmp_path)] == [True]


def test_all_who_come_during_a_commit_share_the_next_one(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("first"))
        syncs = disk.syncs
        disk.go.clear()
        leader = log.submit(state("leader"))
        while not disk.asked.acquire(blocking=False) or disk.syncs < syncs:
            await asyncio.sleep(0)
        while log.depth < 1 or not _committing(log):
            await asyncio.sleep(0)
        followers = [log.submit(state(f"s{number}")) for number in range(64)]
        assert log.depth == 65
        disk.go.set()
        await asyncio.gather(leader, *followers)
        assert disk.syncs == syncs + 2

    def _committing(log: PredictionLog) -> bool:
        return not log._queue

    run(tmp_path, scenario)
    assert read(tmp_path) == ["first", "leader", *(f"s{number}" for number in range(64))]


def test_nobody_is_left_waiting_whoever_comes_when(tmp_path: Path) -> None:
    async def caller(log: PredictionLog, name: int) -> None:
        for number in range(40):
            # Arrives at every point of a commit: at once, after one turn of the loop, after a few.
            for _ in range((name * number) % 5):
                await asyncio.sleep(0)
            await asyncio.wait_for(log.submit(state(f"{name}-{number}")), timeout=30)

    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await asyncio.gather(*(caller(log, name) for name in range(25)))
        assert log.commits < log.committed == 1000

    run(tmp_path, scenario)
    assert sorted(read(tmp_path)) == sorted(f"{name}-{number}" for name in range(25) for number in range(40))


def test_beyond_the_queue_a_hanging_disk_refuses_instead_of_eating_memory(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("before"))
        disk.go.clear()
        taken = []
        with pytest.raises(LogUnavailable, match="does not keep up"):
            while True:
                taken.append(log.submit(state("x" * 100)))
        assert not log.submit_nowait(state("x" * 100))
        assert 900 < log.queued_bytes <= 2000
        assert log.refused == 2
        disk.go.set()
        await asyncio.gather(*taken)
        await log.submit(state("after"))

    run(tmp_path, scenario, queue_bytes=2000)
    assert read(tmp_path)[-1] == "after"


def test_an_error_reaches_every_caller_of_the_batch_and_the_next_batch_is_tried(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("before"))
        disk.error = errno.EIO
        outcomes = await asyncio.gather(
            *(log.submit(state(f"lost-{number}")) for number in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [LogUnavailable] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert outcomes[0].http_status == 503
        assert str(tmp_path) not in str(outcomes[0])
        assert (log.last_error, log.refused) == ("Input/output error", 3)
        disk.error = None
        await log.submit(state("after"))
        assert log.last_error is None

    told = run(tmp_path, scenario)
    assert read(tmp_path) == ["before", "after"]
    assert any(str(tmp_path) in line and "Input/output error" in line for line in told)


def test_a_caller_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        disk.go.clear()
        gone, stays = log.submit(state("gone")), log.submit(state("stays"))
        gone.cancel()
        disk.go.set()
        await stays

    run(tmp_path, scenario)
    assert read(tmp_path) == ["gone", "stays"]


def test_records_that_nobody_waits_for_are_written_too(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        assert log.submit_nowait(state("shadow"))

    run(tmp_path, scenario)
    assert read(tmp_path) == ["shadow"]


def test_a_segment_is_sealed_when_it_is_large_and_the_next_one_begins(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        for number in range(10):
            await log.submit(state(f"s{number}"))
        assert log.segment >= 4

    run(tmp_path, scenario, segment_bytes=300)
    assert len(segments(tmp_path, state="sealed")) >= 4
    assert read(tmp_path) == [f"s{number}" for number in range(10)]


def test_a_segment_with_records_is_sealed_after_its_time_without_another_request(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("s"))
        assert await asyncio.to_thread(disk.sealed.acquire, timeout=60)
        assert [segment.sealed for segment in segments(tmp_path)] == [True]

    run(tmp_path, scenario, seal_after_s=0.05)


def test_a_log_without_a_record_leaves_no_segment(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        assert await asyncio.to_thread(disk.asked.acquire, timeout=60)

    run(tmp_path, scenario, seal_after_s=0.01)
    assert list(tmp_path.iterdir()) == []


def test_what_others_refer_to_is_at_the_start_of_every_segment(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("begins"))
        assert log.keep("tiny", state("old state"))
        assert log.keep("tiny", state("old state"))
        assert log.keep("tiny", state("state"))
        for number in range(6):
            await log.submit(state(f"s{number}"))

    run(tmp_path, scenario, segment_bytes=400)
    first, *others = [[record.state for record in read_segment(each.path)] for each in segments(tmp_path)]
    assert first[:3] == ["begins", "old state", "state"]
    assert len(others) >= 2
    assert {each[0] for each in others} == {"state"}
    assert [name for each in (first, *others) for name in each if name[1:].isdigit()] == [f"s{n}" for n in range(6)]


def test_close_commits_what_is_queued_and_refuses_what_comes_after(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        waiting = [log.submit(state(f"s{number}")) for number in range(20)]
        await asyncio.to_thread(log.close, 10)
        await asyncio.gather(*waiting)
        with pytest.raises(LogUnavailable, match="stopping"):
            log.submit(state("late"))

    run(tmp_path, scenario)
    assert read(tmp_path) == [f"s{number}" for number in range(20)]
    assert [segment.sealed for segment in segments(tmp_path)] == [True]


def test_close_keeps_its_bound_when_the_disk_hangs_and_tells_those_it_did_not_write(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("before"))
        disk.go.clear()
        while disk.asked.acquire(blocking=False):
            pass
        being_written = log.submit(state("being written"))
        await asyncio.to_thread(disk.asked.acquire)
        queued = log.submit(state("queued"))
        await asyncio.to_thread(log.close, 0.05)
        with pytest.raises(LogUnavailable, match="stopped before the disk answered"):
            await queued
        assert not being_written.done()
        disk.go.set()
        await being_written

    told = run(tmp_path, scenario)
    assert read(tmp_path) == ["before", "being written"]
    assert "1 submissions refused" in told[0]


def test_a_living_worker_is_no_orphan(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("s"))
        assert adopt_orphans(tmp_path, report=pytest.fail) == []
        assert [segment.sealed for segment in segments(tmp_path)] == [False]

    run(tmp_path, scenario)


def test_a_folder_that_can_not_be_made_shows_at_once_and_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def scenario(log: PredictionLog, disk: Disk) -> None:
        with pytest.raises(LogUnavailable):
            await log.submit(state("s"))
        assert log.last_error is not None

    told = run(tmp_path / "file" / "log", scenario)
    assert len(told) == 1


@pytest.mark.parametrize("payload", [b"two\nlines", b"x" * (1 << 25)])
def test_what_does_not_fit_on_a_line_is_refused(tmp_path: Path, payload: bytes) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        with pytest.raises(RequestTooLarge):
            log.submit(payload)

    run(tmp_path, scenario)


@pytest.mark.parametrize("worker", ["", "a/b", "../w", "w 0", "ü"])
def test_a_worker_has_a_name_that_can_be_a_files(tmp_path: Path, worker: str) -> None:
    with pytest.raises(ValueError, match="worker's name"):
        PredictionLog(tmp_path, worker=worker, report=print)


def test_a_first_segment_that_fails_in_a_way_nobody_thought_of_strands_nobody(tmp_path: Path) -> None:
    class Broken(Disk):
        broken = True

        def create(self, path: Path) -> int:
            if self.broken:
                raise ZeroDivisionError
            return super().create(path)

    told: list[str] = []

    async def main() -> None:
        log = PredictionLog(tmp_path, worker="w", report=told.append, filesystem=(disk := Broken()))
        log.start(asyncio.get_running_loop())
        with pytest.raises(LogUnavailable, match="ZeroDivisionError"):
            await log.submit(state("too early"))
        disk.broken = False
        await log.submit(state("after"))
        await asyncio.to_thread(log.close, 10)

    asyncio.run(main())
    assert read(tmp_path) == ["after"]
    assert all("the writer failed: ZeroDivisionError()" in line for line in told)


def test_a_writer_that_fails_in_a_way_nobody_thought_of_strands_nobody(tmp_path: Path) -> None:
    class Broken(Disk):
        def write(self, file: int, data: bytes | memoryview, at: int) -> int:
            if b"poison" in bytes(data):
                raise ZeroDivisionError
            return super().write(file, data, at)

    told: list[str] = []

    async def main() -> None:
        log = PredictionLog(tmp_path, worker="w", report=told.append, filesystem=Broken())
        log.start(asyncio.get_running_loop())
        await log.submit(state("before"))
        with pytest.raises(LogUnavailable, match="ZeroDivisionError"):
            await log.submit(state("poison"))
        await log.submit(state("after"))
        await asyncio.to_thread(log.close, 10)

    asyncio.run(main())
    assert read(tmp_path) == ["before", "after"]
    assert "ZeroDivisionError" in told[0]


def test_a_report_that_fails_stops_nothing(tmp_path: Path) -> None:
    def report(_: str) -> None:
        raise BrokenPipeError

    async def main() -> None:
        disk = Disk()
        log = PredictionLog(tmp_path, worker="w", report=report, filesystem=disk)
        log.start(asyncio.get_running_loop())
        await log.submit(state("before"))
        disk.error = errno.EIO
        with pytest.raises(LogUnavailable):
            await log.submit(state("lost"))
        disk.error = None
        await log.submit(state("after"))
        await asyncio.to_thread(log.close, 10)

    asyncio.run(main())
    assert read(tmp_path) == ["before", "after"]


def test_one_caller_that_can_not_be_told_keeps_nobody_from_being_told(tmp_path: Path) -> None:
    told: list[str | None] = []

    def fails(_: str | None) -> None:
        raise ValueError("of the caller's own")

    async def scenario(log: PredictionLog, disk: Disk) -> None:
        log.submit_then(fails, state("one"))
        log.submit_then(told.append, state("two"))
        await log.submit(state("three"))

    assert any("of the caller's own" in line for line in run(tmp_path, scenario))
    assert told == [None]
    assert read(tmp_path) == ["one", "two", "three"]


def test_who_waits_in_no_task_is_told_why_a_record_is_not_there(tmp_path: Path) -> None:
    told: list[str | None] = []

    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(state("before"))
        disk.error = errno.EIO
        log.submit_then(told.append, state("lost"))
        while not told:
            await asyncio.sleep(0)
        disk.error = None

    run(tmp_path, scenario)
    assert told == ["Input/output error"]
