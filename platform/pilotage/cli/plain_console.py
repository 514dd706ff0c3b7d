"""A console that shows words of others as they are, and obeys none of them. In a module of its own, as rich is slow."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pilotage.cli.console import plain


class PlainConsole(Console):
    """What would steer the terminal is spelled out, unless it is rich's own: a title that is set, a line that is erased
    or a link that is made by a file's name, a value of a table, or a reason."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))
