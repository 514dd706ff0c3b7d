"""A person's kill: in force on this host first, then on record. See ``runtime/kill_notes.py`` for the notes.

The ledger gets each kill once, from whoever reaches it first: who killed, or any worker of the host that reads the
ledger. Its event names the note, so that one which was left behind is known for what it is. The note goes when
the kill is among the host's last known plans, too: a service that is started before any worker has read the ledger
again, and finds no ledger, knows of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from pilotage.errors import KillNotRecorded, LedgerConflict, LedgerUnavailable, PilotageError
from pilotage.release.aliases import show
from pilotage.release.decide import drafted
from pilotage.release.feed import plan_of
from pilotage.release.ledger import Ledger, opened
from pilotage.release.stages import ModelState
from pilotage.release.state import fold, fold_model
from pilotage.runtime.kill_notes import KillNote, KillNotes
from pilotage.runtime.plans_file import PlansFile
from pilotage.settings import Settings

_LOG = logging.getLogger(__name__)


def kill(model: str, *, settings: Settings, actor: str, why: str) -> ModelState:
    """Kills a model here at once, and everywhere by the ledger.

    Raises:
        KillNotRecorded: It holds here alone.
        LedgerUnavailable: It holds nowhere: no service runs on this host, or it could not be noted either.
    """
    notes = KillNotes(settings.service_state)
    note = KillNote.of(model, actor=actor.strip(), why=why.strip())
    if not PlansFile(settings.service_state).is_there():
        # Nobody who serves would read it.
        return _recorded(note, settings)
    try:
        if not notes.write(note):
            _LOG.warning("The kill of %s by %s is noted without the reason (%s)", model, note.actor, note.why)
    except OSError as error:
        _LOG.warning("The kill of %s can't be noted on this host: %s", model, error)
        return _recorded(note, settings)
    try:
        state = _recorded(note, settings)
    except PilotageError as error:
        # Whatever the ledger can't or won't have: who kills wants no answers.
        raise KillNotRecorded(
            f"{model} is killed on this host, and perhaps on no other. {error.message}",
            fix="Kill it on every other host that serves it. The ledger gets it when it can be used again; "
            "a resume needs the ledger.",
            model=model,
        ) from error
    _settle(note, state, settings)
    return state


def record(settings: Settings, *, ledger: Ledger | None = None, report: Callable[[str], object] = _LOG.error) -> None:
    """Puts kills that were noted on this host into the ledger, and takes their notes away.

    Args:
        settings: Where everything is.
        ledger: One that is open already.
        report: Called with a sentence for each that can't be recorded.

    Raises:
        LedgerUnavailable: It can't be used; the notes stay.
        OSError: The notes can't be read.
    """
    notes = KillNotes(settings.service_state)
    for note in notes.read():
        try:
            state = _recorded(note, settings, ledger=ledger)
        except LedgerUnavailable:
            raise
        except PilotageError as error:
            # It holds here, whatever the ledger has of this model that nobody understands.
            report(f"The kill of {note.model} can't be recorded: {error}")
            continue
        _settle(note, state, settings)


def _settle(note: KillNote, state: ModelState, settings: Settings) -> None:
    """Takes a note away that is in the ledger; before, its kill is remembered for a restart, if it is in force still.

    What can't be done now, on a full disk say, is done by the next worker that reads the ledger. Until then it
    holds by its note. So it does where the plan that is remembered is of a later event and of no kill: the ledger is an
    older one that was put back, or somebody has resumed the model since.
    """
    with suppress(OSError):
        if state.killed is not None and PlansFile(settings.service_state).update(plan_of(state)).killed is None:
            return
        KillNotes(settings.service_state).remove(note)


def _recorded(note: KillNote, settings: Settings, *, ledger: Ledger | None = None) -> ModelState:
    """The model's state with this kill in the ledger. Whoever else may have recorded it meanwhile, it is there once:
    somebody may have resumed the model since."""
    payload = {"note": note.id, "since": note.at.isoformat()}
    draft = drafted(note.model, "killed", None, note.actor, note.why, payload)
    with opened(settings, ledger) as book:
        while True:
            events = book.events()
            state = fold_model(note.model, events)
            if state.killed is not None or any(event.payload.get("note") == note.id for event in events):
                return state
            try:
                event = book.append(draft, expected=events[-1].sequence if events else 0)
            except LedgerConflict:
                continue
            state = fold([event], {note.model: state})[note.model]
            break
    show(state, settings=settings)
    return state
