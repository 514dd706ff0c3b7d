"""The online state of one model as a serving process holds it: loaded into memory, and replaced when its file is.

Requests are answered from memory and never touch the disk. A thread that can wait calls ``refresh``; it swaps one
reference. A file too large for memory is asked where it is.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path

import polars as pl

from pilotage.errors import StateUnavailable
from pilotage.features.memory import MemoryStore
from pilotage.features.state import microseconds
from pilotage.features.store import OnlineStore, StoreMeta, identity_of
from pilotage.runtime.answer import StateRecord
from pilotage.runtime.bundle import Bundle

LARGEST_IN_MEMORY = 256 * 1024 * 1024
"""Bytes of a file that is still loaded. In memory it takes about twice as many, and 300 for each key."""
_RETRY_S = 10.0
"""Seconds after which a file that could not be read is tried again, though it was not replaced."""


class Snapshot:
    """One state of the state: everything that one request reads of it belongs together."""

    __slots__ = ("id", "meta", "store", "through")

    def __init__(self, store: MemoryStore | OnlineStore) -> None:
        self.store = store
        self.meta: StoreMeta = store.meta
        self.id = self.meta.id
        self.through = self.meta.materialised_through


class OnlineState:
    """The online state of one model. Safe to share between threads."""

    def __init__(self, path: Path, *, largest_in_memory: int = LARGEST_IN_MEMORY) -> None:
        """Opens nothing yet.

        Args:
            path: The model's file, ``<online>/<model>.db``.
            largest_in_memory: Bytes of a file that is still loaded.
        """
        self.problem: str | None = None
        """Why a newer file could not be taken up, while an older state goes on answering."""
        self._path = path
        self._largest = largest_in_memory
        self._snapshot: Snapshot | None = None
        self._identity: tuple[int, int, int] | None = None
        """Of the file that the snapshot is of."""
        self._refused: tuple[tuple[int, int, int], float, StateUnavailable] | None = None
        """A file that could not be read, when it is tried again, and why."""
        self._lock = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """What is loaded now; loads it if nothing was yet. Raises ``StateUnavailable``."""
        snapshot = self._snapshot
        while snapshot is None:
            self.refresh()
            snapshot = self._snapshot
        return snapshot

    @property
    def through(self) -> datetime | None:
        """When the newest fact in it became known (UTC). Raises ``StateUnavailable``."""
        return self.snapshot.through

    @property
    def state_id(self) -> str:
        """Names what is in it; the same in every process that reads the same file. Raises ``StateUnavailable``."""
        return self.snapshot.id

    @property
    def versions(self) -> dict[str, int]:
        """Lake table → Delta version that it was built from. Raises ``StateUnavailable``."""
        return self.snapshot.meta.versions

    def record(self) -> StateRecord:
        """What the prediction log holds of it. Raises ``StateUnavailable``."""
        snapshot = self.snapshot
        return StateRecord(
            state=snapshot.id,
            model=snapshot.meta.model,
            through=None if snapshot.through is None else microseconds(snapshot.through),
            versions=snapshot.meta.versions,
        )

    def refresh(self) -> bool:
        """Takes up a replaced file, if there is one. For a thread that can wait: loading takes up to seconds.

        Once something is loaded, a file that is missing or damaged changes nothing but ``problem``.

        Raises:
            StateUnavailable: Nothing was ever loaded, and there is no file that can be.
        """
        with self._lock:
            try:
                return self._take_up()
            except StateUnavailable as error:
                if self._snapshot is None:
                    raise
                self.problem = f"{error.message} The state of before goes on answering."
                return False

    def attach(self, requests: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
        """The requests with the bundle's as-of columns, each as known at its own prediction moment.

        Raises:
            StateUnavailable: The store is missing or damaged, or was not built for this version's features.
        """
        return bundle.view.with_state(requests, self.snapshot.store)

    def check(self, bundle: Bundle) -> None:
        """Takes up a replaced file, and sees that every timeline is there that a version asks for.

        Raises:
            StateUnavailable: See ``attach``.
        """
        self.refresh()
        missing = sorted(set(bundle.view.timelines) - set(self.snapshot.meta.timelines))
        if missing:
            raise StateUnavailable(
                f"The online store of {bundle.model} lacks the timeline {missing[0]} that this version asks for.",
                fix="Materialise the model's online store.",
                model=bundle.model,
                timeline=missing[0],
            )

    def close(self) -> None:
        """Lets go of what is loaded; the next use loads it again."""
        with self._lock:
            snapshot, self._snapshot, self._identity = self._snapshot, None, None
            if snapshot is not None and isinstance(snapshot.store, OnlineStore):
                snapshot.store.close()

    def _take_up(self) -> bool:
        identity = identity_of(self._path)
        if identity == self._identity:
            self.problem = None
            return False
        if self._refused is not None and self._refused[0] == identity and time.monotonic() < self._refused[1]:
            raise self._refused[2]
        try:
            large = identity[2] > self._largest
            loaded = Snapshot(OnlineStore.open(self._path, follow=False) if large else MemoryStore.load(self._path))
        except StateUnavailable as error:
            self._refused = (identity, time.monotonic() + _RETRY_S, error)
            raise
        # One assignment: a request sees the old state or the new one, whole. A large store that is replaced is left to
        # the garbage collector, since a request may still be asking it.
        self._snapshot, self._identity = loaded, identity
        self.problem = self._refused = None
        return True
