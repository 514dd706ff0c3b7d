"""What is in production, by the ledger. Only questions; ``promote.py`` decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.state import ModelState, Release, fold, fold_model
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.features.view import FeatureView


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


def champion_view(model: str, *, settings: Settings) -> FeatureView | None:
    """The feature view that the champion was trained with, which the spec may have left behind; ``None`` without one.

    Raises:
        BundleCorrupt: Its bundle is not what was promoted.
    """
    from pilotage.runtime.bundle import read_bundle

    release = champion(model, settings=settings)
    return read_bundle(Path(release.bundle), sha256=release.bundle_sha256).view if release else None
