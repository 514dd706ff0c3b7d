"""What an event of the ledger is, and the hash that chains it to the one before. ``ledger.py`` stores them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

Kind = Literal["registered", "refused", "promoted"]
KINDS: tuple[Kind, ...] = ("registered", "refused", "promoted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that somebody wants to append."""

    model: str
    kind: Kind
    actor: str
    """Who decided: a person, or the part of the platform."""
    cause: str
    """Why, in words."""
    version: int | None = None
    payload: Mapping[str, Any]
    """JSON values; never secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the ledger. Grain: one per decision."""

    sequence: int
    """1, 2, 3 … over all models, without gaps."""
    at: datetime
    model: str
    kind: Kind
    version: int | None
    actor: str
    cause: str
    payload: Mapping[str, Any]
    previous: str
    """Hash of the event before; empty for the first."""
    hash: str


def seal(draft: Draft, *, sequence: int, at: datetime, previous: str) -> Event:
    """Makes an event of a draft: SHA-256 over everything in it and the hash of the one before."""
    # A round trip, so that what is hashed is what will be read back.
    payload = json.loads(json.dumps(dict(draft.payload), allow_nan=False))
    unsealed = Event(
        sequence=sequence,
        at=at,
        model=draft.model,
        kind=draft.kind,
        version=draft.version,
        actor=draft.actor,
        cause=draft.cause,
        payload=payload,
        previous=previous,
        hash="",
    )
    return replace(unsealed, hash=hash_of(unsealed))


def hash_of(event: Event) -> str:
    """The hash that an event must have."""
    fields = {**asdict(event), "at": event.at.isoformat()}
    del fields["hash"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def broken_link(events: Iterable[Event]) -> int | None:
    """Sequence number of the first event that was edited, removed before, or reordered; ``None`` if there is none."""
    previous = ""
    for sequence, event in enumerate(events, start=1):
        if event.sequence != sequence or event.previous != previous or event.hash != hash_of(event):
            return sequence
        previous = event.hash
    return None
