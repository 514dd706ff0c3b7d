"""Aliases that somebody changed in MLflow by hand: each is recorded, and adopted or reverted as the spec says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilotage.errors import ReleaseError
from pilotage.release import aliases, commands
from pilotage.release.aliases import CHAMPION, Edit
from pilotage.release.decide import decide
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.state import fold_model
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

ACTOR = "somebody in MLflow"
"""MLflow keeps no record of who sets an alias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What became of an edit."""

    edit: Edit
    action: Literal["adopted", "reverted"]
    why: str

    @property
    def words(self) -> str:
        """For a log."""
        return f"{_said(self.edit)} It was {self.action}: {self.why}"


def reconcile(spec: ModelSpec, *, settings: Settings, ledger: Ledger | None = None) -> list[Reconciled]:
    """Brings MLflow and the ledger together again.

    ``champion`` can be adopted: that is a promotion, by the same rules. ``challenger`` always shows the ledger.

    Args:
        spec: The model; ``rollout.alias_edits`` says what to do.
        settings: Where everything is.
        ledger: Another ledger than the settings'.

    Raises:
        RegistryUnavailable: MLflow can't be reached.
    """
    book = ledger or SqlLedger.of(settings)
    # MLflow first: what was decided after this look is in the ledger, and not yet here, never the other way round.
    seen = aliases.look([spec.name], settings=settings)[spec.name]
    state = fold_model(spec.name, book.events())
    done = []
    for edit in aliases.edits(state, seen):
        action, why = _settle(spec, edit, settings, book)
        done.append(Reconciled(edit=edit, action=action, why=why))
    if not done and aliases.lags(state, seen):
        aliases.project(state, settings=settings)
    return done


def _settle(
    spec: ModelSpec, edit: Edit, settings: Settings, book: Ledger
) -> tuple[Literal["adopted", "reverted"], str]:
    if refusal := _not_adopted(spec, edit):
        _record(edit, "reverted", refusal, settings, book)
        return "reverted", refusal
    why = "Its file says that aliases changed by hand are adopted."
    version = edit.found or 0
    try:
        commands.promote(
            edit.model,
            version,
            settings=settings,
            actor=ACTOR,
            why=_said(edit),
            spec=spec,
            how="alias",
            ledger=book,
        )
    except ReleaseError as error:
        _record(edit, "reverted", error.message, settings, book)
        return "reverted", error.message
    _record(edit, "adopted", why, settings, book)
    return "adopted", why


def _not_adopted(spec: ModelSpec, edit: Edit) -> str | None:
    if spec.rollout.alias_edits == "revert":
        return "Its file says that aliases changed by hand are reverted."
    if edit.alias != CHAMPION:
        return "Only the champion's alias can be adopted."
    return "A model in production is not taken out by an alias." if edit.found is None else None


def _record(edit: Edit, action: Literal["adopted", "reverted"], why: str, settings: Settings, book: Ledger) -> None:
    """Records it, and shows the ledger's state in MLflow, which reverts the alias."""
    draft = Draft(
        model=edit.model,
        kind="alias_edited",
        version=edit.found,
        actor=ACTOR,
        cause=f"{_said(edit)} {why}",
        payload={"alias": edit.alias, "expected": edit.expected, "found": edit.found, "action": action},
    )
    decide(edit.model, lambda _: draft, settings=settings, ledger=book, insist=True)


def _said(edit: Edit) -> str:
    found = f"set to {edit.found}" if edit.found is not None else "removed"
    was = f"version {edit.expected}" if edit.expected is not None else "none"
    return f"The alias {edit.alias} of {edit.model} was {found} in MLflow by hand; by the ledger it is {was}."
