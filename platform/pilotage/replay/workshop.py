"""Trains, judges and refits versions by the platform's own code, each once: a cache by what they are made of.

A training is counted whenever a policy asks for one, whether the cache knew it or not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from importlib.metadata import version as installed
from pathlib import Path

import msgspec
import polars as pl

from pilotage.errors import TrainingError
from pilotage.replay.history import History, digest
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.training.candidates import train_candidates
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import freeze
from pilotage.training.evaluate import evaluate
from pilotage.training.fit import merged_params
from pilotage.training.gate import judge
from pilotage.training.records import Candidate, Evaluation, TrainingSet, Verdict
from pilotage.training.refit import refit


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One version, as the platform would register it."""

    number: int
    """Versions are numbered from 1, in the order in which a policy trained them."""
    day: date
    """It was trained in this day's night."""
    moment: datetime
    """... at this time (UTC)."""
    why: str
    config: TrainConfig
    folder: Path
    bundle: Bundle
    candidate: Candidate
    training_set_sha256: str

    @property
    def learned_until(self) -> datetime:
        """Newest event (UTC) that it was fitted or calibrated on: a later row is new to it."""
        return datetime.fromisoformat(self.bundle.manifest["training"]["learned_until"])


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache remembers of a training."""

    training_set: TrainingSet
    candidate: Candidate


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache remembers of a judgement."""

    evaluation: Evaluation
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where versions are made."""

    history: History
    cache: Path
    """Folder of trained bundles, by what they are made of; it may be deleted at any time."""
    threads: int
    progress: Callable[[str], None] = lambda _: None

    def train(self, number: int, why: str, *, moment: datetime, day: date, config: TrainConfig) -> Trained:
        """Trains on what was known at a moment.

        Args:
            number: Of the new version.
            why: For the record.
            moment: UTC; labels that became known later are not seen.
            day: Last day of events.
            config: As a ``run.yaml`` would have it.

        Raises:
            TrainingError: There is too little to learn from.
        """
        frame = self._rows(moment, day, config)
        folder = self.cache / self._key(frame, config)
        record = folder / "made.json"
        if not record.exists():
            # Left by a run that was stopped.
            shutil.rmtree(folder, ignore_errors=True)
            self.progress(f"trains on {frame.height:,} rows known in the night of {day}")
            with self._frozen(frame, folder) as made:
                candidate = train_candidates(
                    self.history.spec, made, config=config, directory=folder, threads=self.threads
                )
            record.write_bytes(msgspec.json.encode(_Made(training_set=made, candidate=candidate)))
        made_before = msgspec.json.decode(record.read_bytes(), type=_Made)
        return Trained(
            number=number,
            day=day,
            moment=moment,
            why=why,
            config=config,
            folder=folder,
            bundle=read_bundle(Path(made_before.candidate.bundle), sha256=made_before.candidate.bundle_sha256),
            candidate=made_before.candidate,
            training_set_sha256=made_before.training_set.sha256,
        )

    def adopt(self, bundle: Path, sha256: str, *, day: date, moment: datetime, config: TrainConfig) -> Trained:
        """A version that was made elsewhere, such as the champion of a running platform, as number 1."""
        opened = read_bundle(bundle, sha256=sha256)
        facts = opened.manifest["training"]
        candidate = Candidate(
            model=self.history.spec.name,
            bundle=str(bundle),
            bundle_sha256=sha256,
            params=facts["params"],
            rounds=facts["rounds"],
            threads=facts["threads"],
            parts=facts["parts"],
            boundaries={},
            cross_validation=[],
        )
        return Trained(
            number=1,
            day=day,
            moment=moment,
            why="It was there.",
            config=config,
            folder=bundle.parent,
            bundle=opened,
            candidate=candidate,
            training_set_sha256=facts["training_set_sha256"],
        )

    def judge(self, trained: Trained, champion: Trained) -> tuple[Evaluation, Verdict]:
        """What the platform's gate says to a version, with all that it looks at."""
        against = champion.candidate.bundle_sha256[:16]
        record = trained.folder / f"judged-{against}.json"
        if not record.exists():
            with self._frozen(self._rows(trained.moment, trained.day, trained.config), trained.folder) as made:
                evaluation = evaluate(
                    self.history.spec,
                    made,
                    trained.candidate,
                    champion_bundle=Path(champion.candidate.bundle),
                    champion_version=champion.number,
                    config=trained.config,
                    directory=trained.folder,
                    groups=self.history.groups,
                )
            verdict = judge(self.history.spec, evaluation)
            record.write_bytes(msgspec.json.encode(_Judged(evaluation=evaluation, verdict=verdict)))
        judged = msgspec.json.decode(record.read_bytes(), type=_Judged)
        return judged.evaluation, judged.verdict

    def refit(self, trained: Trained) -> Trained:
        """The same version, fitted on its holdout too."""
        return self._refitted(trained, trained, self._rows(trained.moment, trained.day, trained.config), "refitted")

    def again(self, recipe: Trained, number: int, why: str, *, moment: datetime, day: date) -> Trained:
        """A version's recipe, fitted on everything that was known at another moment."""
        frame = self._rows(moment, day, recipe.config)
        made = replace(recipe, number=number, why=why, moment=moment, day=day)
        return self._refitted(made, recipe, frame, f"again-{digest(frame)[:16]}")

    def _refitted(self, made: Trained, recipe: Trained, frame: pl.DataFrame, name: str) -> Trained:
        folder = recipe.folder / name
        record = folder / "made.json"
        if not record.exists():
            self.progress(f"fits {frame.height:,} rows known in the night of {made.day}")
            with self._frozen(frame, folder) as rows:
                candidate = refit(
                    self.history.spec,
                    rows,
                    recipe.candidate,
                    config=recipe.config,
                    directory=folder,
                    threads=self.threads,
                )
            record.write_bytes(msgspec.json.encode(_Made(training_set=rows, candidate=candidate)))
        known = msgspec.json.decode(record.read_bytes(), type=_Made)
        return replace(
            made,
            candidate=known.candidate,
            bundle=read_bundle(Path(known.candidate.bundle), sha256=known.candidate.bundle_sha256),
            training_set_sha256=known.training_set.sha256,
        )

    def _rows(self, moment: datetime, day: date, config: TrainConfig) -> pl.DataFrame:
        last = min(day, config.data.last or day)
        frame = self.history.training_rows(moment, first=config.data.first, last=last)
        if frame.is_empty():
            raise TrainingError(f"No label was known on {day}.", fix="Begin the replay later.", day=str(day))
        return frame

    @contextmanager
    def _frozen(self, frame: pl.DataFrame, folder: Path) -> Iterator[TrainingSet]:
        """The training set as a file, for as long as it is read: a year of them would fill the disk."""
        history = self.history
        versions = {f"features/{history.spec.name}": history.version}
        made = freeze(history.spec, frame, directory=folder, versions=versions, fingerprint=history.fingerprint)
        try:
            yield made
        finally:
            Path(made.path).unlink(missing_ok=True)

    def _key(self, frame: pl.DataFrame, config: TrainConfig) -> str:
        spec = self.history.spec
        what = {
            "rows": digest(frame),
            "features": self.history.fingerprint,
            "config": config.model_dump(mode="json", exclude_defaults=True),
            "trainer": spec.trainer.model_dump(mode="json"),
            "params": merged_params(spec, config),
            "split": spec.split.model_dump(mode="json"),
            "libraries": {name: installed(name) for name in ("lightgbm", "numpy", "polars", "pilotage")},
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:24]
