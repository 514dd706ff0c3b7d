"""What the prediction log costs: records per second and CPU a record, by the number of callers that wait for it.

Each caller submits a record, waits until it is on the disk, and submits the next, on uvloop as in the service. In the
same run: the same loop with nothing to wait for (what the harness itself costs), and one sync a record on the loop's
own thread. The CPU is the whole process's, its writing thread included. Then how fast a segment is read again.
Run ``python -m tests.bench.bench_log``; figures move with the disk and with whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.log import PredictionLog, encode, payloads, read_segment, segments
from pilotage.runtime.log.framing import frame

RECORD = PredictionRecord(
    prediction_id="5f0c1e6a9b3d4c7e8f102132",
    request_id="d41d8cd98f00b204e9800998",
    model="flight_delay",
    entity={"carrier": "UA", "flight": 1545, "origin": "EWR", "scheduled": "2013-01-01T10:15:00Z"},
    at=1_700_000_000_000_000,
    moment=1_700_000_000_000_000,
    version=12,
    stage="champion",
    answered_by="model",
    probability=0.218375829,
    decision=False,
    referred=False,
    reasons=(),
    latency_us=143,
    caller="key-0001",
    request={f"field_{number}": number * 1.37 for number in range(10)},
    features={f"feature_of_some_name_{number}": number * 0.7310582 for number in range(22)},
    state="7c1e",
)
CALLERS = (1, 16, 64)
SECONDS = 1.5
ROUNDS = 3


@contextmanager
def nothing(_: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[bytes], Awaitable[None]]]:
    def submit(_: bytes) -> Awaitable[None]:
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    yield submit


@contextmanager
def sync_each(folder: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[bytes], Awaitable[None]]]:
    file = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def submit(payload: bytes) -> Awaitable[None]:
        os.write(file, frame([(payload,)]))
        os.fdatasync(file)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    yield submit
    os.close(file)


@contextmanager
def group_commit(folder: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[bytes], Awaitable[None]]]:
    log = PredictionLog(folder, worker="bench", report=print, segment_bytes=1 << 30)
    log.start(loop)
    yield log.submit
    log.close(10)


Way = Callable[[Path, asyncio.AbstractEventLoop], object]


def measure(way: Way, callers: int) -> tuple[float, float, float]:
    """Records per second, CPU µs a record, median ms that a caller waited."""
    payload = encode(RECORD)
    waited: list[float] = []

    async def caller(submit: Callable[[bytes], Awaitable[None]], until: float) -> None:
        now = time.perf_counter()
        while now < until:
            await submit(payload)
            before, now = now, time.perf_counter()
            waited.append(now - before)

    async def main(folder: Path) -> tuple[float, float]:
        with way(folder, asyncio.get_running_loop()) as submit:  # type: ignore[attr-defined]
            await submit(payload)
            started, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(caller(submit, started + SECONDS) for _ in range(callers)))
            return time.perf_counter() - started, time.process_time() - cpu

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        seconds, cpu = uvloop.run(main(Path(folder)))
    return len(waited) / seconds, cpu / len(waited) * 1e6, sorted(waited)[len(waited) // 2] * 1e3


def best(way: Way, callers: int) -> tuple[float, float, float]:
    """Of a few rounds the one with the least CPU: others of the machine can only add."""
    return min((measure(way, callers) for _ in range(ROUNDS)), key=lambda found: found[1])


def reading() -> None:
    records = 100_000
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "w-20240301T120000.000000Z-000001.open"
        payload = encode(RECORD)
        path.write_bytes(frame([(payload,)] * records))
        found = segments(Path(name))[0].path
        for what, read in (("payloads", payloads), ("records", read_segment)):
            seconds = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                assert sum(1 for _ in read(found)) == records
                seconds.append(time.perf_counter() - started)
            print(f"read {what}: {records / min(seconds):,.0f} a second")
    encodes = 100_000
    started = time.perf_counter()
    for _ in range(encodes):
        encode(RECORD)
    print(f"encode: {(time.perf_counter() - started) / encodes * 1e6:.1f} µs a record of {len(payload):,} bytes")


def main() -> None:
    print(f"{'callers':>8}{'log':>14}{'records/s':>12}{'CPU µs':>9}{'of it log':>11}{'median ms':>11}")
    for callers in CALLERS:
        base = best(nothing, callers)
        each = best(sync_each, callers)
        group = best(group_commit, callers)
        for name, found in (("none", base), ("a sync each", each), ("group commit", group)):
            print(
                f"{callers:>8}{name:>14}{found[0]:>12,.0f}{found[1]:>9.1f}{found[1] - base[1]:>11.1f}{found[2]:>11.2f}"
            )
        print(f"{'':>8}group commit against a sync each: {group[0] / each[0]:.1f} times the records per second")
    reading()


if __name__ == "__main__":
    main()
