"""The same request id: the same answer, one log row, whoever dies in between."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import LogUnavailable, RequestConflict, TimedOut
from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.idempotency import Fresh, Idempotency, Logged, Pending, Stored
from pilotage.runtime.log import encode
from pilotage.runtime.log.framing import frame
from pilotage.runtime.log.segments import Header
from pilotage.runtime.requests_table import RequestsTable

BODY = hashlib.sha256(b'{"amount": 1}').digest()


def prediction(
    prediction_id: str, *, request_id: str = "r-1", caller: str = "app", at: int = 10**15
) -> PredictionRecord:
    return PredictionRecord(
        prediction_id=prediction_id,
        request_id=request_id,
        model="tiny",
        entity={},
        at=at,
        moment=None,
        version=1,
        stage="champion",
        answered_by="model",
        probability=0.5,
        decision=True,
        referred=False,
        reasons=(),
        latency_us=1,
        caller=caller,
        request={},
        features=None,
        state=None,
    )


class Host:
    """Workers that share a folder; each can die, which leaves what it owned as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.mkdir()
        self.now = 10.0**9
        self.told: list[str] = []
        self._segments = 0
        self._workers: list[Idempotency] = []

    def worker(self, **more: float) -> Idempotency:
        worker = self.real_worker(clock=lambda: self.now, **more)
        self._workers.append(worker)
        return worker

    def real_worker(self, **more: Any) -> Idempotency:
        """By the real clock, unless told otherwise."""
        table = RequestsTable(self.folder, log=self.log, report=self.told.append, **more)
        return Idempotency(table, report=self.told.append)

    def die(self, worker: Idempotency) -> None:
        worker.close()

    def write(self, *records: PredictionRecord, suffix: str = ".open") -> Path:
        """Logs what a worker submitted at once, as the log of a dead worker."""
        self._segments += 1
        path = self.log / f"w-20010909T014640.000000Z-{self._segments:06d}{suffix}"
        header = encode(Header(worker="w", at=0))
        path.write_bytes(frame([(header,)]) + frame([tuple(encode(record) for record in records)]))
        return path

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def take(worker: Idempotency, request_id: str = "r-1", *, body: bytes = BODY, caller: str = "app", model: str = "tiny"):
    return worker.begin(caller, request_id, body, model=model)


def test_the_first_asker_predicts_and_every_later_one_gets_its_bytes_from_any_worker(host: Host) -> None:
    one, other = host.worker(), host.worker()
    claim = take(one)
    assert isinstance(claim, Fresh)
    one.finish(claim, b'{"probability": 0.5}', 200)
    assert take(one) == take(other) == Stored(b'{"probability": 0.5}', 200)


def test_whoever_asks_while_the_first_is_at_it_waits(host: Host) -> None:
    one, other = host.worker(), host.worker()
    claim = take(one)
    assert take(one) == take(other) == Pending()
    one.finish(claim, b"answer", 200)
    assert take(other) == Stored(b"answer", 200)


async def _both(one: Idempotency, other: Idempotency) -> None:
    claim = await one.admit("app", "r-1", BODY, model="tiny")
    assert isinstance(claim, Fresh)
    waiting = asyncio.ensure_future(other.admit("app", "r-1", BODY, model="tiny"))
    await asyncio.sleep(0)
    assert not waiting.done()
    one.finish(claim, b"answer", 200)
    assert await waiting == Stored(b"answer", 200)


def test_admit_waits_without_blocking_the_loop(host: Host) -> None:
    asyncio.run(_both(host.worker(), host.worker()))


def test_admit_gives_up_when_the_first_takes_too_long(host: Host) -> None:
    one, other = host.worker(), host.worker()
    take(one)
    with pytest.raises(TimedOut, match="'r-1'"):
        asyncio.run(other.admit("app", "r-1", BODY, model="tiny", timeout_s=0))


def test_the_same_id_with_another_body_is_a_conflict_before_and_after_the_answer(host: Host) -> None:
    one, other = host.worker(), host.worker()
    claim = take(one)
    with pytest.raises(RequestConflict, match="another content"):
        take(other, body=b"other" * 6)
    one.finish(claim, b"answer", 200)
    with pytest.raises(RequestConflict):
        take(one, body=b"other" * 6)


def test_ids_of_another_caller_or_model_are_other_requests(host: Host) -> None:
    one = host.worker()
    one.finish(take(one), b"answer", 200)
    assert isinstance(take(one, caller="another app"), Fresh)
    assert isinstance(take(one, model="another model"), Fresh)


def test_a_request_that_was_given_up_is_taken_by_the_next(host: Host) -> None:
    one, other = host.worker(), host.worker()
    one.abandon(take(one))
    assert isinstance(take(other), Fresh)


def test_a_request_that_was_logged_but_not_answered_is_answered_from_its_records(host: Host) -> None:
    one, other = host.worker(), host.worker()
    logged = (prediction("p-1"), prediction("p-2"))
    one.hand_on(take(one), [encode(record) for record in logged])
    claim = take(other)
    assert isinstance(claim, Logged)
    assert claim.records == logged


def test_a_late_finish_of_a_request_that_was_given_up_reaches_no_other_request(host: Host) -> None:
    one = host.worker()
    late = take(one, "r-1")
    one.abandon(late)
    take(one, "r-2")
    one.finish(late, b"answer to r-1", 200)
    assert take(one, "r-2") == Pending()


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


