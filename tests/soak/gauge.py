"""What processes hold, over a time: memory, open files, threads; and whether it grows.

The time is looked at in thirds. In the first one caches fill and libraries load; what the last third holds more than
the second is growth, and what grows for ever ends a process some day.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

MEMORY_SHARE, MEMORY_MB = 0.05, 10.0
"""A process may hold so much more in the last third than in the second, whichever is more."""
HANDLES = 8
"""Files, or threads, that it may have more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One process at one moment."""

    at: float
    """``time.monotonic``."""
    mb: float
    """Memory that it shares with no other, MiB."""
    files: int
    threads: int


class Gauge:
    """Looks at processes every few seconds, in a thread of its own.

    Args:
        look: Gives the processes, each by a name that tells it from the others.
        every_s: Seconds between looks.
    """

    def __init__(self, look: Callable[[], Mapping[str, psutil.Process]], *, every_s: float = 5.0) -> None:
        self._look = look
        self._every_s = every_s
        self._samples: dict[str, list[Sample]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            for name, process in self._look().items():
                with suppress(psutil.Error):
                    self._samples.setdefault(name, []).append(_sample(process))

    def thirds(self) -> dict[str, tuple[list[Sample], list[Sample], list[Sample]]]:
        """The samples of each process that was there all the time; empty if nothing was looked at."""
        times = [sample.at for samples in self._samples.values() for sample in samples]
        if not times:
            return {}
        began, third = min(times), (max(times) - min(times)) / 3
        found = {}
        for name, samples in sorted(self._samples.items()):
            parts: tuple[list[Sample], list[Sample], list[Sample]] = ([], [], [])
            for sample in samples:
                parts[min(2, int((sample.at - began) / third) if third else 0)].append(sample)
            if all(parts):
                found[name] = parts
        return found

    def growth(self, *, bounded: Sequence[str] = ()) -> list[str]:
        """What holds more and more, each process in a sentence.

        Args:
            bounded: Beginnings of the names of those whose memory something else sets a bound to.
        """
        found = []
        for name, (_, second, last) in self.thirds().items():
            before, after = _middle(second, "mb"), _middle(last, "mb")
            if after - before > max(MEMORY_MB, MEMORY_SHARE * before) and not name.startswith(tuple(bounded)):
                found.append(f"{name} holds {after:.0f} MB, and held {before:.0f}")
            for what in ("files", "threads"):
                before, after = _middle(second, what), _middle(last, what)
                if after - before > HANDLES:
                    found.append(f"{name} has {after:.0f} {what}, and had {before:.0f}")
        return found

    def __str__(self) -> str:
        lines = [f"{'medians of each third':32} {'MB':>21} {'files':>15} {'threads':>15}"]
        for name, parts in self.thirds().items():
            mb = "".join(f"{_middle(part, 'mb'):7.1f}" for part in parts)
            files, threads = ("".join(f"{_middle(part, what):5.0f}" for part in parts) for what in ("files", "threads"))
            lines.append(f"{name:32} {mb:>21} {files:>15} {threads:>15}")
        return "\n".join(lines)


def _middle(samples: Sequence[Sample], what: str) -> float:
    """The median: files and threads come and go in bursts, those of tokio stay for ten seconds."""
    return statistics.median(getattr(sample, what) for sample in samples)


def _sample(process: psutil.Process) -> Sample:
    mb = process.memory_full_info().uss / 2**20
    return Sample(at=time.monotonic(), mb=mb, files=process.num_fds(), threads=process.num_threads())
