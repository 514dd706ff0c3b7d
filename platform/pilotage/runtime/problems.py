"""What is wrong with what a worker serves, by what it is about: told once, and kept until it is solved."""

from __future__ import annotations

from collections.abc import Callable


class Problems:
    """Any thread may tell of one, or solve it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Knows none yet.

        Args:
            report: Called with a sentence for each that is another than before.
        """
        self._report = report
        self._known: dict[str, str] = {}

    def about(self, name: str) -> str | None:
        """What is wrong with it; ``None`` if nothing is."""
        return self._known.get(name)

    def tell(self, name: str, what: str) -> None:
        """Something is wrong with it; with an empty name, with all of it."""
        if self._known.get(name) != what:
            self._known[name] = what
            self._report(f"{name}: {what}" if name else what)

    def solved(self, name: str) -> None:
        """Nothing is wrong with it any more."""
        self._known.pop(name, None)

    def looked(self, name: str, look: Callable[[], bool], what: str) -> bool:
        """Looks at something, which may be out of reach; whether there is something new."""
        try:
            new = look()
        except (OSError, ValueError) as error:
            self.tell(name, f"{what} can't be read: {error}")
            return False
        self.solved(name)
        return new
