"""Aliases that somebody changed in MLflow by hand: each is recorded, and adopted or reverted as the spec says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilotage.errors import LedgerConflict, ReleaseError
from pilotage.release import aliases, commands
from pilotage.release.aliases import CHAMPION, Edit
from pilotage.release.decide import decide
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.stages import ModelState
from pilotage.release.state import fold_model
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

Action = Literal["adopted", "reverted"]

ACTOR = "somebody in MLflow"
"""MLflow keeps no record of who sets an alias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What became of an edit."""

    edit: Edit
    action: Action
    why: str

    @property
    def words(self) -> str:
        """For a log."""
        return f"{_said(self.edit)} It was {self.action}: {self.why}"


def reconcile(spec: ModelSpec, *, settings: Settings) -> list[Reconciled]:
    """Brings MLflow and the ledger together again.

    ``champion`` can be adopted: that is a promotion, by the same rules. ``challenger`` always shows the ledger.

    Args:
        spec: The model; ``rollout.alias_edits`` says what to do.
        settings: Where everything is.

    Raises:
        RegistryUnavailable: MLflow can't be reached.
    """
    book = SqlLedger.of(settings)
    # MLflow first: what was decided after this look is in the ledger, and not yet here, never the other way round.
    seen = aliases.look([spec.name], settings=settings)[spec.name]
    state = fold_model(spec.name, book.events())
    if aliases.lags(state, seen):
        aliases.project(state, settings=settings, over_newer=True)
    done = []
    for edit in aliases.edits(state, seen):
        try:
            action, why, state = _settle(spec, edit, state, settings, book)
        except LedgerConflict:
            # Somebody decided since we looked: what they did not see must not override it. The next look sees both.
            break
        done.append(Reconciled(edit=edit, action=action, why=why))
    if done:
        aliases.project(state, settings=settings, settled=[each.edit.alias for each in done])
    return done


def _settle(
    spec: ModelSpec, edit: Edit, state: ModelState, settings: Settings, book: Ledger
) -> tuple[Action, str, ModelState]:
    """What becomes of an edit, why, and the model's state afterwards.

    Raises:
        LedgerConflict: Somebody decided about the model since this state.
    """
    if refusal := _not_adopted(spec, edit):
        return "reverted", refusal, _record(edit, "reverted", refusal, settings, book)
    why = "Its file says that aliases changed by hand are adopted."
    version = edit.found or 0
    try:
        state = commands.promote(
            edit.model,
            version,
            settings=settings,
            actor=ACTOR,
            why=_said(edit),
            spec=spec,
            how="alias",
            ledger=book,
            seen=state.sequence,
        )
    except LedgerConflict:
        raise
    except ReleaseError as error:
        return "reverted", error.message, _record(edit, "reverted", error.message, settings, book)
    return "adopted", why, _record(edit, "adopted", why, settings, book)


def _not_adopted(spec: ModelSpec, edit: Edit) -> str | None:
    if spec.rollout.alias_edits == "revert":
        return "Its file says that aliases changed by hand are reverted."
    if edit.alias != CHAMPION:
        return "Only the champion's alias can be adopted."
    return "A model in production is not taken out by an alias." if edit.found is None else None


def _record(edit: Edit, action: Action, why: str, settings: Settings, book: Ledger) -> ModelState:
    draft = Draft(
        model=edit.model,
        kind="alias_edited",
        version=edit.found,
        actor=ACTOR,
        cause=f"{_said(edit)} {why}",
        payload={"alias": edit.alias, "expected": edit.expected, "found": edit.found, "action": action},
    )
    return decide(edit.model, lambda _: draft, settings=settings, ledger=book, insist=True)


def _said(edit: Edit) -> str:
    found = f"set to {edit.found}" if edit.found is not None else "removed"
    was = f"version {edit.expected}" if edit.expected is not None else "none"
    return f"The alias {edit.alias} of {edit.model} was {found} in MLflow by hand; by the ledger it is {was}."
