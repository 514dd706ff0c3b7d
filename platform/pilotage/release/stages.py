"""What is known of a model and its versions: records. ``state.py`` makes them of the ledger, nothing else does.

Stages of a version: ``candidate → shadow → canary (steps) → champion → retired``, or ``rejected``, ``rolled_back``.
``killed`` is a state of the model. An A/B test's second version is in the stage ``canary`` too: it gets a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pilotage.release.retraining.records import RetrainingState

if TYPE_CHECKING:
    from pilotage.spec import ModelSpec

Stage = Literal["candidate", "shadow", "canary", "champion", "retired", "rejected", "rolled_back"]


def person(actor: str) -> str:
    """An actor's name as it is compared: ``Ada`` and ``ada `` are one person."""
    return " ".join(actor.split()).casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """Who must approve a version before it gets traffic."""

    needed: int = 0
    """Different people."""
    approvers: tuple[str, ...] = ()
    """Who may; empty means anybody but the one who trained it."""

    @classmethod
    def of(cls, spec: ModelSpec) -> ApprovalRule:
        """The rule that a spec declares."""
        return cls(needed=spec.approvals, approvers=spec.rollout.approvers)

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> ApprovalRule | None:
        """The rule that an event went by; ``None`` for events that name none, such as those from before rules."""
        found = payload.get("approval")
        return None if found is None else cls(needed=int(found["needed"]), approvers=tuple(found["approvers"]))

    def payload(self) -> dict[str, Any]:
        """As an event names it."""
        return {"approval": {"needed": self.needed, "approvers": list(self.approvers)}}

    def lets(self, actor: str, *, trained_by: str) -> bool:
        """Whether somebody may approve."""
        if self.approvers:
            return person(actor) in {person(name) for name in self.approvers}
        return person(actor) != person(trained_by)

    def who(self, trained_by: str) -> str:
        """Who may approve, in words."""
        if self.approvers:
            return " or ".join(self.approvers)
        return f"anybody but {trained_by}, who trained it" if trained_by else "anybody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's word that a version may get traffic."""

    actor: str
    why: str
    at: datetime
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version that passed its gate and may be released."""

    model: str
    version: int
    bundle: str
    """Folder of the bundle in the registry's artifacts."""
    bundle_sha256: str
    registered_at: datetime
    trained_at: datetime
    mlflow_run_id: str
    run_url: str
    cause: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on: rows, first and last day, lake versions, feature fingerprint."""
    trained_by: str = ""
    """Who asked for the training."""
    rule: ApprovalRule = ApprovalRule()
    """Who must approve, by the spec it was trained with."""
    stage: Stage = "candidate"
    since: datetime
    """When it entered its stage, or the step of its canary."""
    sequence: int
    """Of the event that put it there."""
    approvals: tuple[Approval, ...] = ()
    """Of different people, since it was last rejected or rolled back."""
    approval_asked_at: datetime | None = None
    """When its rollout last began to wait for approval; ``None`` if it does not."""
    needs_a_person: str | None = None
    """Why its rollout goes on no more until a person decides; ``None`` if it does."""

    def approved_by(self, rule: ApprovalRule) -> tuple[str, ...]:
        """Who approved it and may."""
        return tuple(each.actor for each in self.approvals if rule.lets(each.actor, trained_by=self.trained_by))


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A version that is, or was, champion."""

    model: str
    version: int
    bundle: str
    bundle_sha256: str
    promoted_at: datetime
    actor: str
    why: str
    trained_at: datetime
    mlflow_run_id: str
    sequence: int
    """Of the ledger event that made it champion: ``promoted``, or ``rolled_back`` from another."""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A candidate that did not pass its gate."""

    model: str
    at: datetime
    mlflow_run_id: str
    bundle_sha256: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenger:
    """The one version that gets a share of the traffic beside the champion."""

    kind: Literal["canary", "ab_test"]
    version: int
    share: float
    """Of the entities, 0..1 (both excluded)."""
    salt: str
    """Hashed with the entity to choose; the same over all steps."""
    segment: str | None = None
    """Expression (JSON, over request columns) of the only requests it gets; ``None`` for all."""
    step: int = 0
    """Index into ``spec.rollout.canary``."""
    since: datetime
    """When this step began."""
    against: int
    """The champion it is compared with."""
    sequence: int
    """Of the event that began this step."""
    first: int
    """Of the event that began the first step, or the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The champion before, which goes on predicting unheard for a while, to tell whether its successor does worse."""

    version: int
    """The champion before."""
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """Nobody gets an answer from this model."""

    why: str
    actor: str
    at: datetime
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """Everything that was decided about a model."""

    model: str
    sequence: int = 0
    """Of the last event that decided something about this model; requests to retrain it are none."""
    champion: Release | None = None
    history: tuple[Release, ...] = ()
    """Every release, oldest first; the last one is the champion."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
    challenger: Challenger | None = None
    killed: Killed | None = None
    """Why no version answers; ``None`` if they may."""
    pauses: tuple[tuple[datetime, datetime], ...] = ()
    """From when to when it was killed, of kills that are over; oldest first."""
    watch: Watch | None = None
    """The champion before, while it is compared with the champion."""
    retraining: RetrainingState = field(default_factory=RetrainingState)

    def version_of(self, bundle_sha256: str) -> Version | None:
        """The version that a bundle was registered as."""
        return next((known for known in self.versions.values() if known.bundle_sha256 == bundle_sha256), None)

    @property
    def canary(self) -> Challenger | None:
        """The version that a rollout gives a share to."""
        return self.challenger if self.challenger and self.challenger.kind == "canary" else None

    @property
    def ab_test(self) -> Challenger | None:
        """The version that an A/B test gives a share to."""
        return self.challenger if self.challenger and self.challenger.kind == "ab_test" else None

    @property
    def shadows(self) -> tuple[Version, ...]:
        """Versions that predict and are not heard, oldest first."""
        return tuple(sorted(self._in("shadow"), key=lambda each: each.version))

    @property
    def under_way(self) -> Version | None:
        """The version that a rollout has to decide about next: the canary, else the newest shadow."""
        if self.challenger is not None:
            return self.versions[self.challenger.version] if self.canary else None
        return self.shadows[-1] if self.shadows else None

    @property
    def waiting(self) -> Version | None:
        """The newest candidate, if it is newer than the champion and than whatever is under way."""
        newest = max(self._in("candidate"), key=lambda each: each.version, default=None)
        others = [each.version for each in self.shadows]
        others += [each.version for each in (self.champion, self.challenger) if each is not None]
        return newest if newest is not None and newest.version > max(others, default=0) else None

    def paused(self, since: datetime, until: datetime) -> timedelta:
        """How long it was killed between two moments, in kills that are over."""
        spans = ((max(since, begin), min(until, end)) for begin, end in self.pauses)
        return sum((end - begin for begin, end in spans if end > begin), timedelta(0))

    @property
    def resumed_at(self) -> datetime | None:
        """When it was last allowed to answer again; ``None`` if it never was killed, or still is for the first time."""
        return self.pauses[-1][1] if self.pauses else None

    def evidence_since(self, version: int) -> datetime:
        """From when on predictions say something about a version's stage: since it and the champion are where they are.

        A shadow outlives a change of champion; what it was compared with before is gone.
        """
        since = self.versions[version].since
        return max(since, self.champion.promoted_at) if self.champion else since

    def earlier_champions(self) -> Iterator[Release]:
        """Champions that were replaced and not rolled back, the latest first, each once."""
        seen = {self.champion.version} if self.champion else set()
        for release in reversed(self.history):
            if release.version not in seen and self.versions[release.version].stage == "retired":
                seen.add(release.version)
                yield release

    def was_champion(self, version: int) -> bool:
        """Whether a version ever was champion."""
        return any(release.version == version for release in self.history)

    def _in(self, stage: Stage) -> Iterator[Version]:
        return (each for each in self.versions.values() if each.stage == stage)
