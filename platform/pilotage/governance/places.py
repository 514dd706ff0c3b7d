"""Where the values of a person can be, outside the lake's tables and in them; each place finds and erases them.

What is erased together, in which order, and what is recorded of it is ``erasure.py``'s business.
"""

from __future__ import annotations

import io
import json
import mmap
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl

from pilotage.data import erasing
from pilotage.data.erasing import Holding, Whose
from pilotage.data.lake import Lake
from pilotage.durable import replacing
from pilotage.errors import UnreadableFile
from pilotage.features.view import FeatureView
from pilotage.governance.whom import Known, by_columns
from pilotage.monitoring.log_frames import frame_of
from pilotage.monitoring.log_lines import read_lines
from pilotage.runtime.answer import StateRecord
from pilotage.runtime.log import segments
from pilotage.runtime.log.segments import DAMAGED
from pilotage.runtime.requests_table import RequestsTable
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

_SHORTEST = 6
"""Characters of a value that is searched for in every file: a shorter one is found everywhere, and means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a place holds of a person."""

    place: str
    rows: int
    """Rows, records or answers that are in use."""
    old_files: int = 0
    """Files of older versions of a table that hold rows of theirs."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.old_files)


class Place(Protocol):
    """Somewhere that values of a person can be."""

    def look(self) -> Found:
        """What is there, without changing it."""

    def erase(self, note: Mapping[str, str]) -> None:
        """Erases it. Safe to repeat."""


@dataclass(slots=True)
class Table:
    """A table of the lake."""

    lake: Lake
    name: str
    whose: Whose

    def look(self) -> Found:
        found = erasing.look(self.lake, self.name, self.whose)
        return Found(place=self.name, rows=found.rows, old_files=found.old_files)

    def held(self) -> Holding:
        return erasing.look(self.lake, self.name, self.whose)

    def erase(self, note: Mapping[str, str]) -> None:
        erasing.erase(self.lake, self.name, self.whose, note=note)


@dataclass(slots=True)
class Answers:
    """The table of requests, from which the service answers a repeated one for a day."""

    settings: Settings
    ids: Callable[[], set[str]]
    """Predictions of the person."""
    key: Mapping[str, Any]

    def look(self) -> Found:
        return Found(place="the service's answers to requests with an id", rows=len(self._theirs()))

    def erase(self, note: Mapping[str, str]) -> None:  # noqa: ARG002 - a place's signature
        if not self._path.exists():
            return
        rows = self._theirs()
        requests = RequestsTable(self.settings.service_state, log=self.settings.prediction_log, report=lambda _: None)
        try:
            with requests.use() as (table, _life):
                table.executemany("DELETE FROM requests WHERE id = ?", [(row,) for row in rows])
            requests.sync()  # Until then the write-ahead log has them, also those that one who was killed deleted.
        finally:
            requests.close()

    @property
    def _path(self) -> Path:
        return self.settings.service_state / "requests.db"

    def _theirs(self) -> list[int]:
        if not self._path.exists():
            return []
        ids = self.ids()
        told = [each.encode() for each in ids] + _told(self.key)
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5)) as table:
            rows = table.execute("SELECT id, body, logged FROM requests").fetchall()
        return [row for row, *said in rows if any(each in part for part in said if part for each in told)]


@dataclass(slots=True)
class Candidates:
    """What training runs left: the rows that they learned from, and the bundle that was made of them, of which the
    registry has its own."""

    settings: Settings
    model: str
    whose: Whose

    def look(self) -> Found:
        rows = sum(int(self.whose(pl.read_parquet(path)).sum()) for path in self._files())
        return Found(place=f"training sets of {self.model} (candidates/)", rows=rows)

    def erase(self, note: Mapping[str, str]) -> None:  # noqa: ARG002 - a place's signature
        for path in self._files():
            rows = pl.read_parquet(path)
            if (theirs := self.whose(rows)).any():
                for bundle in [*path.parent.rglob("bundle")]:
                    shutil.rmtree(bundle, ignore_errors=True)
                with replacing(path) as aside:
                    rows.filter(~theirs).write_parquet(aside)

    def _files(self) -> Iterator[Path]:
        yield from sorted((self.settings.candidates / self.model).rglob("training_set.parquet"))


@dataclass(slots=True)
class OnlineStore:
    """The as-of state of a model, which is built as a whole."""

    settings: Settings
    lake: Lake
    spec: ModelSpec
    key: Mapping[str, Any]

    def look(self) -> Found:
        path = self.settings.online / f"{self.spec.name}.db"
        rows = 0
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as store:
                there = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                for name, where in self._timelines():
                    if name in there:
                        asked = " AND ".join(f"{column} = ?" for column in where)
                        query = f'SELECT count(*) FROM "{name}" WHERE {asked}'  # noqa: S608 - names of our own
                        rows += store.execute(query, list(where.values())).fetchone()[0]
        return Found(place=f"online state of {self.spec.name}", rows=rows)

    def erase(self, note: Mapping[str, str]) -> None:
        from pilotage.features.online import build_online
        from pilotage.release.champions import champion_view

        if not self.look():
            return
        served = champion_view(self.spec.name, settings=self.settings)
        build_online(
            self.spec,
            lake=self.lake,
            path=self.settings.online / f"{self.spec.name}.db",
            run_id=note["run_id"],
            also=[served] if served else [],
        )

    def _timelines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The timelines that are kept by the person's key: name, and column → value."""
        for lookup in FeatureView(self.spec).lookups:
            places = {name: f"k{place}" for place, name in enumerate(lookup.on)}
            if set(self.key) <= set(places):
                yield lookup.timeline.name, {places[name]: _stored(value) for name, value in self.key.items()}


