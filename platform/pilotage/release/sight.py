"""A decision that is carried out after it was taken: it holds for what could be seen when it was.

A run of Dagster waits in a queue, is tried again if it crashes, and can be repeated days later. Carried out blindly,
the second of two rollbacks of one bad version would take back the good one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pilotage.errors import LedgerConflict
from pilotage.release.events import Event, Kind
from pilotage.release.stages import ModelState
from pilotage.release.state import fold_model

Decision = Literal["kill", "resume", "rollback", "approve", "reject", "shadow", "canary", "promote", "withdraw"]

_KINDS: Mapping[Decision, Kind] = {
    "kill": "killed",
    "resume": "resumed",
    "rollback": "rolled_back",
    "approve": "approved",
    "reject": "rejected",
    "shadow": "shadowed",
    "canary": "canaried",
    "promote": "promoted",
    "withdraw": "retrain_withdrawn",
}
_ALWAYS: frozenset[Decision] = frozenset({"kill", "approve", "reject"})
"""What holds whatever others decide meanwhile: it names what it is about, and none of it gives traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A decision, as somebody took it."""

    decision: Decision
    model: str
    at: datetime
    """When, with a time zone: what was recorded later could not be seen."""
    actor: str
    why: str
    version: int | None = None
    """``None`` for whichever it is about."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What else was asked for, by its name in the event's payload."""

    def is_in(self, event: Event) -> bool:
        """Whether an event says the same, in the same words."""
        return (
            (event.model, event.kind, event.actor, event.cause)
            == (self.model, _KINDS[self.decision], self.actor.strip(), self.why.strip())
            and self.version in (None, event.version)
            and all(event.payload.get(name) == value for name, value in self.asked.items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What there is to do about a decision."""

    state: ModelState
    """The model, now."""
    recorded: Event | None
    """The event that has it on record already, which still holds; ``None`` if it is to be carried out."""


def sight_of(taken: Taken, events: Sequence[Event]) -> Sight:
    """Looks whether a decision is on record, and whether it is still about what could be seen.

    Args:
        taken: The decision.
        events: All of the ledger's, in order.

    Raises:
        LedgerConflict: What it is about has changed since it was taken; or, if it is on record, since that.
    """
    mine = [event for event in events if event.model == taken.model]
    # Where a clock was set back, what comes before an event that could be seen could be, too.
    seen = max((number for number, event in enumerate(mine, start=1) if event.at <= taken.at), default=0)
    done = next((number for number in range(seen, len(mine)) if taken.is_in(mine[number])), None)
    now = fold_model(taken.model, mine)
    if done is None and taken.decision in _ALWAYS:
        return Sight(state=now, recorded=None)
    known = seen if done is None else done + 1
    if _about(taken, fold_model(taken.model, mine[:known])) != _about(taken, now):
        raise _stale(taken, mine, known, recorded=done is not None)
    return Sight(state=now, recorded=None if done is None else mine[done])


def _about(taken: Taken, state: ModelState) -> object:
    """What a decision depends on. A canary that its rollout gives more traffic is still the one to take back."""
    champion = state.champion.sequence if state.champion else None
    known = state.versions.get(taken.version) if taken.version is not None else None
    stage = known.stage if known else None
    match taken.decision:
        case "kill" | "resume":
            return state.killed.sequence if state.killed else None
        case "rollback":
            return champion, state.challenger.first if state.challenger else None
        case "promote":
            return champion, stage
        case "canary":
            return stage, state.challenger.sequence if state.challenger else None
        case "approve":
            return known.approvals if known else ()
        case "shadow" | "reject":
            return stage
        case "withdraw":
            return state.retraining.open.number if state.retraining.open else None


def _stale(taken: Taken, mine: Sequence[Event], known: int, *, recorded: bool) -> LedgerConflict:
    before = _about(taken, fold_model(taken.model, mine[:known]))
    changed = next(
        mine[number]
        for number in range(known, len(mine))
        if _about(taken, fold_model(taken.model, mine[: number + 1])) != before
    )
    about = taken.model if changed.version is None else f"{taken.model} {changed.version}"
    what = f"{about} {changed.kind.replace('_', ' ')} by {changed.actor} (event {changed.sequence})"
    told = f"This was decided at {taken.at:%Y-%m-%d %H:%M:%S} UTC"
    told += f", and is on record as event {mine[known - 1].sequence}" if recorded else ""
    return LedgerConflict(
        f"{told}. What it is about has changed since: {what}. Nothing was recorded.",
        fix=f"Look where {taken.model} stands (pilotage status {taken.model}), and decide again: by a run from the "
        "launchpad, not by one that is repeated.",
        model=taken.model,
        sequence=changed.sequence,
    )
