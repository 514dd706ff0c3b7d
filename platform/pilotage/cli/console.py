"""Where commands print: results to standard output, what people should notice to standard error."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from pilotage.errors import PilotageError


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, other line ends, and what turns the direction of writing."""


def out() -> Console:
    """The console of results."""
    from pilotage.cli.plain_console import PlainConsole

    # Words that people wrote are shown as they are, also "12:fire:30".
    return PlainConsole(soft_wrap=True, emoji=False)


def err() -> Console:
    """The console of errors and progress."""
    from pilotage.cli.plain_console import PlainConsole

    return PlainConsole(stderr=True, soft_wrap=True, emoji=False)


def say(words: str, *, err: bool = False) -> None:
    """Lines on standard output, or on standard error, of which no word steers the terminal."""
    click.echo(plain(words), err=err)


def forgive_encodings() -> None:
    """Spells out what standard output and error have no characters for, as in a terminal that is not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """One JSON document on standard output, dates as ISO 8601."""
    text = json.dumps(value, indent=2, default=_as_text, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        steers = plain(text) != text
    except UnicodeEncodeError:
        steers = True
    if steers:
        # Spelled out as JSON has it.
        text = json.dumps(value, indent=2, default=_as_text)
    sys.stdout.write(f"{text}\n")


def one_line_json(value: Any) -> str:
    """A JSON document in one line, dates as ISO 8601."""
    return json.dumps(value, default=_as_text, ensure_ascii=False)


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def one_line(words: str) -> str:
    """What people wrote, as one line of plain text: what would break it or steer the terminal is spelled out."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), words)


def plain(words: str) -> str:
    """The same of words of several lines."""
    return "\n".join(map(one_line, words.split("\n")))


def percent(share: float) -> str:
    """A share of 0..1 in words, not rounded to all or nothing."""
    return f"{100 * share:g}%"


def print_rows(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Names and words below a title: one line each, however long, as hashes and addresses are there to be copied."""
    from rich.text import Text

    console, lines = out(), list(rows)
    width = max((len(name) for name, _ in lines), default=0)
    console.print(Text(title, style="bold"))
    for name, words in lines:
        console.print(Text.assemble((f"  {name:<{width}}", "dim"), f"  {one_line(words)}"))


def utc(moment: datetime) -> str:
    """A moment in words, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def print_error(error: PilotageError) -> None:
    """What is wrong in red, and below it what to do."""
    from rich.text import Text

    console = err()
    console.print(Text.assemble(("Error: ", "bold red"), (error.message, "red")))
    console.print(Text.assemble(("Fix: ", "bold"), error.fix))
