"""The write-ahead log of the table of requests stays small, and no request waits while it is emptied."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pilotage.errors import LogUnavailable
from pilotage.runtime import idempotency
from pilotage.runtime.idempotency import Fresh, Idempotency, Pending, Stored
from tests.unit.runtime.sharing import BODY, Host, take

LIMIT = 1 << 18
ANSWER = bytes(10_000)


def size(host: Host) -> int:
    return (host.folder / "requests.db-wal").stat().st_size


def answer_many(worker: Idempotency, name: str) -> None:
    """Writes several times what the write-ahead log may hold."""
    for number in range(100):
        worker.finish(take(worker, f"{name}-{number}"), ANSWER, 200)


@contextmanager
def emptied(host: Host) -> Iterator[None]:
    """Another worker empties the write-ahead log meanwhile."""
    door = os.open(host.folder / "requests.door", os.O_RDWR)
    fcntl.flock(door, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(door)


def test_what_requests_write_has_it_emptied_long_before_the_next_tick(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_TICK_S", 3600.0)

    async def answer(worker: Idempotency, number: int) -> None:
        claim = await worker.admit("app", f"r-{number}", BODY, model="tiny")
        assert isinstance(claim, Fresh)
        worker.finish(claim, ANSWER, 200)

    async def answer_all(worker: Idempotency) -> None:
        for round_ in range(5):
            await asyncio.gather(*(answer(worker, 100 * round_ + number) for number in range(100)))
            deadline = time.monotonic() + 60
            while size(host) > LIMIT and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert size(host) <= LIMIT

    worker = host.worker(wal_bytes=LIMIT)
    worker.start()
    asyncio.run(answer_all(worker))
    worker.close()
    other = host.worker()
    assert {take(other, f"r-{number}") for number in range(500)} == {Stored(ANSWER, 200)}
    assert not host.told


def test_what_another_worker_wrote_counts_too(host: Host) -> None:
    one, other = host.worker(wal_bytes=LIMIT), host.worker(wal_bytes=LIMIT)
    take(one)
    answer_many(other, "other")
    assert size(host) > LIMIT
    one.maintain()
    assert size(host) <= LIMIT
    assert take(one, "other-99") == Stored(ANSWER, 200)


def test_a_small_one_is_left_alone_until_it_is_time_to_put_the_table_on_the_disk(host: Host) -> None:
    one = host.worker()
    answer_many(one, "r")
    before = size(host)
    one.maintain()
    assert size(host) == before
    one.maintain(sync=True)
    assert size(host) < before


def test_to_forget_many_empties_it_between_two_parts(host: Host) -> None:
    one = host.worker(lifetime_s=60, wal_bytes=LIMIT)
    for number in range(1600):
        one.finish(take(one, f"r-{number}"), b"answer", 200)
    one.maintain()
    host.now += 61
    one.maintain()
    assert size(host) <= LIMIT
    with closing(sqlite3.connect(host.folder / "requests.db")) as table:
        assert table.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_a_request_never_is_the_first_to_write_to_an_empty_one_since_that_waits_for_the_disk(host: Host) -> None:
    one = host.worker()
    one.maintain()
    assert size(host) > 0
    one.finish(take(one), ANSWER, 200)
    one.maintain(sync=True)
    assert 0 < size(host) < 20_000
    one.close()  # The last to close removes it.
    again = host.worker()
    again.maintain()
    assert size(host) > 0


def test_somebody_who_reads_all_the_time_keeps_it_from_being_emptied_and_it_is_said(host: Host) -> None:
    one = host.worker(wal_bytes=LIMIT)
    take(one, "first")
    with closing(sqlite3.connect(host.folder / "requests.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM requests").fetchall()
        answer_many(one, "r")
        with pytest.raises(LogUnavailable, match="somebody reads the table all the time"):
            one.maintain()
        assert take(one, "r-0") == Stored(ANSWER, 200)
        assert isinstance(take(one, "another"), Fresh)
    one.maintain()
    assert size(host) <= LIMIT


def test_whoever_is_in_the_way_for_long_is_told_of_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_QUIET", 2)
    monkeypatch.setattr(idempotency, "_RETRY_S", 0.0)
    one = host.worker()
    take(one)
    with emptied(host):
        one.start()
        deadline = time.monotonic() + 60
        while not host.told and time.monotonic() < deadline:
            time.sleep(0.01)
    one.close()
    [message] = host.told
    assert "write-ahead log is being emptied" in message


def test_a_request_that_comes_while_it_is_emptied_waits_without_blocking_the_loop(host: Host) -> None:
    one = host.worker()
    claim = take(one, "before")

    async def ask() -> None:
        with emptied(host):
            waiting = asyncio.ensure_future(one.admit("app", "r-1", BODY, model="tiny"))
            await asyncio.sleep(0)
            assert not waiting.done()
            one.finish(claim, b"answer", 200)
        assert isinstance(await waiting, Fresh)

    asyncio.run(ask())
    assert take(host.worker(), "before") == Pending()
    one.maintain()
    assert take(host.worker(), "before") == Stored(b"answer", 200)


def test_a_request_that_waited_too_long_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_PATIENCE_S", 0.0)
    one = host.worker()
    take(one)
    with emptied(host), pytest.raises(LogUnavailable, match="being emptied"):
        asyncio.run(one.admit("app", "r-2", BODY, model="tiny"))


def test_what_the_table_did_not_take_yet_is_stored_before_a_worker_ends(host: Host) -> None:
    one = host.worker()
    one.start()
    claim = take_patiently(one)
    with emptied(host):
        one.finish(claim, b"answer", 200)
    one.close()
    assert take(host.worker()) == Stored(b"answer", 200)


def take_patiently(worker: Idempotency) -> Fresh:
    claim = asyncio.run(worker.admit("app", "r-1", BODY, model="tiny"))
    assert isinstance(claim, Fresh)
    return claim


def test_two_workers_do_not_empty_it_at_once(host: Host) -> None:
    one = host.worker(wal_bytes=LIMIT)
    answer_many(one, "r")
    turn = os.open(host.folder / "requests.turn", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = size(host)
        one.maintain()
        assert size(host) == before
    finally:
        os.close(turn)
    one.maintain()
    assert size(host) <= LIMIT
