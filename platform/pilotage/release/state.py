"""What the ledger's events amount to: a pure fold, the only way to know what is in production.

The records are in ``stages.py``, what may happen when in ``legality.py``, and what comes of it in ``transitions.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotage.errors import ReleaseError
from pilotage.release.events import ABOUT_PEOPLE, KINDS, Event
from pilotage.release.legality import objection
from pilotage.release.stages import (
    Approval,
    ApprovalRule,
    Challenger,
    Killed,
    ModelState,
    Refusal,
    Release,
    Stage,
    Version,
)
from pilotage.release.transitions import apply

__all__ = [
    "Approval",
    "ApprovalRule",
    "Challenger",
    "Killed",
    "ModelState",
    "Refusal",
    "Release",
    "Stage",
    "Version",
    "fold",
    "fold_model",
]


def fold(events: Iterable[Event], states: Mapping[str, ModelState] | None = None) -> dict[str, ModelState]:
    """Applies events, in order, to what was known before them. Those about people change nothing of a model.

    Raises:
        ReleaseError: An event makes no sense here, or is of a kind that this version of the platform does not know
            (to skip it could mean to serve what was killed).
    """
    result = dict(states or {})
    for event in events:
        state = result.get(event.model, ModelState(model=event.model))
        result[event.model] = state if event.kind in ABOUT_PEOPLE else _step(state, event)
    return result


def fold_model(model: str, events: Iterable[Event]) -> ModelState:
    """What a model is after all events of the ledger; those of other models are not even looked at.

    Raises:
        ReleaseError: As ``fold``, of this model's events.
    """
    mine = [event for event in events if event.model == model]
    return fold(mine).get(model, ModelState(model=model))


def _step(state: ModelState, event: Event) -> ModelState:
    if event.kind not in KINDS:
        raise _senseless(event, "this version of Pilotage does not know such an event.")
    try:
        if (wrong := objection(state, event)) is not None:
            raise _senseless(event, wrong.message)
        return apply(state, event)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _senseless(event, f"its payload is not that of such an event ({error!r}).") from error


def _senseless(event: Event, reason: str) -> ReleaseError:
    about = event.model if event.version is None else f"{event.model} version {event.version}"
    return ReleaseError(
        f"Event {event.sequence} of the ledger ({event.kind} of {about}) makes no sense after what came before it: "
        f"{reason}",
        fix="Upgrade Pilotage if a newer one wrote it; otherwise check the ledger: pilotage audit verify.",
        sequence=event.sequence,
    )
