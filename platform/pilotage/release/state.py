"""What the ledger's events amount to: a pure fold, the only way to know what is in production."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pilotage.errors import ReleaseError
from pilotage.release.events import Event


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
    """Of the ledger event that promoted it."""
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
class ModelState:
    """Everything that was decided about a model."""

    model: str
    sequence: int = 0
    """Of the last event about this model."""
    champion: Release | None = None
    history: tuple[Release, ...] = ()
    """Every release, oldest first; the last one is the champion."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()

    def version_of(self, bundle_sha256: str) -> Version | None:
        """The version that a bundle was registered as."""
        return next((known for known in self.versions.values() if known.bundle_sha256 == bundle_sha256), None)


def fold(events: Iterable[Event], states: Mapping[str, ModelState] | None = None) -> dict[str, ModelState]:
    """Applies events, in order, to what was known before them.

    Raises:
        ReleaseError: An event makes no sense here, or is of a kind that this version of the platform does not know
            (to skip it could mean to serve what was killed).
    """
    result = dict(states or {})
    for event in events:
        result[event.model] = _step(result.get(event.model, ModelState(model=event.model)), event)
    return result


def _step(state: ModelState, event: Event) -> ModelState:
    facts = event.payload
    match event.kind, event.version:
        case "registered", int(number) if number not in state.versions:
            version = Version(
                model=event.model,
                version=number,
                bundle=facts["bundle"],
                bundle_sha256=facts["bundle_sha256"],
                registered_at=event.at,
                trained_at=datetime.fromisoformat(facts["trained_at"]),
                mlflow_run_id=facts["mlflow_run_id"],
                run_url=facts["run_url"],
                cause=event.cause,
                facts=facts["facts"],
            )
            return replace(state, sequence=event.sequence, versions={**state.versions, number: version})
        case "refused", None:
            refusal = Refusal(
                model=event.model,
                at=event.at,
                mlflow_run_id=facts["mlflow_run_id"],
                bundle_sha256=facts["bundle_sha256"],
                reasons=tuple(facts["reasons"]),
            )
            return replace(state, sequence=event.sequence, refused=(*state.refused, refusal))
        case "promoted", int(number) if known := state.versions.get(number):
            release = Release(
                model=event.model,
                version=number,
                bundle=known.bundle,
                bundle_sha256=known.bundle_sha256,
                promoted_at=event.at,
                actor=event.actor,
                why=event.cause,
                trained_at=known.trained_at,
                mlflow_run_id=known.mlflow_run_id,
                sequence=event.sequence,
                facts=known.facts,
            )
            return replace(state, sequence=event.sequence, champion=release, history=(*state.history, release))
    raise ReleaseError(
        f"Event {event.sequence} of the ledger ({event.kind} of {event.model} version {event.version}) makes no sense"
        " after what came before it.",
        fix="Upgrade Pilotage if a newer one wrote it; otherwise check the ledger.",
        sequence=event.sequence,
    )
