"""What a worker has at hand for one model: the versions that are loaded, and which of them does what.

A request holds on to one board, so that version, score and state always belong together. Boards never change; the
follower puts another in their place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pilotage.errors import InvalidRequest, ModelNotReady, StateUnavailable
from pilotage.policy import Serving
from pilotage.runtime.breaker import Breaker
from pilotage.runtime.bundle import Bundle
from pilotage.runtime.bundle_cache import fetch
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.probe import admit
from pilotage.runtime.routing import Segment
from pilotage.runtime.state import OnlineState

Key = tuple[int, str]
"""Version and the SHA-256 of its bundle."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """A version that was found fit, and is warm."""

    predictor: Predictor
    breaker: Breaker
    loaded_at: datetime
    personal: frozenset[str]
    """Request fields that identify a person, as the bundle knows."""
    _telling: dict[frozenset[str], frozenset[str]] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> int:
        return self.predictor.version

    @property
    def key(self) -> Key:
        return self.predictor.version, self.predictor.bundle.sha256

    def telling(self, personal: frozenset[str]) -> frozenset[str]:
        """Features that are made of some request fields."""
        if (known := self._telling.get(personal)) is None:
            features = self.predictor.bundle.features
            known = frozenset(each.name for each in features if personal.intersection(each.expr.meta.root_names()))
            self._telling[personal] = known
        return known

    def failed(self, error: Exception) -> bool:
        """Counts a failure if it is the version's own, and says whether it is.

        A request that its contract refuses is not, nor is history that is missing: without it no version can answer.
        """
        own = not isinstance(error, (InvalidRequest, StateUnavailable, ModelNotReady))
        if own:
            self.breaker.failed()
        else:
            self.breaker.untried()
        return own


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A version that answers a share of the entities."""

    loaded: Loaded
    share: float
    salt: str
    segment: Segment | None
    sequence: int
    """Of the ledger event that gave it its share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Who answers for a model now."""

    model: str
    plan: Plan
    """What was asked for. What is refused or not yet loaded is missing below, and the champion is the one before (but
    for one that was taken back)."""
    champion: Loaded | None
    previous: Loaded | None
    canary: Canary | None
    shadows: tuple[Loaded, ...]
    idle: tuple[Loaded, ...] = ()
    """Loaded, and without a role: no version has one while the model is killed."""
    state: OnlineState
    personal: frozenset[str] = field(init=False)
    """Request fields that identify a person, as any version knows that it holds on to."""

    def __post_init__(self) -> None:
        personal = frozenset[str]().union(*(each.personal for each in self.loaded().values()))
        object.__setattr__(self, "personal", personal)

    @property
    def killed(self) -> str | None:
        """Why no version may answer."""
        return self.plan.killed

    def loaded(self) -> dict[Key, Loaded]:
        """Every version that it holds on to."""
        return {each.key: each for _, each in self._places()}

    def roles(self) -> dict[Key, str]:
        """What each of them does; of several roles, the most important one."""
        return {each.key: role for role, each in reversed(self._places())}

    def _places(self) -> list[tuple[str, Loaded]]:
        """Roles with their versions, the most important first."""
        single = (
            ("champion", self.champion),
            ("previous_champion", self.previous),
            ("canary", self.canary.loaded if self.canary else None),
        )
        several = (("shadow", self.shadows), ("idle", self.idle))
        return [
            *((role, each) for role, each in single if each is not None),
            *((role, each) for role, some in several for each in some),
        ]


class Admission(Protocol):
    """Reads a bundle that is fit to serve, and refuses any other; ``pilotage.runtime.probe.admit``."""

    def __call__(self, directory: Path, *, sha256: str | None = None) -> Bundle: ...


def load(model: str, assignment: Assignment, *, bundles: Path, policy: Serving, admission: Admission = admit) -> Loaded:
    """Brings a version to where this process keeps them, lets a child process try it, and warms it up.

    Raises:
        BundleCorrupt: It is not fit to serve.
    """
    folder = fetch(
        Path(assignment.bundle),
        sha256=assignment.bundle_sha256,
        bundles=bundles,
        model=model,
        version=assignment.version,
    )
    bundle = admission(folder, sha256=assignment.bundle_sha256)
    predictor = Predictor(bundle, assignment.version)
    predictor.warm()
    return Loaded(
        predictor=predictor,
        breaker=Breaker(after=policy.break_after, pause_s=policy.break_for.total_seconds()),
        loaded_at=datetime.now(UTC),
        personal=frozenset(each.name for each in bundle.request if each.personal),
    )


def arrange(plan: Plan, known: dict[Key, Loaded], before: Board | None, state: OnlineState) -> Board:
    """Puts what is loaded in its places. A version that gets another role begins with a breaker of its own: what it
    failed at as a shadow is not held against the canary.

    Args:
        plan: What is asked for.
        known: What is loaded.
        before: The board until now: its champion stays while the new one can't be had, unless it was taken back.
        state: The model's online state.

    Raises:
        DeclarationError: The canary's segment can't be read.
    """
    board = _placed(plan, known, before, state)
    was = before.roles() if before is not None else {}
    moved = {key for key, role in board.roles().items() if was.get(key, role) != role}
    if not moved:
        return board
    fresh = {key: replace(each, breaker=each.breaker.anew()) if key in moved else each for key, each in known.items()}
    return _placed(plan, fresh, before, state)


def _placed(plan: Plan, known: dict[Key, Loaded], before: Board | None, state: OnlineState) -> Board:
    if plan.killed is not None:
        # What is loaded stays, so that resuming takes no time; but nobody finds a version to ask.
        return Board(
            model=plan.model,
            plan=plan,
            champion=None,
            previous=None,
            canary=None,
            shadows=(),
            idle=tuple(known.values()),
            state=state,
        )

    def find(assignment: Assignment | None) -> Loaded | None:
        return known.get((assignment.version, assignment.bundle_sha256)) if assignment else None

    champion = find(plan.champion)
    if champion is None and plan.champion is not None and before is not None:
        stays = before.champion is not None and before.champion.version not in plan.taken_back
        champion = before.champion if stays else None
    wanted = plan.canary
    canary = find(wanted)
    return Board(
        model=plan.model,
        plan=plan,
        champion=champion,
        previous=find(plan.previous),
        canary=_canary(canary, wanted) if canary is not None and wanted is not None else None,
        shadows=tuple(each for shadow in plan.shadows if (each := find(shadow)) is not None),
        state=state,
    )


def _canary(loaded: Loaded, assignment: Assignment) -> Canary:
    segment = Segment(assignment.segment, loaded.predictor.contract) if assignment.segment else None
    return Canary(
        loaded=loaded, share=assignment.share, salt=assignment.salt, segment=segment, sequence=assignment.sequence
    )
