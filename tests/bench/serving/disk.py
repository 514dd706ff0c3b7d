"""What the disk alone takes for a commit of the log: the part of an answer's time that no code of ours can shorten."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

ROOM = 16 << 20
"""Bytes that are there before, as in the log: a sync then has no journal to write."""


def commits_ms(folder: Path, *, size: int = 10_000, pause: float = 0.001, count: int = 2_000) -> list[float]:
    """Milliseconds of each of some commits on the disk of a folder, each after a pause in which the core works.

    Args:
        folder: On the disk in question.
        size: Bytes of a commit: about the records of sixteen requests.
        pause: Seconds, about the work for as many.
        count: Of commits.
    """
    found = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        number = file.fileno()
        os.pwrite(number, bytes(ROOM), 0)
        os.fsync(number)
        for turn in range(count):
            until = time.perf_counter() + pause
            while time.perf_counter() < until:
                pass
            began = time.perf_counter()
            os.pwrite(number, b"x" * size, turn * size % (ROOM - size))
            os.fdatasync(number)
            found.append((time.perf_counter() - began) * 1000)
    return found
