"""What was decided, when and by whom, and what was in production at a moment that has passed: the ledger, read back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pilotage.release.state import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pilotage.release.events import Event
    from pilotage.release.stages import ModelState, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One event of the ledger."""

    sequence: int
    at: datetime
    model: str
    kind: str
    version: int | None
    actor: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """What the ledger knows of a version."""

    version: int
    stage: str
    bundle_sha256: str
    trained_at: datetime
    trained_because: str
    trained_by: str
    run_url: str
    mlflow_run_id: str
    facts: Mapping[str, Any]
    """What it was trained on; see ``Version``."""
    decisions: tuple[Decision, ...]
    """About it, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """A model as it stood at a moment."""

    state: ModelState
    champion: VersionRecord | None
    """With the decisions up to that moment."""
    until: Release | None
    """What took the champion's place later; ``None`` if nothing did, or there was no champion."""
    erasures: tuple[int, ...] = ()
    """Events after the moment by which people of this model were erased: rows that it learned from may be gone."""


def decisions(
    events: Iterable[Event],
    *,
    models: Collection[str] = (),
    version: int | None = None,
    first: datetime | None = None,
    last: datetime | None = None,
) -> list[Decision]:
    """What was decided, oldest first.

    Args:
        events: All of the ledger's.
        models: Only about these; about all if there are none.
        version: Only about this version, which a rollback may also have gone back to.
        first: Leaves out what was decided earlier.
        last: Leaves out what was decided later.
    """
    return [
        Decision(
            sequence=event.sequence,
            at=event.at,
            model=event.model,
            kind=event.kind,
            version=event.version,
            actor=event.actor,
            why=event.cause,
        )
        for event in events
        if (not models or event.model in models)
        and (version is None or version in (event.version, event.payload.get("to")))
        and (first is None or event.at >= first)
        and (last is None or event.at <= last)
    ]


def version_record(state: ModelState | None, number: int | None, events: Iterable[Event]) -> VersionRecord | None:
    """What is known of a version; ``None`` if the ledger does not know it.

    Args:
        state: What the events amount to, for its model.
        number: The version.
        events: All that count.
    """
    known = state.versions.get(number) if state is not None and number is not None else None
    if known is None:
        return None
    return VersionRecord(
        version=known.version,
        stage=known.stage,
        bundle_sha256=known.bundle_sha256,
        trained_at=known.trained_at,
        trained_because=known.cause,
        trained_by=known.trained_by,
        run_url=known.run_url,
        mlflow_run_id=known.mlflow_run_id,
        facts=known.facts,
        decisions=tuple(decisions(events, models=(known.model,), version=known.version)),
    )


def stood(events: Sequence[Event], moment: datetime) -> dict[str, Then]:
    """How every model stood that was known at a moment.

    Args:
        events: All of the ledger's, in order. Where a clock was set back, what comes before an event that counts does.
        moment: With a time zone.
    """
    known = max((number for number, event in enumerate(events, start=1) if event.at <= moment), default=0)
    before = events[:known]
    then = fold(before)
    now = fold(events[known:], then)
    return {
        model: Then(
            state=state,
            champion=version_record(state, state.champion.version if state.champion else None, before),
            until=_next_release(state, now[model]),
            erasures=tuple(each.sequence for each in events[known:] if (each.model, each.kind) == (model, "erased")),
        )
        for model, state in then.items()
    }


def _next_release(then: ModelState, now: ModelState) -> Release | None:
    if then.champion is None:
        return None
    return next((release for release in now.history if release.sequence > then.champion.sequence), None)
