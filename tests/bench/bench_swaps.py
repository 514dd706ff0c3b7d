"""Swaps under load: from a version's publication to its first answer, and whether any request suffers.

    python -m tests.bench.bench_swaps [SWAPS [WORKERS]]

Every swap is to a version that no worker has seen: fetched, hashed, tried in a child process, run over its golden rows,
warmed, and put in the place of the one before, while eight connections go on asking. Targets: 0 failed requests, and 0
answers whose version and score disagree, of 100 swaps.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pilotage.testing.service import release_bundle
from tests.faults.crowd import Crowd
from tests.faults.world import World, expected, opened, until

SWAPS, WORKERS = 100, 1
_MODEL = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """What was seen."""

    requests: int
    failed: int
    """Requests that were not answered by 200."""
    disagreeing: int
    """Answers whose probability is not the one of the version that they name."""
    first_answer_s: list[float]
    """Seconds from the commit of a promotion to the first new answer, one a swap."""
    all_workers_s: list[float]
    """Seconds to the moment at which all workers said that they go by it, one a swap."""
    seconds: float

    def __str__(self) -> str:
        first = sorted(self.first_answer_s)
        return (
            f"{len(first)} swaps under {self.requests} requests: {self.failed} failed, {self.disagreeing} answers whose"
            f" version and score disagree; publish to first new answer {statistics.median(first) * 1000:.0f} ms in the"
            f" median, {first[int(0.95 * (len(first) - 1))] * 1000:.0f} ms for 95 of 100, {first[-1] * 1000:.0f} ms at"
            f" most; all workers by {max(self.all_workers_s) * 1000:.0f} ms"
        )


def swap(folder: Path, *, swaps: int, workers: int, tell: Callable[[str], None] = print) -> Swapped:
    """Swaps versions of a small model under load.

    Args:
        folder: For a home of its own.
        swaps: How many.
        workers: Of the service.
        tell: Told how far it is.
    """
    world = World(folder / "home", workers=workers)
    made = {version: world.make(_MODEL, version) for version in range(2, swaps + 2)}
    first, everywhere = [], []
    began = time.monotonic()
    with world.serving() as serving, Crowd(serving.port, Random(0), connections=8, named=0.0) as crowd:
        crowd.until_more(100)
        for version, sha256 in made.items():
            release_bundle(world.settings, _MODEL, world.bundles[_MODEL, version], sha256, version=version)
            published = time.monotonic()
            until(
                serving.workers,
                lambda found, version=version: (
                    len(found) == workers
                    and all(m["version"] == version for w in found for m in w["models"] if m["model"] == _MODEL)
                ),
                what=f"version {version}",
            )
            everywhere.append(time.monotonic() - published)
            crowd.until_more(20, version=version)
            new = next(each for each in reversed(crowd.seen) if each.answer.get("version") == version)
            for each in reversed(crowd.seen):
                if each.got < published:
                    break
                if each.status == 200 and each.answer["version"] == version:
                    new = each
            first.append(new.got - published)
            if (version - 1) % 20 == 0:
                tell(f"{version - 1} swaps, {len(crowd.seen)} requests")
        crowd.stop()
    answered = [each for each in crowd.seen if each.status == 200]
    by_version: dict[int, list[tuple[int, float]]] = {}
    for each in answered:
        answer = each.answer
        by_version.setdefault(answer["version"], []).append((each.number, answer["probability"]))
    bundles = opened(world)
    disagreeing = sum(
        probability != right
        for version, some in by_version.items()
        for (_, probability), right in zip(
            some, expected(bundles[_MODEL, version], [number for number, _ in some]), strict=True
        )
    )
    return Swapped(
        requests=len(crowd.seen),
        failed=len(crowd.seen) - len(answered),
        disagreeing=disagreeing,
        first_answer_s=first,
        all_workers_s=everywhere,
        seconds=time.monotonic() - began,
    )


if __name__ == "__main__":
    asked = [int(argument) for argument in sys.argv[1:]]
    count, of_workers = [*asked, *(SWAPS, WORKERS)[len(asked) :]]
    with tempfile.TemporaryDirectory() as temporary:
        print(swap(Path(temporary), swaps=count, workers=of_workers))
