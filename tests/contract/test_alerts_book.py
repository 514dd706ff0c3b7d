"""The book of alarms holds in SQLite and in PostgreSQL, also when many processes meet on it for the first time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from pilotage.monitoring.alerts import Alert, AlertBook
from tests.unit.monitoring.alarms import Desk, critical, warning
from tests.unit.monitoring.standings import fold


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'alerts.db'}"
    database: Callable[[], str] = request.getfixturevalue("postgres_database")
    return database()


def test_writers_that_meet_on_a_fresh_book_all_get_through_and_each_cause_is_one_alarm(url: str) -> None:
    together = Barrier(4)

    def write(thread: int) -> None:
        with AlertBook(url) as book:
            together.wait()
            for number in range(5):
                book.raise_(critical(subject="one", occurrence=f"{thread}-{number}"))
                book.raise_(warning(f"{thread}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with AlertBook(url) as book:
        counts = {alarm.key.subject: alarm.count for alarm in book.alarms()}
        assert counts == {"one": 20, "0": 5, "1": 5, "2": 5, "3": 5}
        history = book.history()
        assert [row["sequence"] for row in history] == list(range(1, len(history) + 1))
        assert len(book.waiting()) == 5


def test_a_life_in_it_is_the_same_whatever_holds_it(url: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "home")
    desk.book.close()
    desk.book = AlertBook(url, clock=lambda: desk.now)
    assert desk.book.alarms() == [] and desk.book.history() == []
    alarm = desk.book.raise_(critical())
    desk.deliver()
    desk.wait(minutes=30)
    desk.deliver()
    desk.book.acknowledge(alarm.number, who="ada", why="on it")
    desk.book.silence(until=desk.now + timedelta(hours=1), who="ada", why="we know", kind="freshness")
    desk.book.raise_(warning())
    desk.book.raise_(Alert.of("promoted", "tiny version 2 answers.", model="tiny", subject="event 2"))
    for _ in range(4):
        desk.book.clear("service_on_fallback", "tiny")
        desk.wait(minutes=5)
        desk.deliver()
    assert desk.titles("oncall") == [
        "[CRITICAL] service on fallback (tiny)",
        "[STILL CRITICAL, NOBODY HAS ACKNOWLEDGED] service on fallback (tiny)",
        "[OVER] service on fallback (tiny)",
    ]
    assert desk.titles("paper") == ["[INFORMATION] promoted (tiny): event 2"]
    assert [each.key.kind for each in desk.book.alarms()] == ["freshness"]
    assert fold(desk.book.history())[alarm.number].status == "ended"
    desk.book.close()
