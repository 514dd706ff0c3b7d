"""The table of requests: what it forgets, who may read it, and how large its write-ahead log gets."""

from __future__ import annotations

import sqlite3

import pytest

from pilotage.errors import LogUnavailable
from pilotage.runtime.idempotency import Fresh, Stored
from tests.unit.runtime.sharing import Host, take


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


def test_the_table_is_readable_for_its_user_alone(host: Host) -> None:
    take(host.worker())
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in host.folder.glob("requests.db*")} == dict.fromkeys(
        ["requests.db", "requests.db-wal", "requests.db-shm"], "0o0"
    )
