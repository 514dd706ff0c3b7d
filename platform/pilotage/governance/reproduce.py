"""Builds a registered version again from its record, and compares: file by file, and answer by answer.

A bundle's manifest says all that is needed (``training/facts.py``): the version of the features' table, the days, the
split, the seed, and the parameters and rounds that were found. What was tried to find them is not tried again; a
version that was fitted once more on all rows is (``training/refit.py``). Nothing is registered, and no record is
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.data.lake import Lake
from pilotage.errors import NotReproducible, RowsErased, UnpublishedData
from pilotage.features.view import FeatureView
from pilotage.runtime.bundle import EXPECTED, FILES, Bundle, read_bundle
from pilotage.spec import HashSplit, ModelSpec, TimeSplit
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble
from pilotage.training.learning_data import effective
from pilotage.training.records import Cut, TrainingSet
from pilotage.training.refit import REFIT_OF, refit
from pilotage.training.train import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library that is another one than then."""

    name: str
    then: str
    now: str
    """Empty if it is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What building a version again showed."""

    model: str
    rows: int
    """Of the training set, as recorded."""
    rows_now: int
    training_set_sha256: str
    """As recorded."""
    training_set_sha256_now: str
    files: Mapping[str, bool]
    """File of the bundle → whether its bytes are the same."""
    golden_rows: int
    """Requests that both versions were asked."""
    largest_difference: float
    """Between two answers to one of them: probabilities, 0..1."""
    libraries: tuple[Library, ...]
    """Those that are others now; they can change bytes."""

    @property
    def same_rows(self) -> bool:
        """Whether it was trained on the same rows."""
        return self.training_set_sha256 == self.training_set_sha256_now

    @property
    def same(self) -> bool:
        """Whether every row and every byte is: of rows that only judged it, nothing is in a bundle."""
        return self.same_rows and all(self.files.values())


