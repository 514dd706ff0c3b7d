"""What ``pilotage up`` shows: steps, servers and champions, live on a terminal and as plain lines elsewhere.

A board only shows. What happens is told to it by ``up.py``, from several threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pilotage.cli.console import plain
from pilotage.cli.supervisor import Supervised

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

StepState = Literal["running", "done", "failed", "skipped"]


@dataclass(slots=True, kw_only=True)
class Step:
    """One line of what is being done."""

    name: str
    state: StepState = "running"
    detail: str = ""
    url: str = ""
    began: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """How long it took; ``None`` while it runs."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began if self.seconds is None else self.seconds


class Board:
    """Keeps what is to be shown; subclasses show it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.servers: Sequence[Supervised] = ()
        self.champions: list[dict[str, Any]] = []
        self.headline = "Starting"
        self._lock = threading.RLock()

    def begin(self, name: str) -> Step:
        with self._lock:
            step = Step(name=name)
            self.steps.append(step)
            self.changed(step)
            return step

    def detail(self, step: Step, text: str) -> None:
        with self._lock:
            step.detail = text.strip().splitlines()[0] if text.strip() else ""
            self.said(step)

    def end(self, step: Step, state: StepState, detail: str = "") -> None:
        with self._lock:
            step.seconds = step.elapsed
            step.state, step.detail = state, detail
            self.changed(step)

    def headlined(self, text: str) -> None:
        self.headline = text

    def changed(self, step: Step) -> None:
        """A step began or ended."""

    def said(self, step: Step) -> None:
        """A running step said something."""

    def note(self, text: str) -> None:
        """Something that people should read once."""

    def refresh(self) -> None:
        """Called a few times a second."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        yield


class PlainBoard(Board):
    """Lines for a log or a pipe: what began, what ended, what changed."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._began = time.monotonic()
        self._last: dict[str, tuple[str, str]] = {}

    def changed(self, step: Step) -> None:
        mark = {"running": "...", "done": "done", "failed": "FAILED", "skipped": "left out"}[step.state]
        took = f" ({step.seconds:.1f} s)" if step.seconds is not None and step.state != "skipped" else ""
        self._line(f"{step.name} {mark}{took}{f': {step.detail}' if step.detail else ''}")

    def said(self, step: Step) -> None:
        self._line(f"  {step.name}: {step.detail}")

    def note(self, text: str) -> None:
        self._line(text)

    def headlined(self, text: str) -> None:
        super().headlined(text)
        self._line(text)

    def refresh(self) -> None:
        with self._lock:
            for server in list(self.servers):
                name, now = server.program.name, (server.state, server.detail)
                if now[0] == self._last.get(name, ("waiting", ""))[0]:
                    continue
                self._last[name] = now
                url = f" {server.program.url}" if server.program.url else ""
                self._line(f"{name} is {now[0]}{url}{f': {now[1]}' if now[1] else ''}")

    def _line(self, text: str) -> None:
        # Whoever read it may have gone, as in `pilotage up | head`; what runs goes on.
        with suppress(BrokenPipeError):
            print(f"[{time.monotonic() - self._began:6.1f} s] {plain(text)}", file=self._out, flush=True)


class LiveBoard(Board):
    """Redraws itself on a terminal."""

    def __init__(self, console: Console) -> None:
        from rich.spinner import Spinner

        super().__init__()
        self._console = console
        self._spinner: Callable[[], RenderableType] = lambda: self._spin
        self._spin = Spinner("dots", style="cyan")

    @contextmanager
    def shown(self) -> Iterator[None]:
        from rich.live import Live

        # The thread of Live draws; a terminal that is too low shows the newest lines, not the first.
        with Live(self, console=self._console, refresh_per_second=8, vertical_overflow="ellipsis"):
            yield

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield from self._drawing(options.max_height)

    def _drawing(self, height: int) -> Iterator[RenderableType]:
        from rich.text import Text

        yield Text.assemble(("Pilotage", "bold cyan"), "  ", (self.headline, "bold"))
        yield self._steps(max(4, height - len(self.servers) - len(self.champions) - 8))
        if any(server.state != "waiting" for server in self.servers):
            yield Text()
            yield self._servers()
        if self.champions:
            yield Text()
            yield self._champions()

    def _steps(self, room: int) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(width=1)
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True, style="dim")
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
        marks = {"done": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("·", "dim")}
        for step in self.steps[-room:]:
            mark = self._spinner() if step.state == "running" else Text(*marks[step.state])
            style = "red" if step.state == "failed" else ""
            took = "" if step.state == "skipped" else f"{step.elapsed:.0f} s"
            grid.add_row(mark, Text(step.name, style=style), took, Text(step.detail, style=style))
        return grid

    def _servers(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        styles = {
            "healthy": "green",
            "starting": "yellow",
            "restarting": "yellow",
            "unwell": "red",
            "failed": "bold red",
        }
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1, overflow="fold", style="dim")
        for server in self.servers:
            if server.state != "waiting":
                program, style = server.program, styles.get(server.state, "yellow")
                link = Text(program.url, style=f"underline link {program.url}") if program.url else Text()
                grid.add_row(program.name, link, Text(server.state, style=style), Text(server.detail))
        return grid

    def _champions(self) -> RenderableType:
        from rich.text import Text

        lines = Text()
        for champion in self.champions:
            lines.append(f"{champion['model']}", style="bold")
            lines.append(f"  version {champion['version']} in production", style="green")
            lines.append(f"  {champion.get('detail', '')}\n", style="dim")
        lines.right_crop(1)
        return lines


def make_board(console: Console, *, plain: bool) -> Board:
    """The board that fits where we print."""
    return PlainBoard(sys.stdout) if plain or not console.is_terminal else LiveBoard(console)
