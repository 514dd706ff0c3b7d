"""The same request id: the same answer, one log row, whichever worker is asked."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import LogUnavailable, RequestConflict, TimedOut
from pilotage.runtime.idempotency import Fresh, Idempotency, Logged, Pending, Stored
from pilotage.runtime.log import encode
from tests.unit.runtime.sharing import BODY, Host, prediction, take


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
