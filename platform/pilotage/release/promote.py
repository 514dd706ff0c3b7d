"""One way to the front: ``promote`` verifies, decides in the ledger, then shows it in MLflow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pilotage.errors import BundleCorrupt, LedgerConflict, NotReleasable, RegistryUnavailable
from pilotage.release import mlflow_store
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.state import ModelState, Release, fold
from pilotage.runtime.probe import admit
from pilotage.settings import Settings

ALIAS = "champion"


def promote(
    model: str, version: int, *, settings: Settings, actor: str, why: str, ledger: Ledger | None = None
) -> Release:
    """Makes a registered version the champion.

    Args:
        model: The model.
        version: A version that passed its gate.
        settings: Where everything is.
        actor: Who decides.
        why: The reason, in words.
        ledger: Another ledger than the settings'.

    Returns:
        The release. If the version is champion already, that release, and nothing is recorded twice.

    Raises:
        NotReleasable: There is no such version, or it was refused, or its bundle is corrupt.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    book = ledger or SqlLedger.of(settings)
    seen = None
    while True:
        events = book.events()
        head = events[-1].sequence if events else 0
        state = fold(events).get(model, ModelState(model=model))
        if seen is not None and state.sequence != seen:
            raise LedgerConflict(
                f"Somebody else decided about {model} in the meantime (event {state.sequence}).",
                fix="Look at the new state, and decide again.",
                model=model,
            )
        if state.champion and state.champion.version == version:
            _show(state.champion, settings)
            return state.champion
        if seen is None:
            _check(state, version)
            seen = state.sequence
        draft = Draft(model=model, kind="promoted", version=version, actor=actor, cause=why, payload={})
        try:
            event = book.append(draft, expected=head)
        except LedgerConflict:
            # Perhaps it was about another model; then nothing has changed for this one.
            continue
        break
    release = fold([*events, event])[model].champion
    if release is None:
        raise NotReleasable(f"{model} has no champion after its promotion.", fix="Check the ledger.")
    _show(release, settings)
    return release


def project(release: Release, *, settings: Settings) -> None:
    """Sets MLflow's alias ``champion`` to what the ledger says.

    Raises:
        RegistryUnavailable: MLflow can't be reached.
    """
    with mlflow_store.session(settings) as client:
        client.set_registered_model_alias(release.model, ALIAS, str(release.version))


def _show(release: Release, settings: Settings) -> None:
    """Projects if MLflow is there. The ledger has decided; to promote again brings a lagging alias up to date."""
    with suppress(RegistryUnavailable):
        project(release, settings=settings)


def _check(state: ModelState, version: int) -> None:
    if (known := state.versions.get(version)) is None:
        have = ", ".join(str(number) for number in sorted(state.versions)) or "none"
        raise NotReleasable(
            f"{state.model} has no version {version} that passed its gate (there are: {have}).",
            fix="Promote one of those, or train a new candidate.",
            model=state.model,
            version=version,
        )
    try:
        admit(Path(known.bundle), sha256=known.bundle_sha256)
    except BundleCorrupt as error:
        raise NotReleasable(
            f"{state.model} version {version} may not become champion: {error.message}",
            fix=error.fix,
            model=state.model,
            version=version,
        ) from error