def reproduce(
    spec: ModelSpec,
    recorded: Bundle,
    *,
    made: Mapping[str, Any],
    lake: Lake,
    directory: Path,
    threads: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Builds a version again, and compares.

    Args:
        spec: The model, as it is declared now.
        recorded: The version's bundle.
        made: What the ledger says of it: ``policy``, which of several policies of training data it was made by, if
            there were several; ``git_commit``.
        lake: Where its features are.
        directory: An empty folder, for the training set and ``bundle/``.
        threads: OpenMP threads; they do not change the bytes.
        progress: Called with short sentences.

    Raises:
        NotReproducible: The features are declared otherwise now, the record says too little, or the lake does not have
            that version of the features any more, or not all of it, since somebody was erased.
        TrainingError: It can't be trained on what is there now.
    """
    facts = _Facts(recorded)
    if (ours := FeatureView(spec).fingerprint) != recorded.fingerprint:
        raise NotReproducible(
            f"The features of {spec.name} are declared otherwise now ({ours[:12]}) than when this version was trained"
            f" ({recorded.fingerprint[:12]}).",
            fix=f"Use the code of then with the same home; git commit: {made.get('git_commit', 'not known')}.",
            model=spec.name,
        )
    spec, config = _as_then(spec, facts, str(made.get("policy", "")))
    rows = _rows(spec, config, lake, directory, facts.cut, progress)
    candidate = train(spec, rows, config=config, directory=directory, threads=threads, progress=progress)
    if REFIT_OF in recorded.manifest["training"]:
        candidate = refit(spec, rows, candidate, config=config, directory=directory, threads=threads, progress=progress)
    built = read_bundle(Path(candidate.bundle), sha256=candidate.bundle_sha256)
    then, now = recorded.manifest["files"], built.manifest["files"]
    expected = recorded.golden[EXPECTED].to_numpy()
    return Reproduction(
        model=spec.name,
        rows=facts("rows"),
        rows_now=rows.rows,
        training_set_sha256=facts("training_set_sha256"),
        training_set_sha256_now=rows.sha256,
        files={name: then[name]["sha256"] == now[name]["sha256"] for name in FILES},
        golden_rows=len(expected),
        largest_difference=float(np.abs(built.score(recorded.golden) - expected).max(initial=0.0)),
        libraries=tuple(_others(facts("libraries"))),
    )


def _rows(
    spec: ModelSpec,
    config: TrainConfig,
    lake: Lake,
    directory: Path,
    cut: Cut | None,
    progress: Callable[[str], None],
) -> TrainingSet:
    try:
        return assemble(spec, lake=lake, config=config, directory=directory, cut=cut, as_then=True, progress=progress)
    except RowsErased as error:
        raise NotReproducible(
            f"The rows that this version of {spec.name} was trained on are not all there any more: some of version "
            f"{config.data.version} of features/{spec.name} were of somebody who was erased.",
            fix="Nothing brings them back, and so it can't be compared: pilotage audit log shows the erasure.",
            model=spec.name,
            version=config.data.version,
        ) from error
    except (FileNotFoundError, UnpublishedData) as error:
        # Of what was vacuumed, Delta still knows the version, and not the files.
        raise NotReproducible(
            f"The lake does not have version {config.data.version} of features/{spec.name} any more: {error}",
            fix="Restore the lake from a backup: docs/how-to/back-up-and-restore.md.",
            model=spec.name,
            version=config.data.version,
        ) from error


class _Facts:
    """What a manifest says of the training."""

    def __init__(self, bundle: Bundle) -> None:
        self._model = bundle.model
        self._facts: Mapping[str, Any] = bundle.manifest["training"]

    def __call__(self, name: str) -> Any:
        if name not in self._facts:
            raise NotReproducible(
                f"The record of this version of {self._model} says nothing of its {name.replace('_', ' ')}.",
                fix="Only versions that were trained by Pilotage can be built again.",
                model=self._model,
                missing=name,
            )
        return self._facts[name]

    @property
    def cut(self) -> Cut | None:
        """The days that were read; ``None`` in records that only say which days the rows are of."""
        said = self._facts.get("cut")
        if said is None:
            return None
        first, last = (day and date.fromisoformat(day) for day in (said["first"], said["last"]))
        known_by = said.get("known_by")  # Not in records from before labels could be left out.
        return Cut(
            first=first,
            last=last,
            without=[date.fromisoformat(day) for day in said["without"]],
            known_by=known_by and datetime.fromisoformat(known_by),
        )


def _as_then(spec: ModelSpec, facts: _Facts, policy: str) -> tuple[ModelSpec, TrainConfig]:
    """The declaration and the run's configuration, with what was found then in place of what is to be searched."""
    table, versions = f"features/{spec.name}", facts("lake_versions")
    if table not in versions:
        raise NotReproducible(
            f"The record of this version of {spec.name} does not say which version of {table} it was trained on.",
            fix="Only versions that were trained on features of the lake can be built again.",
            model=spec.name,
        )
    first, last = (day and date.fromisoformat(day) for day in (facts("first"), facts("last")))
    then = effective(TrainConfig.from_values(facts("config")), policy)
    data = then.data.model_copy(update={"first": first, "last": last, "version": versions[table]})
    learner = {name: facts(name) for name in ("rounds", "params", "calibration")}
    declared = spec.model_copy(
        update={"trainer": spec.trainer.model_copy(update=learner), "split": _split(facts("split"))}
    )
    return declared, TrainConfig(data=data, seed=facts("seed"))


def _split(said: Mapping[str, Any]) -> TimeSplit | HashSplit:
    """How the rows were divided, without the folds, of which nothing is in a bundle."""
    if said["kind"] == "hash":
        return HashSplit(calibration=said["calibration"], holdout=said["holdout"], salt=said["salt"], folds=0)
    lengths = {name: timedelta(days=said[f"{name}_days"]) for name in ("calibration", "holdout", "embargo")}
    return TimeSplit(**lengths, folds=0)


def _others(then: Mapping[str, str]) -> list[Library]:
    found = (Library(name=name, then=version, now=_installed(name)) for name, version in then.items())
    return [each for each in found if each.then != each.now]


def _installed(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return ""
