"""The online store as the predictor sees it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from pilotage.errors import StateUnavailable
from pilotage.features.state import microseconds
from pilotage.features.store import OnlineStore
from pilotage.runtime.answer import StateRecord
from pilotage.runtime.bundle import Bundle


class OnlineState:
    """The online state of one model. Safe to share between threads; a replaced file is noticed by itself."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet.

        Args:
            path: The model's file, ``<online>/<model>.db``.
        """
        self._store = OnlineStore(path)

    @property
    def through(self) -> datetime | None:
        """When the newest fact in it became known (UTC). Raises ``StateUnavailable``."""
        return self._store.meta.materialised_through

    @property
    def state_id(self) -> str:
        """Names what is in it; the same in every process that reads the same file. Raises ``StateUnavailable``."""
        return self._store.meta.id

    @property
    def versions(self) -> dict[str, int]:
        """Lake table → Delta version that it was built from. Raises ``StateUnavailable``."""
        return self._store.meta.versions

    def record(self) -> StateRecord:
        """What the prediction log holds of it. Raises ``StateUnavailable``."""
        meta = self._store.meta
        through = meta.materialised_through
        return StateRecord(
            state=meta.id,
            model=meta.model,
            through=None if through is None else microseconds(through),
            versions=meta.versions,
        )

    def refresh(self) -> bool:
        """Takes up a replaced file, if there is one; for a background thread. Raises ``StateUnavailable``."""
        return self._store.refresh()

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        """The requests with the bundle's as-of columns, each as known at its own prediction moment.

        Raises:
            StateUnavailable: The store is missing or damaged, or was not built for this version's features.
        """
        return bundle.view.with_state(requests, self._store)

    def check(self, bundle: Bundle) -> None:
        """Sees that the store is there and holds every timeline that the version asks for.

        Raises:
            StateUnavailable: See ``attach``.
        """
        missing = sorted(set(bundle.view.timelines) - set(self._store.meta.timelines))
        if missing:
            raise StateUnavailable(
                f"The online store of {bundle.model} lacks the timeline {missing[0]} that this version asks for.",
                fix="Materialise the model's online store.",
                model=bundle.model,
                timeline=missing[0],
            )

    def close(self) -> None:
        """Lets go of the file."""
        self._store.close()
