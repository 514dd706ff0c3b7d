"""Whoever has a request dies: what the next one finds of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from pilotage.errors import RequestConflict
from pilotage.runtime.idempotency import Fresh, Logged, Pending, Stored
from tests.unit.runtime.sharing import Host, prediction, take


def test_an_owner_that_died_before_it_logged_is_succeeded(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    host.die(one)
    assert take(other) == Pending()
    other.maintain()
    assert isinstance(take(other), Fresh)


@pytest.mark.parametrize("suffix", [".open", ".sealed"])
def test_an_owner_that_died_after_it_logged_leaves_its_prediction_to_the_next(host: Host, suffix: str) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    logged = (prediction("p-1"), prediction("p-2"))
    host.write(*logged, suffix=suffix)
    host.write(prediction("p-3", caller="another app"))
    host.die(one)
    other.maintain()
    claim = take(other)
    assert isinstance(claim, Logged)
    assert claim.records == logged
    assert take(other) == Pending()
    other.finish(claim, b"answer", 200)
    assert take(other) == Stored(b"answer", 200)


@pytest.mark.parametrize("back_s", [5, 3000])
def test_a_clock_that_is_set_back_during_a_request_does_not_hide_its_prediction(host: Host, back_s: float) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    host.now -= back_s
    path = host.write(prediction("p-1", at=int(host.now * 1e6)))
    os.utime(path, (host.now, host.now))
    host.die(one)
    other.maintain()
    claim = take(other)
    assert isinstance(claim, Logged)
    assert [record.prediction_id for record in claim.records] == ["p-1"]


def test_what_is_found_in_the_log_stays_found_when_the_log_has_moved_on_and_the_successor_dies_too(host: Host) -> None:
    one, other, third = host.worker(), host.worker(), host.worker()
    take(one)
    path = host.write(prediction("p-1"))
    host.die(one)
    other.maintain()
    path.unlink()
    assert isinstance(take(other), Logged)
    host.die(other)
    third.maintain()
    claim = take(third)
    assert isinstance(claim, Logged)
    assert claim.records == (prediction("p-1"),)
    third.abandon(claim)
    assert isinstance(take(third), Logged)


def test_a_request_whose_owner_left_no_trace_is_looked_up_once_it_is_asked_for(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    host.write(prediction("p-1"))
    other.maintain()
    host.die(one)
    leave_no_trace(host)
    assert take(other) == Pending()
    other.maintain()
    assert isinstance(take(other), Logged)


def test_whoever_begins_looks_for_requests_whose_owners_left_no_trace_before_the_log_moves_on(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    path = host.write(prediction("p-1"))
    host.die(one)
    leave_no_trace(host)
    other.maintain()
    path.unlink()
    assert isinstance(take(other), Logged)


def test_a_request_whose_owner_left_no_trace_is_forgotten_in_time_if_nobody_asks_for_it(host: Host) -> None:
    one, other = host.worker(lifetime_s=60), host.worker(lifetime_s=60)
    take(one)
    other.maintain()
    host.die(one)
    leave_no_trace(host)
    host.now += 61
    other.maintain()  # Notices it,
    other.maintain()  # looks it up.
    with closing(sqlite3.connect(host.folder / "requests.db")) as table:
        assert table.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def leave_no_trace(host: Host) -> None:
    """As if a crash of the machine had brought back rows whose owners had been buried."""
    for path in (host.folder / "workers").iterdir():
        path.unlink()


def test_half_a_submission_counts_as_not_logged(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    path = host.write(prediction("p-1"), prediction("p-2"))
    path.write_bytes(path.read_bytes()[:-5])
    host.die(one)
    other.maintain()
    assert isinstance(take(other), Fresh)


def test_the_living_are_left_alone(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    host.write(prediction("p-1"))
    other.maintain()
    assert take(other) == Pending()


def test_a_table_that_a_crash_of_the_machine_set_back_is_completed_from_the_log(host: Host) -> None:
    one = host.worker()
    one.finish(take(one, "known"), b"answer", 200)
    one.maintain(sync=True)
    one.close()
    connection = sqlite3.connect(host.folder / "requests.db")
    connection.execute("UPDATE synced SET boot = 'the boot before'")
    connection.commit()
    connection.close()
    at = int(host.now * 1e6)
    host.write(prediction("p-0", request_id="known", at=at), suffix=".sealed")
    host.write(prediction("p-1", request_id="lost", at=at), suffix=".sealed")
    again = host.worker()
    assert take(again, "known") == Stored(b"answer", 200)
    claim = take(again, "lost")
    assert isinstance(claim, Logged)
    assert [record.prediction_id for record in claim.records] == ["p-1"]
    again.finish(claim, b"answer", 200)
    with pytest.raises(RequestConflict):
        take(again, "lost", body=b"other" * 6)


CHILD = """
import sys
from pathlib import Path
from pilotage.errors import LogUnavailable
from pilotage.runtime.idempotency import Idempotency
from pilotage.runtime.requests_table import RequestsTable, is_busy

folder = Path(sys.argv[1])
worker = Idempotency(RequestsTable(folder, log=folder / "log", report=print), report=print)

def begin(number):
    while True:
        try:
            return type(worker.begin("app", f"r-{number}", b"body", model="tiny")).__name__
        except LogUnavailable as error:
            # The other one makes the table, or writes.
            if not is_busy(error):
                raise

print(*map(begin, range(200)), flush=True)
sys.stdin.read()
"""


def start(host: Host) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(host.folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_owns_each_request_and_a_killed_one_is_succeeded(host: Host) -> None:
    children = [start(host), start(host)]
    try:
        outcomes = [(child.stdout or sys.stdin).readline().split() for child in children]
        assert [sorted(pair) for pair in zip(*outcomes, strict=True)] == [["Fresh", "Pending"]] * 200
    finally:
        for child in children:
            child.kill()
            child.communicate()
    host.write(prediction("p-7", request_id="r-7", at=2 * 10**15))

    async def ask_all() -> list[str]:
        survivor = host.real_worker()
        survivor.start()
        try:
            waiting = [survivor.admit("app", f"r-{number}", b"body", model="tiny") for number in range(200)]
            return [type(outcome).__name__ for outcome in await asyncio.gather(*waiting)]
        finally:
            survivor.close()

    assert asyncio.run(ask_all()) == ["Logged" if number == 7 else "Fresh" for number in range(200)]
    # The survivor's own folder entry is all that is left of three processes.
    assert len(list((host.folder / "workers").iterdir())) == 1