def unmoved(settings: Settings, models: Mapping[str, Known], whose: Whose) -> dict[str, int]:
    """What is still in segments of the prediction log: name of the file → records of the person.

    Also in evidence of damage, which no job moves. What can't be read at all is the mover's to report.

    Args:
        settings: Where the log is.
        models: Model → what is known of them in the lake.
        whose: Which records are theirs by what they say.
    """
    folder = settings.prediction_log
    frames: list[tuple[str, str, pl.DataFrame]] = []
    for path in [*(each.path for each in segments(folder)), *sorted(folder.glob(f"*{DAMAGED}"))]:
        try:
            read = read_lines(path, damage=lambda _: None)
        except (FileNotFoundError, UnreadableFile, msgspec.MsgspecError):
            continue  # Gone: moved meanwhile, so the lake has it.
        for (kind, model), some in read.items():
            if model in models and kind is not StateRecord:
                frames.append((path.name, model, frame_of(kind, some)))
    known = {name: Known(set(each.predictions), set(each.entities)) for name, each in models.items()}
    for _, model, rows in frames:
        if "request_id" in rows.columns:
            known[model].add(rows.filter(whose(rows)))
    found: Counter[str] = Counter()
    for name, model, rows in frames:
        found[name] += int(known[model].or_by(whose)(rows).sum())
    return {name: count for name, count in found.items() if count}


def in_bundle(folder: Path, key: Mapping[str, Any], features: pl.DataFrame) -> int:
    """Rows of a bundle that are of a person: requests that it must answer alike, and its sample of training rows.

    Args:
        folder: The bundle.
        key: The person's.
        features: Their rows in the features' table; the sample has no key, and is compared with these.
    """
    golden, sample = folder / "golden.parquet", folder / "reference.parquet"
    found = 0
    if golden.exists():
        found += int(by_columns(key)(pl.read_parquet(golden)).sum())
    if sample.exists() and features.height:
        rows = pl.read_parquet(sample)
        columns = [name for name, dtype in rows.schema.items() if features.schema.get(name) == dtype]
        if columns:
            theirs = features.select(columns).unique()
            found += rows.join(theirs, on=columns, how="semi", nulls_equal=True).height
    return found


def still_written(settings: Settings, key: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Files of the home, other than the lake's, in which a value of the person is written as text.

    Returns:
        The files, below the home; and the columns whose values are too short to be searched for.
    """
    short = [name for name, value in key.items() if len(str(value)) < _SHORTEST]
    wanted = [_pattern(value) for name, value in key.items() if name not in short]
    found = []
    for path in sorted(settings.home.rglob("*")) if wanted else []:
        below = path.relative_to(settings.home)
        if path.is_file() and not path.is_symlink() and below.parts[0] != "lake" and _has(path, wanted):
            found.append(str(below))
    return found, short


def _has(path: Path, wanted: Iterable[re.Pattern[bytes]]) -> bool:
    try:
        if path.stat().st_size == 0:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if path.suffix == ".parquet" and content[:4] == b"PAR1":
                told = json.dumps(pl.read_parquet(io.BytesIO(content[:])).to_dicts(), default=str, ensure_ascii=False)
                return any(pattern.search(told.encode()) for pattern in wanted)
            return any(pattern.search(content) for pattern in wanted)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return False  # Gone meanwhile, or no file that can be read.


def _told(key: Mapping[str, Any]) -> list[bytes]:
    """An entity of this one column, as answers write it."""
    if len(key) != 1:
        return []
    name, value = next(iter(key.items()))
    text = msgspec.json.encode({name: value})[:-1]
    return [text + b"}", text + b","]


def _pattern(value: Any) -> re.Pattern[bytes]:
    """A value as text; a number not as a part of another one."""
    text = re.escape(str(value).encode())
    return re.compile(text if isinstance(value, str) else rb"(?<![\w.])" + text + rb"(?!\w)")


def _stored(value: Any) -> Any:
    from datetime import datetime

    from pilotage.features.state import microseconds

    return microseconds(value) if isinstance(value, datetime) else value
