"""The workers of a service, as each of them says about itself: ``<settings.heartbeats>/<worker>.json``.

Health routes answer for one worker at random; here each can say how all of them are.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

FRESH_S = 5.0
"""Seconds after which a worker that said nothing counts as gone."""


class Heartbeat:
    """One worker's file, and a look at those of the others."""

    def __init__(self, folder: Path, *, worker: str) -> None:
        self._folder = folder
        self._path = self._folder / f"{worker}.json"
        self._worker = worker
        self._pid = os.getpid()
        self._encode = msgspec.json.Encoder().encode

    def beat(self, models: list[dict[str, object]]) -> None:
        """Says how this worker is.

        Raises:
            OSError: There is no room.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"worker": self._worker, "pid": self._pid, "at": time.time(), "models": models}
        work = self._path.with_suffix(".new")
        work.write_bytes(self._encode(content))
        work.replace(self._path)

    def stop(self) -> None:
        """Says goodbye."""
        with suppress(OSError):
            self._path.unlink()

    def workers(self) -> list[dict[str, Any]]:
        """What the living workers said last, by name."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                content = msgspec.json.decode(path.read_bytes())
            except (OSError, msgspec.DecodeError):
                continue
            age = time.time() - content["at"]
            if age <= FRESH_S:
                found.append({**content, "age_s": round(max(age, 0.0), 3)})
            elif age > 100 * FRESH_S:
                # Left by one that was killed.
                with suppress(OSError):
                    path.unlink()
        return found
