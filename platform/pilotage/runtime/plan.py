"""What a serving process should do for each model: the ledger's state, reduced to what answering needs.

Records only. ``pilotage.release.feed`` makes them of the ledger; ``follower.py`` carries them out, and keeps the last
ones on disk so that a restart needs no ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Role = Literal["champion", "previous_champion", "canary", "shadow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A version with its role."""

    version: int
    role: Role
    bundle: str
    """Folder of the bundle in the registry's artifacts."""
    bundle_sha256: str
    """Of its manifest, as the ledger remembers it."""
    sequence: int
    """Of the ledger event that gave it this role."""
    since: datetime
    """When, UTC."""
    trained_at: datetime
    share: float = 0.0
    """Of a canary: the share of the entities that it answers, 0..1."""
    salt: str = ""
    """Of a canary: hashed with the entity to choose; the same over all steps of a rollout, so that nobody who is
    in drops out as the share grows."""
    segment: str | None = None
    """Of a canary: expression (JSON, over request columns) of the only requests it gets; ``None`` for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to serve for one model."""

    model: str
    sequence: int
    """Of the last ledger event about this model."""
    champion: Assignment | None = None
    previous: Assignment | None = None
    """The champion before, which answers when the champion can't."""
    canary: Assignment | None = None
    shadows: tuple[Assignment, ...] = ()
    killed: str | None = None
    """Why no version may answer; ``None`` if they may."""
    taken_back: tuple[int, ...] = ()
    """Versions that were rolled back: none of them answers on, not even while the one to go back to is loaded."""

    problem: str | None = None
    """What the ledger says of this model that can't be understood; what is here is from before it."""

    def assignments(self) -> tuple[Assignment, ...]:
        """Every version that must be loaded, the champion first."""
        return tuple(each for each in (self.champion, self.canary, self.previous, *self.shadows) if each is not None)
