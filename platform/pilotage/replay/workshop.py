"""Trains the versions of an engine-only replay by the platform's own code, each once: a cache by what it is made of.

A training is counted whenever a policy asks for one, whether the cache knew it or not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from importlib.metadata import version as installed
from pathlib import Path

import msgspec
import polars as pl

from pilotage.errors import TrainingError
from pilotage.replay.history import History, digest
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import freeze
from pilotage.training.fit import merged_params
from pilotage.training.records import Candidate, TrainingSet
from pilotage.training.train import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One version, as the platform would register it."""

    number: int
    """Versions are numbered from 1, in the order in which a policy trained them."""
    day: date
    """It was trained in this day's night."""
    why: str
    bundle: Bundle
    candidate: Candidate
    training_set_sha256: str
    learned_until: datetime
    """Newest event (UTC) that it was fitted or calibrated on: a later row is new to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where versions are made."""

    history: History
    cache: Path
    """Folder of trained bundles, by what they are made of; it may be deleted at any time."""
    threads: int
    progress: Callable[[str], None] = lambda _: None

    def train(
        self, number: int, why: str, *, moment: datetime, day: date, first: date | None, config: TrainConfig
    ) -> Trained:
        """Trains on what was known at a moment.

        Args:
            number: Of the new version.
            why: For the record.
            moment: UTC; labels that became known later are not seen.
            day: Last day of events.
            first: First day of events; ``None`` for all.
            config: As a ``run.yaml`` would have it; its days are not read.

        Raises:
            TrainingError: There is too little to learn from.
        """
        frame = self.history.training_rows(moment, first=first, last=day)
        if frame.is_empty():
            raise TrainingError(f"No label was known on {day}.", fix="Begin the replay later.", day=str(day))
        folder = self.cache / self._key(frame, config)
        record = folder / "made.json"
        if not record.exists():
            self.progress(f"trains on {frame.height:,} rows known on the night of {day}")
            self._make(folder, record, frame, config)
        made = msgspec.json.decode(record.read_bytes(), type=_Made)
        candidate = made.candidate
        bundle = read_bundle(folder / "bundle", sha256=candidate.bundle_sha256)
        until = bundle.manifest["training"]["learned_until"]
        return Trained(
            number=number,
            day=day,
            why=why,
            bundle=bundle,
            candidate=candidate,
            training_set_sha256=made.training_set.sha256,
            learned_until=datetime.fromisoformat(until),
        )

    def _make(self, folder: Path, record: Path, frame: pl.DataFrame, config: TrainConfig) -> None:
        history = self.history
        # Left by a run that was stopped.
        shutil.rmtree(folder, ignore_errors=True)
        versions = {f"features/{history.spec.name}": history.version}
        made = freeze(history.spec, frame, directory=folder, versions=versions, fingerprint=history.fingerprint)
        candidate = train(history.spec, made, config=config, directory=folder, threads=self.threads)
        # Its rows are in the history; a year of training sets would fill the disk.
        Path(made.path).unlink()
        record.write_bytes(msgspec.json.encode(_Made(training_set=made, candidate=candidate)))

    def _key(self, frame: pl.DataFrame, config: TrainConfig) -> str:
        spec = self.history.spec
        what = {
            "rows": digest(frame),
            "features": self.history.fingerprint,
            "config": config.model_dump(mode="json"),
            "trainer": spec.trainer.model_dump(mode="json"),
            "params": merged_params(spec, config),
            "split": spec.split.model_dump(mode="json"),
            "libraries": {name: installed(name) for name in ("lightgbm", "numpy", "polars", "pilotage")},
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:24]


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache remembers of a training."""

    training_set: TrainingSet
    candidate: Candidate
