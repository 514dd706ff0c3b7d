"""Words of others, such as a file's name, a value of a table or a reason, are shown, and never steer the terminal."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest
from rich.control import Control
from rich.text import Text

from pilotage.cli import console
from pilotage.cli.board import PlainBoard
from pilotage.cli.plain_console import PlainConsole
from pilotage.cli.sql import _table
from pilotage.errors import ConfigError

TITLE = "\x1b]0;owned\x07"
LINK = "\x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\"
STEERING = f"{TITLE}{LINK}\x1b[2Kgone\x9b31mred\u202eright to left"
SPELLED = r"here\x1b]8;;\x1b\\x1b[2Kgone\x9b31mred\u202eright to left"


def steers(printed: str) -> bool:
    return any(not character.isprintable() for character in printed.replace("\n", ""))


def test_an_error_names_a_file_without_obeying_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(ConfigError(f"{STEERING} can't be read.", fix=f"Rename it.\nOr {STEERING}."))
    printed = capsys.readouterr().err
    assert SPELLED in printed
    assert not steers(printed)


def test_a_value_in_the_lake_is_shown_without_obeying_it(capsys: pytest.CaptureFixture[str]) -> None:
    _table(pl.DataFrame({f"column {STEERING}": ["a", STEERING]}), 10)
    printed = capsys.readouterr().out
    assert r"\x1b[2Kgone" in printed.replace("\n", "")
    assert not steers(printed)


def test_what_a_command_says_is_shown_without_obeying_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"promoted: {STEERING}\nsecond line")
    board = PlainBoard(out := io.StringIO())
    board.note(STEERING)
    printed = capsys.readouterr().out
    assert printed.endswith("\nsecond line\n")
    for each in (printed, out.getvalue()):
        assert SPELLED in each
        assert not steers(each)


def test_json_means_the_same_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"why": STEERING, "who": "Zoë"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"why": STEERING, "who": "Zoë"}
    assert not steers(printed)
    console.print_json({"who": "Zoë"})
    assert "Zoë" in capsys.readouterr().out


def test_styles_and_the_moves_of_a_live_display_are_still_obeyed() -> None:
    shown = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    shown.print(Text("bad", style="red"))
    shown.control(Control.home())
    assert shown.file.getvalue() == "\x1b[31mbad\x1b[0m\n\x1b[H"  # type: ignore[attr-defined]
