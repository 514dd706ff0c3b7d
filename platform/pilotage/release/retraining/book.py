"""How an event of a retraining gets into the ledger: checked against the very state it is appended to."""

from __future__ import annotations

from collections.abc import Callable

from pilotage.errors import LedgerConflict
from pilotage.release.events import Draft, Event
from pilotage.release.ledger import Ledger
from pilotage.release.legality import objection
from pilotage.release.stages import ModelState
from pilotage.release.state import fold, fold_model


def state_of(model: str, book: Ledger) -> ModelState:
    """What the ledger says of a model."""
    return fold_model(model, book.events())


def append_when(
    book: Ledger, model: str, make: Callable[[ModelState], Draft | None]
) -> tuple[ModelState, Event | None]:
    """Appends one event to the very state that it was made for.

    Args:
        book: The ledger.
        model: The model.
        make: Gives the event for the state that is found; ``None`` if there is nothing to record. Called again when
            the ledger went on in between.

    Returns:
        The state afterwards, and the event.

    Raises:
        LedgerConflict: The attempt that wants it no longer holds the lease.
        NotReleasable: It may not happen.
    """
    while True:
        events = book.events()
        state = fold_model(model, events)
        draft = make(state)
        if draft is None:
            return state, None
        if (wrong := objection(state, draft)) is not None:
            raise wrong
        try:
            event = book.append(draft, expected=events[-1].sequence if events else 0)
        except LedgerConflict:
            continue
        return fold([event], {model: state})[model], event
