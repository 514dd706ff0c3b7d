"""What a version said to requests that it was asked together, and how that is told apart again. Records only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from pilotage.errors import PilotageError
from pilotage.runtime.drafts import Turn
from pilotage.runtime.prepared import Scored, ScoredRows


class VersionScores(NamedTuple):
    """What one version said to the requests that it was asked."""

    turn: Turn
    members: Sequence[int]
    """The requests that it was asked, by their places."""
    scores: Sequence[Scored | PilotageError | None]
    """Each one's own; ``None`` where it was not asked, or failed."""


def parts_of(said: Sequence[VersionScores], sizes: Sequence[int]) -> Iterator[list[VersionScores]]:
    """What was said to the requests of several batches, batch by batch.

    Args:
        said: By the version that was asked all of them, or by nobody.
        sizes: Requests in each batch, in their order.
    """
    if not said:
        yield from ([] for _ in sizes)
        return
    [(turn, _, scores)] = said
    starts = accumulate(sizes, initial=0)
    parts = (
        scores.parts(sizes)
        if isinstance(scores, ScoredRows)
        else (scores[start : start + size] for start, size in zip(starts, sizes, strict=False))
    )
    for size, part in zip(sizes, parts, strict=True):
        yield [VersionScores(turn, range(size), part)]
