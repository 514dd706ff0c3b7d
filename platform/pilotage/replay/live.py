"""What a person sees while a replay runs: the day, requests, latency, late rate, alarms, versions and stages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import date
from statistics import quantiles
from typing import TYPE_CHECKING

from pilotage.errors import PilotageError
from pilotage.release.stages import ModelState
from pilotage.replay.drive import Told
from pilotage.replay.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

REFRESH_S = 0.25
_SLOW_S = 2.0
"""Seconds between two looks at ledger and alarms: each is a query."""


class Display:
    """Keeps what is to be shown, and shows it; lines where there is no terminal."""

    def __init__(
        self,
        console: Console,
        *,
        model: str,
        first: date,
        last: date,
        progress: Progress,
        state: Callable[[], ModelState],
        alarms: Callable[[], list[str]],
    ) -> None:
        self._console, self._model = console, model
        self._first, self._last = first, last
        self._progress, self._state, self._alarms = progress, state, alarms
        self._latencies: deque[float] = deque(maxlen=500)
        self._told = Told(day=first, doing="begins")
        self._began = time.monotonic()
        self._looked = 0.0
        self._standing: list[str] = []
        self._open: list[str] = []
        self._rates = ""
        self._live: Live | None = None
        self._said: tuple[date, str] | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=1 / REFRESH_S, get_renderable=self._drawn)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def tell(self, told: Told) -> None:
        """Takes what the replay says."""
        self._told = told
        if told.latency_ms is not None:
            self._latencies.append(told.latency_ms)
        if self._live is None and (told.day, told.doing) != self._said:
            self._said = (told.day, told.doing)
            self._console.print(f"[{time.monotonic() - self._began:7.1f} s] {told.day}: {told.doing}", highlight=False)

    def _drawn(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if time.monotonic() - self._looked > _SLOW_S:
            self._looked = time.monotonic()
            self._standing = _told(lambda: in_words(self._state()))
            self._open = _told(self._alarms)
            self._rates = self._rate()
        told = self._told
        days, done = (self._last - self._first).days + 1, (told.day - self._first).days
        table = Table.grid(padding=(0, 2))
        for name, value in (
            ("day", f"{told.day}  ({done} of {days} are over)"),
            ("doing", told.doing),
            ("requests", f"{told.requests:,} of {told.of:,} today" if told.of else "-"),
            ("latency", self._latency()),
            ("late", self._rates or "-"),
            ("versions", "; ".join(self._standing) or "-"),
            ("alarms", "; ".join(self._open[:4]) or "none"),
        ):
            table.add_row(Text(name, style="bold"), Text(value))
        heading = f"Replay of {self._model}, {self._first} to {self._last}. Ctrl-C stops it; it goes on where it was."
        return Group(Text(heading, style="bold"), table)

    def _latency(self) -> str:
        if len(self._latencies) < 2:
            return "-"
        parts = quantiles(self._latencies, n=100)
        return f"median {parts[49]:.1f} ms, 99 % below {parts[98]:.1f} ms"

    def _rate(self) -> str:
        labels, late, expected = self._progress.rates()
        return f"{late:.1%} of {labels:,} outcomes, {expected:.1%} were expected" if labels else ""


def _told(ask: Callable[[], list[str]]) -> list[str]:
    """What somebody says, or why they can't: an error would end the thread that draws, and nothing be shown again."""
    try:
        return ask()
    except PilotageError as error:
        return [f"not known: {error.message}"]


def in_words(state: ModelState) -> list[str]:
    """Versions that have a role, and who answers."""
    found = [
        f"{version.version} {version.stage}"
        for version in sorted(state.versions.values(), key=lambda each: each.version)
        if version.stage in ("candidate", "shadow", "canary", "champion")
    ]
    return [f"killed: {state.killed.why}", *found] if state.killed is not None else found
