"""What a person sees of a replay: a display that draws beside it on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pilotage.errors import LedgerUnavailable
from pilotage.release.stages import ModelState
from pilotage.release.state import fold
from pilotage.replay import live
from pilotage.replay.drive import Told
from pilotage.replay.live import Display
from pilotage.replay.progress import Progress
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import draft, registered
from tests.unit.replay.test_progress import answer

FIRST, LAST = date(2013, 3, 1), date(2013, 3, 5)


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[Progress]:
    made = Progress(tmp_path / "year.db", model="flight_delay", first=FIRST, last=LAST)
    made.keep([answer("a"), answer("b")])
    made.told(FIRST, [("a", True, 5), ("b", False, 5)])
    yield made
    made.close()


def champion() -> ModelState:
    ledger = InMemoryLedger()
    ledger.append(registered("m", 1))
    ledger.append(draft("promoted", 1, how="by hand"))
    return fold(ledger.events())["m"]


def test_on_a_terminal_it_draws_in_a_thread_of_its_own(progress: Progress) -> None:
    drawn, looked = StringIO(), threading.Event()

    def alarms() -> list[str]:
        if threading.current_thread() is not threading.main_thread():
            looked.set()
        return ["warning: late labels"]

    console = Console(file=drawn, force_terminal=True, width=100)
    with Display(
        console, model="m", first=FIRST, last=LAST, progress=progress, state=champion, alarms=alarms
    ) as display:
        assert looked.wait(30)
        for latency in (2.0, 3.0):
            display.tell(Told(day=FIRST, doing="sends requests", requests=2, of=900, latency_ms=latency))
    text = drawn.getvalue()
    for words in ("50.0% of 2 outcomes, 25.0% were expected", "1 champion", "late labels", "2 of 900 today", "median"):
        assert words in text


def test_a_ledger_that_is_away_for_a_while_is_said_and_the_display_goes_on(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_SLOW_S", 0.0)
    drawn, looks, back = StringIO(), 0, threading.Event()

    def state() -> ModelState:
        nonlocal looks
        looks += 1
        # The first look is made before there is a thread that it could end.
        if looks == 2:
            raise LedgerUnavailable("The ledger can't be reached.", fix="Start it.")
        if looks > 3:
            back.set()
        return champion()

    console = Console(file=drawn, force_terminal=True, width=100)
    with Display(console, model="m", first=FIRST, last=LAST, progress=progress, state=state, alarms=list):
        assert back.wait(10), "nothing is drawn any more"
    assert "not known: The ledger can't be reached." in drawn.getvalue()


def test_into_a_pipe_it_prints_a_line_whenever_something_else_is_done(progress: Progress) -> None:
    drawn = StringIO()
    console = Console(file=drawn, width=100)
    with Display(console, model="m", first=FIRST, last=LAST, progress=progress, state=champion, alarms=list) as display:
        for doing in ("lands its files", "sends requests", "sends requests", "monitors the day"):
            display.tell(Told(day=FIRST, doing=doing))
    lines = [line.split("] ")[1] for line in drawn.getvalue().splitlines()]
    assert lines == [f"2013-03-01: {doing}" for doing in ("lands its files", "sends requests", "monitors the day")]
