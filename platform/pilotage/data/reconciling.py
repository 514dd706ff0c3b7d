"""Deliveries that replace: of each day (or table) the newest readable one ends up in the lake.

The state is compared, never remembered: what the lake holds is read from its rows, and after each commit the source is
listed again. A run that commits an older file than another run just did therefore sees the newer one, and corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from pilotage.data.cells import UNPARSED
from pilotage.data.declared import Slot, fingerprint, read_otherwise, retyped
from pilotage.data.ingest_run import IngestRun
from pilotage.data.ingested import IngestedFile, RejectedFile, SetAside
from pilotage.data.lake_commits import DAY
from pilotage.data.raw import SOURCE_FILE, SOURCE_SHA256, commit_note, days_of, raw_rows
from pilotage.data.readers import Offer, Parcel, Reader, Rows
from pilotage.errors import CommitConflict, SchemaChanged, UnreadableFile

COMMIT_ROWS = 4_000_000
"""Rows from which on a commit is made before further files are read, to bound memory. A year of flights has 337,000."""

ROUNDS = 20
"""Times that the source is listed again because it changed meanwhile."""


@dataclass(slots=True)
class Done:
    """What has been done so far."""

    files: list[IngestedFile] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    extra_columns: list[str] = field(default_factory=list)
    offered: set[date] = field(default_factory=set)


@dataclass(slots=True)
class _Read:
    """A delivery whose rows are in memory."""

    offer: Offer
    sha256: str
    rows: pl.DataFrame


@dataclass(slots=True, kw_only=True)
class Reconciliation(IngestRun):
    """One run of a source whose deliveries replace."""

    reader: Reader
    _settled: dict[Slot, Offer] = field(init=False, default_factory=dict)
    _unusable: set[Offer] = field(init=False, default_factory=set)
    _outdated: set[Slot] = field(init=False, default_factory=set)
    _sha: dict[Offer, str] = field(init=False, default_factory=dict)
    _done: Done = field(init=False, default_factory=Done)

    def run(self, days: Sequence[date] | None) -> Done:
        for _ in range(ROUNDS):
            offers = self.reader.offers(days, position=None)
            self._done.offered |= {offer.day for offer in offers if offer.day}
            newest = _newest(offer for offer in offers if offer not in self._unusable)
            todo = [offer for slot, offer in newest.items() if self._settled.get(slot) != offer]
            if not todo:
                self._set_aside(offers, newest)
                return self._done
            self._settle(sorted(todo, key=lambda offer: (offer.day or date.min, offer.name)))
        raise CommitConflict(
            f"{self.spec.name}: its deliveries changed {ROUNDS} times while they were ingested.",
            fix="Run it again when fewer files land.",
        )

    def _settle(self, todo: list[Offer]) -> None:
        """Reads these deliveries and commits those that the lake does not hold."""
        held = self._held([offer.day for offer in todo])
        self._outdated = read_otherwise(self.spec, self.lake, held) if held else set()
        # A type changes for all days at once, so they are then committed at once.
        splits = not (held and retyped(self.spec, self.lake))
        batch: list[_Read] = []
        height = 0
        self.progress(f"Reading {_count(len(todo))} of {self.spec.name}.")
        for number, offer in enumerate(todo, start=1):
            if (read := self._fetch(offer, held)) is not None:
                batch.append(read)
                height += read.rows.height
            if splits and height >= COMMIT_ROWS:
                self._commit(batch, held)
                batch, height = [], 0
            if number % 100 == 0:
                self.progress(f"{number} of {len(todo)} deliveries of {self.spec.name} read.")
        self._commit(batch, held)

    def _fetch(self, offer: Offer, held: dict[Slot, set[str]]) -> _Read | None:
        """The rows of a delivery; ``None`` if the lake holds it already or it can't be used."""
        try:
            parcel = self._parcel(offer)
            if held.get(offer.day) == {parcel.sha256} and offer.day not in self._outdated:
                self._settled[offer.day] = offer
                if offer.name not in {file.name for file in self._done.files}:
                    self._done.unchanged.append(offer.name)
                return None
            rows = _rows(parcel, offer)
        except (UnreadableFile, SchemaChanged) as error:
            self._reject(offer, error.message, error.fix)
            return None
        for change in rows.extra:
            if change.column not in self._done.extra_columns:
                self._done.extra_columns.append(change.column)
        raw = raw_rows(self.spec, rows.frame, name=offer.name, sha256=parcel.sha256, day=offer.day)
        kept = self.forget(raw)
        if kept.is_empty() and not raw.is_empty() and offer.day not in held:
            # All of it is erased: to write that nothing is there, every night, would say that something came.
            self._settled[offer.day] = offer
            self._done.unchanged.append(offer.name)
            return None
        return _Read(offer, parcel.sha256, kept)

    def _commit(self, batch: list[_Read], held: dict[Slot, set[str]]) -> None:
        batch = self._of_their_day(batch) if self.spec.daily else batch
        if not batch:
            return
        rows = pl.concat([read.rows for read in batch])
        bad = rows.filter(pl.col(UNPARSED).list.len() > 0).group_by(SOURCE_FILE).len()
        unparsed = dict(bad.iter_rows())
        files = [
            IngestedFile(
                name=read.offer.name,
                sha256=read.sha256,
                day=read.offer.day,
                rows=read.rows.height,
                replaced=read.offer.day in held,
                unparsed=unparsed.get(read.offer.name, 0),
            )
            for read in batch
        ]
        note = commit_note(self.spec, self.run_id, files) | {"columns": fingerprint(self.spec)}
        if self.spec.daily:
            days = [file.day for file in files if file.day]
            commit = self.lake.replace_days(self.table, rows, days, note=note, retypes=True)
        else:
            commit = self.lake.replace(self.table, rows, note=note)
        self.progress(f"Wrote {rows.height:,} rows of {_count(len(files))} to {self.table}, version {commit.version}.")
        self._done.files = [file for file in self._done.files if file.day not in {new.day for new in files}] + files
        self._settled |= {read.offer.day: read.offer for read in batch}

    def _of_their_day(self, batch: list[_Read]) -> list[_Read]:
        """The deliveries whose rows are of the day that their name says. A row whose day can't be read is no proof."""
        if not batch:
            return []
        rows = pl.concat([read.rows for read in batch])
        strangers = (
            rows.select(pl.col(DAY), pl.col(SOURCE_FILE), says=days_of(self.spec, rows))
            .filter(pl.col("says") != pl.col(DAY))
            .group_by(SOURCE_FILE)
            .agg(pl.len(), pl.col("says").min().alias("first"), pl.col("says").max().alias("last"))
        )
        wrong = {name: (count, first, last) for name, count, first, last in strangers.iter_rows()}
        for read in batch:
            name = read.offer.name
            if name in wrong:
                count, first, last = wrong[name]
                others = f"{first}" if first == last else f"{first} to {last}"
                twin = next(
                    (one.name for one, sha in self._sha.items() if sha == read.sha256 and one.name != name), None
                )
                same = f" It has the same bytes as {twin}." if twin else ""
                self._reject(
                    read.offer,
                    f"{name} holds {count} of {read.rows.height} rows of {others}, not of {read.offer.day}.{same}",
                    "Land it under the name of the day that it holds, or with the rows of the day that its name says.",
                )
        return [read for read in batch if read.offer.name not in wrong]

    def _held(self, slots: Sequence[Slot]) -> dict[Slot, set[str]]:
        """SHA-256s of the deliveries whose rows the lake holds for these days (or the table)."""
        if not self.lake.exists(self.table):
            return {}
        if not self.spec.daily:
            shas = self.lake.scan(self.table).select(pl.col(SOURCE_SHA256).unique()).collect().to_series()
            return {None: set(shas.to_list())} if shas.len() else {}
        days = sorted(slot for slot in slots if slot)
        rows = self.lake.scan(self.table, first=days[0], last=days[-1]).select(DAY, SOURCE_SHA256).unique().collect()
        held: dict[Slot, set[str]] = {}
        for day, sha in rows.iter_rows():
            held.setdefault(day, set()).add(sha)
        return held

    def _parcel(self, offer: Offer) -> Parcel:
        parcel = self.reader.fetch(offer, position=None)
        self._sha[offer] = parcel.sha256
        return parcel

    def _reject(self, offer: Offer, reason: str, fix: str) -> None:
        self._unusable.add(offer)
        self._done.rejected.append(RejectedFile(name=offer.name, day=offer.day, reason=reason, fix=fix))
        self.progress(f"Rejected {offer.name}: {reason}")

    def _set_aside(self, offers: Sequence[Offer], newest: dict[Slot, Offer]) -> None:
        """Says which usable files are not the one that counts for their day, and whether they are duplicates of it."""
        for offer in offers:
            counts = newest.get(offer.day)
            if counts is None or counts == offer or offer in self._unusable:
                continue
            try:
                same = (self._sha.get(offer) or self._parcel(offer).sha256) == self._sha.get(counts)
            except UnreadableFile as error:
                self._reject(offer, error.message, error.fix)
                continue
            self._done.set_aside.append(SetAside(name=offer.name, day=offer.day, by=counts.name, same=same))


def _rows(parcel: Parcel, offer: Offer) -> Rows:
    """The parcel's rows. Whatever can't be made of its values is a fault of this delivery, and not of the others."""
    try:
        return parcel.rows()
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise UnreadableFile(
            f"{offer.name} can't be read as declared: {reason}.",
            fix="Land it again with values of the declared types, or correct `columns` of the source.",
            file=offer.name,
        ) from error


def _count(deliveries: int) -> str:
    return "1 delivery" if deliveries == 1 else f"{deliveries} deliveries"


def _newest(offers: Iterable[Offer]) -> dict[Slot, Offer]:
    """Of each day (or the table) the delivery that was modified last; of two at once, the last by name."""
    newest: dict[Slot, Offer] = {}
    for offer in offers:
        there = newest.get(offer.day)
        if there is None or (offer.modified_ns, offer.name) > (there.modified_ns, there.name):
            newest[offer.day] = offer
    return newest
