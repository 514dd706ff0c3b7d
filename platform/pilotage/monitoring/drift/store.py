"""What drift remembers between runs, as JSON below ``<home>/drift/<model>/``: written whole or not at all.

reference-v3.json   bins and daily counts of version 3's reference, with what was learned from them
sample-v3.parquet   a sample of its rows, encoded, for the classifier
state.json          open alarms and incidents
verdict.json        the newest verdict
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from pilotage.errors import DataError
from pilotage.monitoring.drift.bins import Bins
from pilotage.monitoring.drift.counting import Days
from pilotage.monitoring.drift.records import DriftState, DriftVerdict, Thresholds
from pilotage.settings import Settings

Kept = TypeVar("Kept")
FORMAT = 1


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What the present is compared with, for one version of a model. Grain of the counts: one row a day and column."""

    format: int = FORMAT
    bundle_sha256: str
    key: str
    """What of the declaration it was learned by; with another key it is learned again."""
    bins: list[Bins]
    days: list[date]
    counts: dict[str, list[list[int]]]
    sums: dict[str, list[tuple[float, float]]]
    importance: dict[str, float]
    thresholds: Thresholds
    past_effects: list[float]
    """Effects of past windows on the classifier."""

    def counted(self) -> Days:
        """The counts as arrays."""
        count = len(self.days)
        by_name = {each.name: each for each in self.bins}
        return Days(
            tuple(self.days),
            {
                name: np.array(rows, dtype=np.int64).reshape(count, by_name[name].count)
                for name, rows in self.counts.items()
            },
            {name: np.array(rows, dtype=np.float64).reshape(count, 2) for name, rows in self.sums.items()},
        )

    @staticmethod
    def lists(days: Days) -> Mapping[str, Any]:
        """Days as the fields of a record."""
        return {
            "days": list(days.days),
            "counts": {name: each.tolist() for name, each in days.counts.items()},
            "sums": {name: [tuple(row) for row in each.tolist()] for name, each in days.sums.items()},
        }


class DriftStore:
    """The folder of one model."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.folder = settings.home / "drift" / model

    def reference(self, version: int) -> Reference | None:
        """What was learned for a version; ``None`` if nothing was, or by another format."""
        path = self._reference(version)
        if not path.exists() or msgspec.json.decode(path.read_bytes()).get("format") != FORMAT:
            return None
        return _read(path, Reference)

    def keep_reference(self, version: int, reference: Reference) -> Path:
        return _write(self._reference(version), msgspec.json.encode(reference))

    def sample(self, version: int) -> Path:
        """Where the sample of a version's reference is, or will be."""
        return self.folder / f"sample-v{version}.parquet"

    def state(self) -> DriftState:
        path = self.folder / "state.json"
        return _read(path, DriftState) if path.exists() else DriftState()

    def keep(self, verdict: DriftVerdict, state: DriftState) -> None:
        """The verdict first: killed between the two, the window is decided again, by the same state."""
        _write(self.folder / "verdict.json", msgspec.json.format(msgspec.json.encode(verdict)))
        _write(self.folder / "state.json", msgspec.json.format(msgspec.json.encode(state)))

    def _reference(self, version: int) -> Path:
        return self.folder / f"reference-v{version}.json"


def _read(path: Path, kind: type[Kept]) -> Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path} can't be read: {error}.", fix="Delete it; the next drift report learns it again.", path=str(path)
        ) from error


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_bytes(data)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return path
