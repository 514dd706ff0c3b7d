"""Erases a person: finds what the platform holds of them, takes it out, and records that it was done.

``whom.py`` says which rows are theirs, ``places.py`` where they can be. What is kept, and why, is in
docs/adr/0018-erasure.md; nothing here claims more than was done: after it, everything is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data import erased
from pilotage.data.lake import Lake
from pilotage.data.raw import SOURCE_FILE
from pilotage.data.source import Files, SourceSpec, SqlTable
from pilotage.errors import ConfigError, NotErased
from pilotage.features.build import made_by
from pilotage.governance.places import (
    Answers,
    Candidates,
    Found,
    OnlineStore,
    Place,
    Table,
    in_bundle,
    still_written,
    unmoved,
)
from pilotage.governance.whom import Known, Person, as_delivered, as_logged, by_columns, identifying, in_sources
from pilotage.monitoring.log_frames import entity_key
from pilotage.monitoring.move_plan import nobody_else_moves
from pilotage.pseudonyms import Pseudonyms
from pilotage.release.decide import signed
from pilotage.release.events import Draft, Event
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.state import Version, fold
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

BEGUN, DONE = "erasure_begun", "erased"
MOVER = "move_prediction_log"
"""The Dagster job that moves the service's log into the lake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A bundle with rows of a person, which can't lose them and still be the version that was released."""

    model: str
    version: int
    stage: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the platform holds of a person at a moment."""

    person: Person
    found: tuple[Found, ...]
    """Places that hold something."""
    unmoved: Mapping[str, int]
    """Segment of the service's log → records of theirs; only a job gets them out of there."""
    kept: tuple[Kept, ...]
    elsewhere: tuple[str, ...]
    """Where they came from and were shown, which the platform can't change; each in a sentence."""
    written: tuple[str, ...]
    """Files of the home in which a value of theirs is written, other than those of the lake."""
    unsearched: tuple[str, ...]
    """Columns with a value that is too short to be searched for in files."""
    earlier: tuple[Event, ...]
    """The ledger's events about erasing them."""

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.found)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing that can be erased."""
        return not self.found and not self.unmoved

    @property
    def unfinished(self) -> Event | None:
        """An erasure that was begun, and not finished."""
        last = self.earlier[-1] if self.earlier else None
        return last if last is not None and last.kind == BEGUN else None


@dataclass(kw_only=True)
class Erasure:
    """The erasure of one person.

    Args:
        person: Whom.
        models: Every declared model: others may know the same person by the same source.
        sources: Every declared source.
        settings: Where everything is.
        lake: The lake.
        pseudonyms: By the key of this platform.
        ledger: Another ledger than the settings'.
    """

    person: Person
    models: Mapping[str, ModelSpec]
    sources: Mapping[str, SourceSpec]
    settings: Settings
    lake: Lake
    pseudonyms: Pseudonyms
    ledger: Ledger | None = None
    _known: dict[str, Known] = field(default_factory=dict)

    def look(self) -> Picture:
        """What is held of the person. Changes nothing."""
        events = [each for each in self._events() if each.payload.get("person") == self.person.pseudonym]
        written, unsearched = still_written(self.settings, self.person.key)
        # The log before the lake: what goes from one into the other meanwhile is seen there.
        unmoved = self._unmoved()
        return Picture(
            person=self.person,
            found=tuple(found for place in self._places() if (found := place.look())),
            unmoved=unmoved,
            kept=self._all_kept(events),
            elsewhere=tuple(self._elsewhere()),
            written=tuple(written),
            unsearched=tuple(unsearched),
            earlier=tuple(each for each in events if each.kind in (BEGUN, DONE)),
        )

    def carry_out(self, *, actor: str, why: str) -> tuple[Picture, Event | None]:
        """Erases the person, and looks again. Safe to repeat: what was interrupted goes on.

        Returns:
            What was found, with the files that have a value of theirs still; and the event that says that nothing is
            left, or ``None`` if nothing was there.

        Raises:
            ConfigError: Who or why is missing, or names the person, which the ledger would keep.
            NotErased: Something of them is where only a job gets it from, or came back meanwhile.
            LakeError, LogUnavailable, LedgerUnavailable: A place can't be changed now. What was done stays done.
        """
        from filelock import FileLock

        signed(actor, why)
        self._refuse_naming(actor, why)
        with FileLock(self.settings.home / "erasure.lock"), self._log_stays():
            before = self.look()
            self._require_moved(before)
            if before.nothing and before.unfinished is None:
                return before, None
            kept = [asdict(each) for each in before.kept]
            elsewhere = [said for said in before.elsewhere if not self._named_in(said)]
            found = {"found": _counts(before), "kept": kept, "elsewhere": elsewhere}
            begun = before.unfinished or self._record(BEGUN, actor, why, found)
            for source, values in self._in_sources():
                erased.keep_out(source, values, lake=self.lake, pseudonyms=self.pseudonyms)
            note = {"pilotage": "erasure", "run_id": f"erasure-{begun.sequence}"}
            for place in self._places():
                place.erase(note | self._still_true(place))
            after = self.look()
            self._require_moved(after)
            if after.found:
                left = ", ".join(f"{each.place} ({each.rows} rows, {each.old_files} old files)" for each in after.found)
                raise NotErased(
                    f"Something of them is left, or came back meanwhile: {left}.",
                    fix="Run it again when no run is under way. A file that a writer may be at goes an hour later.",
                    left=_counts(after),
                )
            payload = {"begun": begun.sequence, "found": begun.payload["found"], "kept": kept}
            return replace(before, written=after.written), self._record(DONE, actor, why, payload)

    # Where

    @cached_property
    def _concerned(self) -> list[ModelSpec]:
        """The models that know the person by these columns: their own, and others of the same source."""
        own = self.models[self.person.model]
        key = set(self.person.key)
        return [own] + [
            spec
            for spec in self.models.values()
            if spec.name != own.name
            and spec.source == own.source
            and key <= {*identifying(spec), *spec.request_types()}
        ]

    def _in_sources(self) -> list[tuple[str, dict[str, Any]]]:
        """Source, and column of its prepared rows → value of the person."""
        found: list[tuple[str, dict[str, Any]]] = []
        for spec in self._concerned:
            for source, on in in_sources(spec, list(self.person.key)):
                values = {column: self.person.key[name] for name, column in on.items()}
                if source in self.sources and (source, values) not in found:
                    found.append((source, values))
        return found

    def _places(self) -> list[Place]:
        """Every place, in the order of erasing: what is found by other rows goes before these, and what is made of
        other rows after them, so that a run which goes on meanwhile brings little back."""
        key, logged = self.person.key, self._logged
        places: list[Place] = [Answers(self.settings, self._all_predictions, key)]
        for spec in self._concerned:
            theirs = self._known_of(spec).or_by(logged)
            tables = (f"shadows/{spec.name}", f"outcomes/{spec.name}", f"quarantine/{spec.name}_outcomes")
            places += [self._table(name, theirs) for name in tables]
        places += [Candidates(self.settings, spec.name, by_columns(key)) for spec in self._concerned]
        for source, values in self._in_sources():
            places.append(self._table(f"raw/{source}", as_delivered(self.sources[source], values)))
            places += [self._table(f"{room}/{source}", by_columns(values)) for room in ("quarantine", "validated")]
        for spec in self._concerned:
            places += [self._table(f"{room}/{spec.name}", by_columns(key)) for room in ("features", "scores")]
        places += [self._table(f"predictions/{spec.name}", logged) for spec in self._concerned]
        places += [OnlineStore(self.settings, self.lake, spec, key) for spec in self._concerned if spec.asof]
        return places

    def _table(self, name: str, whose: Any) -> Table:
        return Table(self.lake, name, whose)

    @property
    def _logged(self) -> Any:
        return as_logged(self.person.key, pseudonyms=self.pseudonyms)

    def _known_of(self, spec: ModelSpec) -> Known:
        """Their predictions and entities, of whatever version of the tables; remembered, since they are gone at the
        end."""
        if spec.name not in self._known:
            known = self._known[spec.name] = Known()
            for rows in self._rows(self._table(f"predictions/{spec.name}", self._logged)):
                known.add(rows)
            personal = {each.name for each in spec.request if each.personal}
            for rows in self._rows(self._table(f"features/{spec.name}", by_columns(self.person.key))):
                for entity in rows.select(spec.entity).unique().iter_rows(named=True):
                    known.entities.add(entity_key(self.pseudonyms.hide(entity, personal)))
        return self._known[spec.name]

    def _all_predictions(self) -> set[str]:
        return set[str]().union(*(self._known_of(spec).predictions for spec in self._concerned))

    def _rows(self, table: Table) -> Iterator[pl.DataFrame]:
        """Their rows in a table, a file at a time."""
        for held in table.held().files:
            rows = self.lake.folder(table.name).rows(held.file.path)
            yield rows.filter(table.whose(rows))

    # What else

    def _unmoved(self) -> dict[str, int]:
        known = {spec.name: self._known_of(spec) for spec in self._concerned}
        return unmoved(self.settings, known, self._logged)

    def _kept(self) -> Iterator[Kept]:
        for spec in self._concerned:
            frames = list(self._rows(self._table(f"features/{spec.name}", by_columns(self.person.key))))
            features = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
            for known, bundle in self._bundles(spec):
                if bundle is not None and (rows := in_bundle(bundle, self.person.key, features)):
                    yield Kept(model=spec.name, version=known.version, stage=known.stage, rows=rows)

    def _all_kept(self, events: Iterable[Event]) -> tuple[Kept, ...]:
        """What can be found now, and what an earlier erasure found in bundles that are still here: a sample of training
        rows names nobody, so that it is known for theirs only while their rows are there."""
        there = {(spec.name, known.version) for spec in self._concerned for known, b in self._bundles(spec) if b}
        then = [Kept(**each) for event in events for each in event.payload.get("kept", ())]
        known = {(each.model, each.version): each for each in [*then, *self._kept()]}
        return tuple(known[place] for place in sorted(known) if place in there)

    def _bundles(self, spec: ModelSpec) -> Iterator[tuple[Version, Path | None]]:
        """The versions of a model, each with its bundle: the registry's, else the service's copy, if one is here."""
        state = fold(self._events()).get(spec.name)
        for number, known in sorted(state.versions.items()) if state is not None else []:
            places = (Path(known.bundle), self.settings.bundles / spec.name / str(number))
            yield known, next((each for each in places if (each / "golden.parquet").exists()), None)

    def _elsewhere(self) -> Iterator[str]:
        for source, values in self._in_sources():
            spec = self.sources[source]
            raw = list(self._rows(self._table(f"raw/{source}", as_delivered(spec, values))))
            files = sorted({str(name) for rows in raw for name in rows[SOURCE_FILE]})
            if files and isinstance(spec.read, Files):
                yield f"They are in what landed: {', '.join(f'{source}/{name}' for name in files)} (landing/)."
            elif files:
                where = f"table {spec.read.table}" if isinstance(spec.read, SqlTable) else "its REST endpoint"
                yield f"They are where {source} is read from: {where}."
            quarantined = self._table(f"quarantine/{source}", by_columns(values)).held()
            if quarantined:
                runs = sorted(
                    {str(each["run_id"]) for each in self.lake.history(quarantined.table) if "run_id" in each}
                )
                runs = [run for run in runs if not run.startswith("erasure-")]
                yield f"They were quarantined, so that Dagster's record of these runs may show them: {', '.join(runs)}."

        for model in self._concerned:
            gone = ", ".join(str(known.version) for known, bundle in self._bundles(model) if bundle is None)
            if gone:
                yield f"These versions of {model.name} have no bundle here that could be looked into: {gone}."
        searched = {each.name for each in self._places() if isinstance(each, Table)}
        known = {*self.sources, *self.models, *(f"{name}_outcomes" for name in self.models)}
        rooms = {name.partition("/")[0] for name in searched}
        undeclared = [
            table
            for table in self.lake.tables()
            if table.partition("/")[0] in rooms and table.partition("/")[2] not in known
        ]
        if undeclared:
            yield f"No file declares these tables any more, so that nobody looked into them: {', '.join(undeclared)}."

    def _still_true(self, place: Place) -> dict[str, str]:
        """What the newest commits of a table say, and readers look for among the newest few."""
        if isinstance(place, Table) and place.name.startswith("features/") and self.lake.exists(place.name):
            return made_by(self.lake, place.name.partition("/")[2])
        return {}

    # The record

    def _log_stays(self) -> AbstractContextManager[None]:
        """Nothing comes from the service's log into the lake meanwhile: a prediction of which the shadow or the outcome
        had been looked for before it came would be erased without them, and nobody could tell any more whose they are.
        """
        folder = self.settings.prediction_log
        return nobody_else_moves(folder) if folder.is_dir() else nullcontext()

    def _require_moved(self, picture: Picture) -> None:
        if picture.unmoved:
            files = ", ".join(f"{name} ({count})" for name, count in sorted(picture.unmoved.items()))
            raise NotErased(
                f"Records of them are still in the service's log on this host, and not in the lake: {files}.",
                fix=f"Wait until the service seals its segment (a minute), launch the Dagster job {MOVER}, and run it "
                "again. A .damaged file is moved by nobody: docs/runbooks/prediction-log.md.",
                files=dict(picture.unmoved),
            )

    def _refuse_naming(self, *words: str) -> None:
        if named := [name for word in words for name in self._named_in(word)]:
            raise ConfigError(
                f"The ledger keeps for good who erases and why, and that names their {named[0]}.",
                fix="Say it without: --why 'request 2026-17'.",
            )

    def _named_in(self, words: str) -> list[str]:
        """The columns whose value is among some words."""
        texts = {name: re.escape(str(value)) for name, value in self.person.key.items()}
        return [name for name, text in texts.items() if re.search(rf"(?<!\w){text}(?!\w)", words)]

    def _record(self, kind: Any, actor: str, why: str, payload: Mapping[str, Any]) -> Event:
        whom = {"person": self.person.pseudonym, "keys": sorted(self.person.key)}
        draft = Draft(
            model=self.person.model, kind=kind, actor=actor.strip(), cause=why.strip(), payload=whom | dict(payload)
        )
        book = self.ledger or SqlLedger.of(self.settings)
        try:
            return book.append(draft)
        finally:
            if self.ledger is None and isinstance(book, SqlLedger):
                book.close()

    def _events(self) -> list[Event]:
        book = self.ledger or SqlLedger.to_read(self.settings)
        try:
            return book.events()
        finally:
            if self.ledger is None and isinstance(book, SqlLedger):
                book.close()


def _counts(picture: Picture) -> dict[str, dict[str, int]]:
    return {each.place: {"rows": each.rows, "old_files": each.old_files} for each in picture.found}
