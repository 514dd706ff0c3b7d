"""What is in production, by the ledger. Only questions; ``promote.py`` decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pilotage.errors import NotReleasable
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.state import ModelState, Release, fold, fold_model
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.features.view import FeatureView
    from pilotage.runtime.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStatus:
    """What ``pilotage status`` tells of a model's releases."""

    model: str
    champion: Release | None
    versions: int
    """Versions that may be released."""
    refused: int
    last_refusal: str | None
    """Its first reason."""
    history: tuple[Release, ...]


def states(*, settings: Settings) -> dict[str, ModelState]:
    """What the ledger says of every model."""
    book = SqlLedger.to_read(settings)
    try:
        return fold(book.events())
    finally:
        book.close()


def champion(model: str, *, settings: Settings, ledger: Ledger | None = None) -> Release | None:
    """The champion of a model, by the ledger; ``None`` before the first promotion."""
    book = ledger or SqlLedger.to_read(settings)
    return fold_model(model, book.events()).champion


def release_status(model: str, *, settings: Settings, ledger: Ledger | None = None) -> ReleaseStatus:
    """What was decided about a model so far."""
    book = ledger or SqlLedger.to_read(settings)
    state = fold_model(model, book.events())
    return ReleaseStatus(
        model=model,
        champion=state.champion,
        versions=len(state.versions),
        refused=len(state.refused),
        last_refusal=state.refused[-1].reasons[0] if state.refused and state.refused[-1].reasons else None,
        history=state.history,
    )


def champion_reference(model: str, *, settings: Settings) -> tuple[int, pl.DataFrame]:
    """The champion's version, and the reference sample that later data is compared with (its features).

    Raises:
        NotReleasable: There is no champion.
        BundleCorrupt: Its bundle is not what was promoted.
    """
    release, bundle = _champion_bundle(model, settings) or (None, None)
    if release is None or bundle is None:
        raise NotReleasable(f"{model} has no champion.", fix=f"Promote a version: pilotage promote {model} VERSION.")
    return release.version, bundle.reference


def champion_view(model: str, *, settings: Settings) -> FeatureView | None:
    """The feature view that the champion was trained with, which the spec may have left behind; ``None`` without one.

    Raises:
        BundleCorrupt: Its bundle is not what was promoted.
    """
    found = _champion_bundle(model, settings)
    return found[1].view if found else None


def _champion_bundle(model: str, settings: Settings) -> tuple[Release, Bundle] | None:
    from pilotage.runtime.bundle import read_bundle

    release = champion(model, settings=settings)
    return (release, read_bundle(Path(release.bundle), sha256=release.bundle_sha256)) if release else None
