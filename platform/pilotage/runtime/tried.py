"""Bundles that a trial process of this host came through (``probe.py``): the same bytes need no other one.

A trial takes a second of a core, and on a busy host several, while whoever rolls back waits. So what came through is
noted, one file a bundle, by its SHA-256; the file says by which code. With other code there is another trial.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_ENGINE = Path(__file__).parents[1]
_PARSERS = ("lightgbm", "numpy", "polars")

_seen: set[str] = set()
"""Bundles whose trial this process has seen; where nothing can be noted, too."""


class Tried:
    """The notes of one host."""

    def __init__(self, folder: Path) -> None:
        """Reads nothing yet.

        Args:
            folder: ``settings.tried``.
        """
        self._folder = folder

    def knows(self, sha256: str) -> bool:
        """Whether a trial process of this code came through a bundle with this hash."""
        if sha256 in _seen:
            return True
        try:
            return (self._folder / sha256).read_text() == _code()
        except (OSError, ValueError):
            return False

    def note(self, sha256: str) -> None:
        """Remembers one that did. What can't be noted is tried again by the next process."""
        _seen.add(sha256)
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / sha256).write_text(_code())


def _code() -> str:
    """Of the interpreter, the libraries that parse, and every file of the engine: another one where any is another."""
    files = sorted(_ENGINE.rglob("*.py"))
    facts = [
        f"{sys.version} {platform.machine()}",
        *(f"{name} {metadata.version(name)}" for name in _PARSERS),
        *(f"{path.relative_to(_ENGINE)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
