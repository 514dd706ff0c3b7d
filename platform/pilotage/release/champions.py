"""What is in production, by the ledger. Only questions; ``promote.py`` decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.release.events import Event
from pilotage.release.ledger import Ledger, SqlLedger, read_on
from pilotage.release.state import ModelState, Release, fold, fold_model
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.features.view import FeatureView


_READ: dict[str, tuple[Event, dict[str, ModelState]]] = {}
"""The last event that this process read of a ledger, by its address, and what is known after it."""


def states(*, settings: Settings) -> dict[str, ModelState]:
    """What the ledger says of every model. A process reads each event once, however often its sensors ask."""
    last, known = _READ.get(settings.ledger, (None, {}))
    book = SqlLedger.to_read(settings)
    try:
        events, all_of_them = read_on(book, last)
    finally:
        book.close()
    now = fold(events, {} if all_of_them else known)
    if events:
        _READ[settings.ledger] = events[-1], now
    return dict(now)


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
