"""One way to the front for who has only a model and a version: ``promote``, and its release."""

from __future__ import annotations

from pilotage.errors import NotReleasable
from pilotage.release import commands
from pilotage.release.ledger import Ledger
from pilotage.release.stages import ApprovalRule, Release
from pilotage.settings import Settings
from pilotage.spec import ModelSpec


def promote(
    model: str,
    version: int,
    *,
    settings: Settings,
    actor: str,
    why: str,
    spec: ModelSpec | None = None,
    rule: ApprovalRule | None = None,
    how: str = "by hand",
    ledger: Ledger | None = None,
) -> Release:
    """Makes a registered version the champion. Arguments and errors as in ``pilotage.release.commands.promote``.

    Returns:
        The release. If the version is champion already, that release, and nothing is recorded twice.
    """
    state = commands.promote(
        model, version, settings=settings, actor=actor, why=why, spec=spec, rule=rule, how=how, ledger=ledger
    )
    if state.champion is None:
        raise NotReleasable(f"{model} has no champion after its promotion.", fix="Check the ledger.")
    return state.champion
