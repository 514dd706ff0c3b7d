"""What `pilotage up` shows: lines that say what began and ended, and a picture that fits the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from pilotage.cli.board import LiveBoard, PlainBoard, make_board
from pilotage.cli.supervisor import Program, Supervised


def server(name: str, state: str, detail: str = "", url: str = "http://127.0.0.1:3000") -> Supervised:
    supervised = Supervised(Program(name=name, command=[], log=Path("x.log"), url=url))
    supervised.state, supervised.detail = state, detail  # type: ignore[assignment]
    return supervised


def lines(out: io.StringIO) -> list[str]:
    return [re.sub(r"^\[ *[\d.]+ s\] ", "", line) for line in out.getvalue().splitlines()]


def test_plain_lines_say_what_began_what_was_said_and_how_it_ended() -> None:
    out = io.StringIO()
    board = PlainBoard(out)
    step = board.begin("Ingest days")
    board.detail(step, "31 days\nmore")
    board.end(step, "done", "run 1234")
    other = board.begin("Train it")
    board.end(other, "failed", "No rows. Fix: Land some.")
    assert [re.sub(r"\d+\.\d s", "9.9 s", line) for line in lines(out)] == [
        "Ingest days ...",
        "  Ingest days: 31 days",
        "Ingest days done (9.9 s): run 1234",
        "Train it ...",
        "Train it FAILED (9.9 s): No rows. Fix: Land some.",
    ]


def test_a_server_is_told_once_a_state() -> None:
    out = io.StringIO()
    board = PlainBoard(out)
    one = server("Dagster", "waiting")
    board.servers = [one]
    for state, detail in [("waiting", ""), ("starting", ""), ("starting", "loading"), ("healthy", ""), ("healthy", "")]:
        one.state, one.detail = state, detail  # type: ignore[assignment]
        board.refresh()
    assert lines(out) == ["Dagster is starting http://127.0.0.1:3000", "Dagster is healthy http://127.0.0.1:3000"]


def drawn(board: LiveBoard, *, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=100, height=height, force_terminal=False)
    console.print(board)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_live_picture_shows_steps_servers_addresses_and_champions() -> None:
    board = LiveBoard(Console(file=io.StringIO()))
    board.headlined("Making the first champions")
    board.end(board.begin("Ingest days"), "done", "run 1234")
    board.begin("Train it").detail = "fold 2 of 3"
    board.servers = [
        server("Dagster", "healthy"),
        server("MLflow", "restarting", "restart 1 in 1 s"),
        server("Late", "waiting"),
    ]
    board.champions = [{"model": "flight_delay", "version": 3, "detail": "since today"}]
    picture = drawn(board)
    assert "Pilotage  Making the first champions" in picture
    assert "✓  Ingest days" in picture
    assert "fold 2 of 3" in picture
    assert "http://127.0.0.1:3000" in picture
    assert "restarting  restart 1 in 1 s" in picture
    assert "flight_delay  version 3 in production  since today" in picture
    assert "Late" not in picture


def test_a_low_terminal_shows_the_newest_steps() -> None:
    board = LiveBoard(Console(file=io.StringIO()))
    for number in range(50):
        board.end(board.begin(f"step {number}"), "done")
    picture = drawn(board, height=14)
    assert "step 49" in picture
    assert "step 0 " not in picture


def test_into_a_pipe_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_board(Console(file=io.StringIO()), plain=False), PlainBoard)
    assert isinstance(make_board(Console(file=io.StringIO(), force_terminal=True), plain=True), PlainBoard)
    assert isinstance(make_board(Console(file=io.StringIO(), force_terminal=True), plain=False), LiveBoard)
