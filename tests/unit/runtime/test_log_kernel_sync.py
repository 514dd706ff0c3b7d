"""Commits that the loop begins and the kernel syncs: what is different from a thread that waits for the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pilotage.errors import LogUnavailable
from pilotage.runtime.log import PredictionLog, kernel_sync, payloads, segments
from pilotage.runtime.log.files import RealFiles
from pilotage.runtime.log.kernel_sync import KernelSync, calls_of_this_machine, open_kernel_sync

pytestmark = pytest.mark.skipif(open_kernel_sync() is None, reason="this kernel syncs only for who waits")


class Refusing(KernelSync):
    """A kernel without room."""

    def start(self, file: int) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class Disk(RealFiles):
    """The real one, which counts who syncs, and can be full."""

    def __init__(self, kernel: KernelSync | None = None) -> None:
        self.kernel = kernel or KernelSync(calls_of_this_machine())
        self.writers: list[str] = []
        """Threads that wrote."""
        self.waited = 0
        """Syncs that a thread waited for."""
        self.full = False

    def kernel_sync(self) -> KernelSync | None:
        return self.kernel

    def sync(self, file: int) -> None:
        self.waited += 1
        super().sync(file)

    def write(self, file: int, data: bytes | memoryview, at: int) -> int:
        self.writers.append(threading.current_thread().name)
        if self.full:
            super().write(file, bytes(data)[:5], at)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file, data, at)


def run(
    folder: Path, disk: Disk, scenario: Callable[[PredictionLog, Disk], Awaitable[None]], **options: object
) -> list[str]:
    """Runs a scenario with a log that has begun its segment, and gives what is in the log afterwards."""

    async def main() -> None:
        log = PredictionLog(folder, worker="w-0", report=lambda _: None, filesystem=disk, **options)  # type: ignore[arg-type]
        log.start(asyncio.get_running_loop())
        try:
            while not segments(folder, state="open") or not (log._committer and log._committer.idle):
                await asyncio.sleep(0.001)
            disk.waited, disk.writers = 0, []
            await scenario(log, disk)
        finally:
            await asyncio.to_thread(log.close, 10)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert not segments(folder, state="open")
    return read(folder)


def read(folder: Path) -> list[str]:
    return [payload.decode() for segment in segments(folder) for payload in payloads(segment.path)]


def test_the_loop_writes_and_no_thread_waits_for_the_disk(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        number = 0
        # The thread looks when the segment is to be sealed, and takes what it finds meanwhile.
        while disk.writers[-18:] != [threading.current_thread().name] * 18:
            assert number < 500, disk.writers
            await log.submit(b'"%d"' % number)
            assert read(tmp_path)[-1] == f'"{number}"'
            number += 1
        assert (log.committed, log.commits, disk.waited) == (
            number,
            number,
            number - disk.writers.count(threading.current_thread().name),
        )

    written = run(tmp_path, Disk(), scenario)
    assert written == [f'"{number}"' for number in range(len(written))]


def test_who_comes_in_the_turns_after_shares_the_commit(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, _: Disk) -> None:
        waiting = []
        for number in range(10):
            waiting.append(log.submit(b'"%d"' % number))
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert log.commits == 1

    assert len(run(tmp_path, Disk(), scenario)) == 10


def test_those_who_never_stop_coming_do_not_hold_up_the_first(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, _: Disk) -> None:
        first = log.submit(b'"first"')
        rest = []
        while not first.done():
            rest.append(log.submit(b'"rest"'))
            await asyncio.sleep(0)
            assert len(rest) < 100_000
        await asyncio.gather(*rest)
        assert log.commits > 1

    assert run(tmp_path, Disk(), scenario)[0] == '"first"'


def test_a_full_disk_refuses_and_the_same_segment_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        await log.submit(b'"before"')
        disk.full = True
        with pytest.raises(LogUnavailable, match="No space left"):
            await log.submit(b'"lost"')
        disk.full = False
        await log.submit(b'"after"')
        assert log.segment == 1

    assert run(tmp_path, Disk(), scenario) == ['"before"', '"after"']


def test_a_kernel_without_room_leaves_it_to_the_thread(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, disk: Disk) -> None:
        for number in range(5):
            await log.submit(b'"%d"' % number)
        assert disk.waited == 5

    assert len(run(tmp_path, Disk(Refusing(calls_of_this_machine())), scenario)) == 5


def test_a_segment_that_somebody_removed_refuses_what_was_written_to_it(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, _: Disk) -> None:
        segments(tmp_path, state="open")[0].path.unlink()
        with pytest.raises(LogUnavailable, match="removed by somebody"):
            await log.submit(b'"lost"')
        await log.submit(b'"kept"')

    assert run(tmp_path, Disk(), scenario) == ['"kept"']


def test_segments_are_sealed_by_size_and_by_age_while_the_loop_commits(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, _: Disk) -> None:
        await asyncio.gather(*(log.submit(b'"%300d"' % number) for number in range(8)))
        while not segments(tmp_path, state="sealed"):
            await asyncio.sleep(0.001)
        await log.submit(b'"the next"')
        await log.submit(b'"ages"')
        while len(segments(tmp_path, state="sealed")) < 2:
            await asyncio.sleep(0.001)

    assert len(run(tmp_path, Disk(), scenario, segment_bytes=2000, seal_after_s=0.05)) == 10


def test_a_segment_of_the_loops_is_sealed_by_age_without_another_request(tmp_path: Path) -> None:
    async def scenario(log: PredictionLog, _: Disk) -> None:
        await log.submit(b'"one"')
        while not segments(tmp_path, state="sealed"):
            await asyncio.sleep(0.001)

    assert run(tmp_path, Disk(), scenario, seal_after_s=0.05) == ['"one"']


@pytest.mark.parametrize("turns", range(6))
def test_close_ends_what_the_loop_began_though_the_loop_stands_still(tmp_path: Path, turns: int) -> None:
    told: list[str] = []

    async def main() -> None:
        log = PredictionLog(tmp_path, worker="w-0", report=told.append, filesystem=Disk())
        log.start(asyncio.get_running_loop())
        while not (segments(tmp_path, state="open") and log._committer and log._committer.idle):
            await asyncio.sleep(0.001)
        waiting = [log.submit(b'"%d"' % number) for number in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        log.close(10)
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert told == [], "it ended in time"
    assert read(tmp_path) == ['"0"', '"1"', '"2"']
    assert not segments(tmp_path, state="open")


def test_what_is_acknowledged_is_there_whatever_fails_when(tmp_path: Path) -> None:
    class Moody(Disk):
        turn = 0

        def write(self, file: int, data: bytes | memoryview, at: int) -> int:
            self.turn += 1
            self.full = self.turn % 5 == 0
            return super().write(file, data, at)

    class Failing(KernelSync):
        turn = 0

        def result(self) -> int | None:
            number = super().result()
            if number is None:
                return None
            self.turn += 1
            return errno.EIO if self.turn % 7 == 0 else number

    acknowledged: list[str] = []
    refused: list[str] = []

    async def caller(log: PredictionLog, name: int) -> None:
        for number in range(60):
            for _ in range((name * number) % 4):
                await asyncio.sleep(0)
            text = f'"{name}/{number}"'
            try:
                await log.submit(text.encode())
            except LogUnavailable:
                refused.append(text)
            else:
                acknowledged.append(text)

    async def scenario(log: PredictionLog, _: Disk) -> None:
        await asyncio.gather(*(caller(log, name) for name in range(8)))
        assert log.refused == len(refused)

    found = run(tmp_path, Moody(Failing(calls_of_this_machine())), scenario, segment_bytes=3000)
    assert sorted(found) == sorted(acknowledged)
    assert refused


def test_without_such_a_kernel_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sync, "_CALLS", {})
    assert open_kernel_sync() is None
    # Numbers of no system call, as a sandbox answers that knows none of them.
    monkeypatch.setattr(kernel_sync, "calls_of_this_machine", lambda: kernel_sync.Calls(9001, 9002, 9003, 9004))
    assert open_kernel_sync() is None


def test_a_file_that_is_none_is_refused_at_once() -> None:
    sync = open_kernel_sync()
    assert sync is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync.start(2**20)
    assert sync.result() is None
    sync.close()


def test_an_error_of_the_sync_is_told_by_its_number() -> None:
    sync = open_kernel_sync()
    assert sync is not None
    sync._event.result = -errno.EIO
    assert sync._over() == errno.EIO
    sync.close()


def test_whoever_syncs_in_a_way_of_its_own_is_not_passed_by() -> None:
    class Own(RealFiles):
        def sync(self, file: int) -> None:
            """Does not."""

    assert Own().kernel_sync() is None