def test_ids_are_forgotten_after_their_time_and_may_then_be_used_for_another_body(host: Host) -> None:
    one = host.worker(lifetime_s=60)
    one.finish(take(one), b"answer", 200)
    host.now += 59
    one.maintain()
    assert take(one) == Stored(b"answer", 200)
    host.now += 2
    assert isinstance(take(one, body=b"other" * 6), Fresh)


def test_what_expired_is_deleted_and_what_is_under_way_is_not(host: Host) -> None:
    one = host.worker(lifetime_s=60)
    for number in range(1200):
        one.finish(take(one, f"r-{number}"), b"answer", 200)
    take(one, "under way")
    host.now += 61
    one.finish(take(one, "new"), b"answer", 200)
    one.maintain(sync=True)
    assert ids(host) == ["under way", "new"]


def test_beyond_the_bound_the_oldest_are_forgotten_first(host: Host) -> None:
    one = host.worker(at_most=10)
    for number in range(25):
        one.finish(take(one, f"r-{number}"), b"answer", 200)
    one.maintain(sync=True)
    assert ids(host) == [f"r-{number}" for number in range(15, 25)]


def ids(host: Host) -> list[str]:
    connection = sqlite3.connect(host.folder / "requests.db")
    try:
        return [row[0] for row in connection.execute("SELECT request_id FROM requests ORDER BY id")]
    finally:
        connection.close()


def test_a_damaged_table_refuses_and_says_what_to_do(host: Host) -> None:
    (host.folder / "requests.db").write_bytes(b"no database" * 1000)
    with pytest.raises(LogUnavailable, match=r"runbooks/prediction-log\.md") as caught:
        take(host.worker())
    assert caught.value.http_status == 503


def test_an_answer_that_the_table_does_not_take_is_kept_and_stored_later(host: Host) -> None:
    one, other = host.worker(), host.worker()
    claim = take(one)
    blocker = sqlite3.connect(host.folder / "requests.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    one.finish(claim, b"answer", 200)
    with pytest.raises(LogUnavailable):
        take(other)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert take(one) == Stored(b"answer", 200)
    assert take(other) == Pending()
    one.maintain()
    assert take(other) == Stored(b"answer", 200)


def test_the_table_is_readable_for_its_user_alone(host: Host) -> None:
    take(host.worker())
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in host.folder.glob("requests.db*")} == dict.fromkeys(
        ["requests.db", "requests.db-wal", "requests.db-shm"], "0o0"
    )


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
from pilotage.runtime.idempotency import Idempotency
from pilotage.runtime.requests_table import RequestsTable

folder = Path(sys.argv[1])
worker = Idempotency(RequestsTable(folder, log=folder / "log", report=print), report=print)
print(*(type(worker.begin("app", f"r-{number}", b"body", model="tiny")).__name__ for number in range(200)), flush=True)
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


@settings(max_examples=40)
@given(st.data())
def test_any_interleaving_of_workers_and_deaths_logs_a_request_once_and_answers_it_alike(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        try:
            _interleave(host, data)
        finally:
            host.close()


def _interleave(host: Host, data: st.DataObject) -> None:
    """Two requests, three workers, each step of each in any order; a worker dies at any point, and another comes."""
    names = ["a", "b"]
    logged: dict[str, list[str]] = {name: [] for name in names}
    answers: dict[str, set[bytes]] = {name: set() for name in names}
    workers = [host.worker() for _ in range(3)]
    tasks: dict[int, list[tuple[str, Iterator[None]]]] = {id(worker): [] for worker in workers}

    def serve(worker: Idempotency, name: str) -> Iterator[None]:
        while isinstance(outcome := take(worker, name), Pending):
            yield
        if isinstance(outcome, Stored):
            answers[name].add(outcome.body)
            return
        yield
        if isinstance(outcome, Fresh):
            if data.draw(st.sampled_from(["logs", "logs", "can't log"])) == "can't log":
                worker.abandon(outcome)
                return
            logged[name].append(f"p-{sum(map(len, logged.values()))}")
            host.write(prediction(logged[name][-1], request_id=name))
            body = logged[name][-1].encode()
        else:
            body = outcome.records[0].prediction_id.encode()
        yield
        worker.finish(outcome, body, 200)
        yield
        answers[name].add(body)

    for _ in range(data.draw(st.integers(10, 40))):
        worker = data.draw(st.sampled_from(workers))
        mine = tasks[id(worker)]
        step = data.draw(st.sampled_from(["ask", "go on", "go on", "go on", "maintain", "die"]))
        if step == "ask":
            name = data.draw(st.sampled_from(names))
            mine.append((name, serve(worker, name)))
        elif step == "go on" and mine:
            task = data.draw(st.sampled_from(mine))
            if next(task[1], "done") == "done":
                mine.remove(task)
        elif step == "maintain":
            worker.maintain()
        elif step == "die":
            host.die(worker)
            workers.remove(worker)
            workers.append(host.worker())
            tasks[id(workers[-1])] = []
    last = workers[-1]
    for worker in workers[:-1]:
        host.die(worker)
    last.maintain()
    tasks[id(last)] += [(name, serve(last, name)) for name in names]
    while pending := tasks[id(last)]:
        if next(pending[0][1], "done") == "done":
            pending.pop(0)
        else:
            pending.append(pending.pop(0))
    for name in names:
        assert len(logged[name]) <= 1
        assert answers[name] <= {each.encode() for each in logged[name]}
