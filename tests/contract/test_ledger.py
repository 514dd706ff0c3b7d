"""What every ledger does: the real one and the one in memory."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from pilotage.errors import ConfigError, LedgerConflict, LedgerUnavailable
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.promote import promote
from pilotage.release.state import fold
from pilotage.settings import Settings
from pilotage.testing.bundles import make_bundle
from pilotage.testing.ledger import InMemoryLedger
from tests.full_disk import no_room
from tests.unit.release.lives import broken_link, registered


def draft(number: int = 0, **payload: Any) -> Draft:
    return Draft(model="m", kind="refused", actor="ada", cause="manual", payload={"number": number, **payload})


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Opens the same ledger, as another process would."""
    if request.param == "memory":
        yield InMemoryLedger().rekeyed
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}"
    else:
        url = request.getfixturevalue("postgres_database")()
    opened: list[SqlLedger] = []

    def make(key: bytes | None = None) -> Ledger:
        opened.append(SqlLedger(url, key=key, head=tmp_path / "ledger.head"))
        return opened[-1]

    yield make
    for ledger in opened:
        ledger.close()


def test_a_fresh_ledger_has_no_events(open_ledger: Callable[..., Ledger]) -> None:
    assert open_ledger().events() == []


def test_events_come_back_as_they_were_written_in_order_and_chained(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    written = [ledger.append(draft(number, words="Größe, „ja“", list=[1, 2.5, None])) for number in range(5)]
    read = open_ledger().events()
    assert read == written
    assert [event.sequence for event in read] == [1, 2, 3, 4, 5]
    assert read[0].previous == ""
    assert all(later.previous == earlier.hash for earlier, later in pairwise(read))
    assert broken_link(read) is None
    assert all(event.at.utcoffset().total_seconds() == 0 for event in read)  # type: ignore[union-attr]


def test_reading_begins_after_a_number(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    for number in range(4):
        ledger.append(draft(number))
    assert [event.payload["number"] for event in ledger.events(after=2)] == [2, 3]
    assert ledger.events(after=4) == []


def test_an_append_on_an_old_view_is_a_conflict_and_writes_nothing(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    ledger.append(draft(1), expected=0)
    with pytest.raises(LedgerConflict) as caught:
        ledger.append(draft(2), expected=0)
    assert caught.value.details == {"expected": 0, "head": 1, "model": "m"}
    with pytest.raises(LedgerConflict):
        ledger.append(draft(3), expected=7)
    assert [event.payload["number"] for event in open_ledger().events()] == [1]


def test_of_many_threads_exactly_one_wins_each_number(open_ledger: Callable[..., Ledger]) -> None:
    ledgers = [open_ledger() for _ in range(6)]

    def attempt(number: int) -> bool:
        try:
            ledgers[number % 6].append(draft(number), expected=number // 6)
        except LedgerConflict:
            return False
        return True

    for round_ in range(10):
        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(attempt, range(round_ * 6, round_ * 6 + 6)))
        assert won.count(True) == 1
    assert broken_link(ledgers[0].events()) is None


def test_of_many_promotions_at_once_each_number_has_one_winner_and_the_others_are_told(
    open_ledger: Callable[..., Ledger], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    sha256 = make_bundle(folder)
    settings, book = Settings(home=tmp_path / "home"), open_ledger()
    for number in range(1, 7):
        book.append(registered("m", number, bundle=str(folder), sha256=sha256))
    desks = [open_ledger() for _ in range(6)]

    def attempt(number: int) -> str:
        try:
            promote("m", number, settings=settings, actor=f"person {number}", why="mine", ledger=desks[number - 1])
        except LedgerConflict as error:
            return "second" if "Somebody else decided about m" in error.message else error.message
        return "won"

    for _ in range(5):
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(attempt, range(1, 7)))
        assert set(results) <= {"won", "second"}
        assert "won" in results
    events = book.events()
    assert broken_link(events) is None
    promotions = [event for event in events if event.kind == "promoted"]
    # Whoever won was promoted by the person who asked, and the fold is legal at each of them.
    assert all(event.actor == f"person {event.version}" for event in promotions)
    assert fold(events)["m"].champion.sequence == promotions[-1].sequence  # type: ignore[union-attr]


def test_facts_are_all_appended_however_many_write_at_once(open_ledger: Callable[..., Ledger]) -> None:
    ledgers = [open_ledger() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda number: ledgers[number % 5].append(draft(number)), range(50)))
    events = ledgers[0].events()
    assert sorted(event.payload["number"] for event in events) == list(range(50))
    assert broken_link(events) is None


def test_a_payload_that_is_no_json_is_refused_and_nothing_is_written(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(draft(1, value=float("nan")))
    assert ledger.events() == []


def test_a_key_configured_later_seals_from_then_on(open_ledger: Callable[..., Ledger]) -> None:
    key = b"a secret of enough bytes"
    open_ledger().append(draft(1))
    open_ledger(key).append(draft(2))
    events = open_ledger().events()
    assert [event.algorithm for event in events] == ["sha256", "hmac-sha256"]
    assert broken_link(events, key) is None
    assert broken_link(events, b"another secret of a forger") == 2


def test_a_writer_without_the_key_can_not_go_on_and_writes_nothing(open_ledger: Callable[..., Ledger]) -> None:
    open_ledger(b"a secret of enough bytes").append(draft(1))
    with pytest.raises(ConfigError, match="keyed"):
        open_ledger().append(draft(2))
    assert [event.payload["number"] for event in open_ledger().events()] == [1]


def compete(url: str, start: Barrier, results: Queue[list[int]]) -> None:
    """A process that tries to win every number."""
    ledger = SqlLedger(url)
    won = []
    start.wait(120)
    for expected in range(25):
        try:
            won.append(ledger.append(draft(), expected=expected).sequence)
        except LedgerConflict:
            continue
    ledger.close()
    results.put(won)


def test_of_several_processes_exactly_one_wins_each_number_even_on_a_fresh_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fresh' / 'ledger.db'}"
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=compete, args=(url, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    won = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert sorted(number for each in won for number in each) == list(range(1, 26))
    ledger = SqlLedger(url)
    assert broken_link(ledger.events()) is None
    ledger.close()


def test_reading_a_ledger_that_is_not_there_does_not_create_it(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert ledger.events() == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_took_the_ledgers_place_is_read_and_one_that_went_away_is_missed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    backup = tmp_path / "backup.db"
    reader, writer = SqlLedger.of(settings), SqlLedger.of(settings)
    writer.append(draft(1))
    with sqlite3.connect(tmp_path / "ledger.db") as there, sqlite3.connect(backup) as copy:
        there.backup(copy)
    there.close()
    copy.close()
    writer.append(draft(2))
    assert [event.payload["number"] for event in reader.events()] == [1, 2]
    writer.close()
    for path in tmp_path.glob("ledger.db*"):
        if path.suffix != ".lock":
            path.unlink()
    for use in (reader.events, lambda: reader.append(draft(3))):
        # Not an empty ledger, nor a new one: a service would forget what was killed.
        with pytest.raises(LedgerUnavailable, match="event 2 is noted"):
            use()
    assert not (tmp_path / "ledger.db").exists()
    backup.rename(tmp_path / "ledger.db")
    assert [event.payload["number"] for event in reader.events()] == [1]
    reader.close()


def test_it_is_written_ahead_and_an_edit_by_hand_shows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    for number in range(3):
        ledger.append(draft(number))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("UPDATE pilotage_ledger SET actor = 'eve' WHERE sequence = 2")
    connection.close()
    assert broken_link(ledger.events()) == 2
    ledger.close()


def test_a_disk_without_room_for_the_first_byte_is_told_by_the_ledgers_name(tmp_path: Path) -> None:
    with no_room(), pytest.raises(LedgerUnavailable, match=r"ledger\.db can't be used"):
        SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}").append(registered("tiny", 1))


def test_a_database_that_fails_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is no database" * 100)
    damaged = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(LedgerUnavailable, match=r"ledger\.db"):
        damaged.events()
    with pytest.raises(LedgerUnavailable, match="not a database"):
        damaged.append(draft())
    damaged.close()
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailable, match="file"):
        SqlLedger(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}").append(draft())
