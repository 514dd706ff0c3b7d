"""Whether the ledger is what was written: finds every edit, deletion, reordering and truncation, and says where.

Only questions; nothing here mends anything. What to do then is in ``docs/runbooks/ledger-does-not-verify.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pilotage.errors import ConfigError, LedgerUnavailable, ReleaseError
from pilotage.release.events import KEYED, KINDS, PLAIN, Event, from_row, hash_of, read_key, same
from pilotage.release.head import Head, read_head
from pilotage.release.ledger import SqlLedger
from pilotage.release.state import ModelState, fold
from pilotage.settings import Settings

FaultKind = Literal[
    "edited", "missing", "reordered", "inserted", "replaced", "truncated", "unkeyed", "head", "senseless"
]

_MOST_MOVED = 200
"""Edited events that are tried under each other's numbers; each costs a hash for each other one."""

_SHORTEST_HASH = 12
"""Hex digits of a hash that somebody wrote down; fewer could fit by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is not as it was written."""

    sequence: int | None
    """Number of the event; ``None`` for a row without one."""
    kind: FaultKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An event that somebody noted elsewhere."""

    sequence: int
    hash: str
    """Or its first digits, 12 or more."""

    @classmethod
    def parse(cls, text: str) -> Known:
        """Reads ``NUMBER:HASH``.

        Raises:
            ConfigError: It is none.
        """
        number, _, digits = text.partition(":")
        digits = digits.lower()
        if (
            not number.isascii()
            or not number.isdigit()
            or len(digits) < _SHORTEST_HASH
            or set(digits) - set("0123456789abcdef")
        ):
            raise ConfigError(
                f"{text!r} names no event.", fix=f"Write NUMBER:HASH, with {_SHORTEST_HASH} digits of the hash or more."
            )
        return cls(sequence=int(number), hash=digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found."""

    events: int
    keyed: int
    """Events whose hash needs the key."""
    keyed_since: int | None
    """Number of the first of them."""
    head: int
    """Number of the last event; 0 if there is none."""
    head_hash: str
    head_at: str
    noted: int | None
    """Number of the event in the head file."""
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    """What is allowed, and worth knowing."""


def audit(settings: Settings, *, known: Sequence[Known] = ()) -> Audit:
    """Verifies the ledger of an installation.

    Args:
        settings: Where it is, and its key.
        known: Events that were noted outside the machine.

    Raises:
        ConfigError: The key file can't be read.
        LedgerUnavailable: The database can't be read.
    """
    key = read_key(settings.ledger_key_file)
    fault, noted = None, None
    # Before the rows: what is appended meanwhile is then in the rows and not yet here, never the other way round.
    try:
        noted = read_head(settings.ledger_head)
    except LedgerUnavailable as error:
        fault = Fault(sequence=None, kind="head", detail=error.message)
    ledger = SqlLedger(settings.ledger)
    try:
        found = verify(
            ledger.rows(),
            key=key,
            noted=noted,
            known=known,
            expects_head=fault is None,
            keyed_since=settings.ledger_keyed_since,
        )
    finally:
        ledger.close()
    return found if fault is None else replace(found, faults=(*found.faults, fault))


def verify(
    rows: Sequence[Mapping[str, Any]],
    *,
    key: bytes | None = None,
    noted: Head | None = None,
    known: Sequence[Known] = (),
    expects_head: bool = True,
    keyed_since: int | None = None,
) -> Audit:
    """Verifies events as they are stored.

    Args:
        rows: In the order of their numbers.
        key: The ledger's secret.
        noted: What the head file says.
        known: Events that were noted elsewhere.
        expects_head: Whether events without a head file are a fault. Ledgers from before there was one have none.
        keyed_since: Number of the first keyed event; ``None`` if that is not known. From it on an event or a head
            file without the key is one that somebody made up, and a ledger that ends before it was cut off.
    """
    faults = _named(list(_chain(rows, key, keyed_since)), rows, key)
    stored = {row["sequence"]: row for row in rows if type(row["sequence"]) is int}
    last = max(stored, default=0)
    faults += _held(noted, stored, last, key, keyed_since)
    if keyed_since is not None and last < keyed_since and keyed_since > 1:
        # Nobody needs the key to cut off whatever has one, and to note what is left.
        detail = "The first event with a key is not there: restore it, or correct PILOTAGE_LEDGER_KEYED_SINCE."
        faults.append(Fault(sequence=keyed_since, kind="truncated", detail=detail))
    faults += [fault for each in known for fault in _as_noted(each.sequence, each.hash, stored, last, "somebody noted")]
    if noted is None and expects_head and any("algorithm" in row for row in rows):
        faults.append(Fault(sequence=last, kind="head", detail="There is no head file, which every append writes."))
    if not faults:
        faults += _senseless(rows)
    keyed = sorted(number for number, row in stored.items() if row.get("algorithm", PLAIN) == KEYED)
    head = stored.get(last, {})
    return Audit(
        events=len(rows),
        keyed=len(keyed),
        keyed_since=keyed[0] if keyed else None,
        head=last,
        head_hash=str(head.get("hash", "")),
        head_at=str(head.get("at", "")),
        noted=noted.sequence if noted else None,
        faults=tuple(dict.fromkeys(faults)),
        notes=tuple(_notes(len(rows), last, len(keyed), noted, key, keyed_since)),
    )


def _chain(rows: Sequence[Mapping[str, Any]], key: bytes | None, keyed_since: int | None) -> Iterator[Fault]:
    """Each row by itself, and whether it follows the one before."""
    next_number, previous, trusted, keyed = 1, "", True, False
    for row in rows:
        number = row["sequence"]
        if type(number) is not int or number < next_number:
            where = number if type(number) is int else None
            yield Fault(sequence=where, kind="inserted", detail=f"A row has the number {number!r}, out of order.")
            continue
        if number > next_number:
            several = (
                f"Events {next_number} to {number - 1} are" if number - next_number > 1 else f"Event {next_number} is"
            )
            yield Fault(sequence=next_number, kind="missing", detail=f"{several} not there, and event {number} is.")
            trusted = False
        wrong = _wrong(row, key)
        if wrong:
            yield Fault(sequence=number, kind="edited", detail=wrong)
        elif trusted and not same(row["previous"], previous):
            if number == 1:
                detail = "Event 1 was chained to one before it."
                yield Fault(sequence=1, kind="missing", detail=detail)
            else:
                detail = f"Event {number} was chained to another event {number - 1} than the one that is there."
                yield Fault(sequence=number - 1, kind="replaced", detail=detail)
        algorithm = row.get("algorithm", PLAIN)
        if algorithm == PLAIN and keyed_since is not None and number >= keyed_since:
            detail = f"It has no keyed hash, though all have one since event {keyed_since}."
            yield Fault(sequence=number, kind="unkeyed", detail=detail)
        elif algorithm == PLAIN and keyed:
            yield Fault(sequence=number, kind="unkeyed", detail="It has no keyed hash, though one before it has.")
        keyed = keyed or algorithm == KEYED
        # After a row that is not itself, nothing can be said about the link to it.
        next_number, previous, trusted = number + 1, row["hash"], not wrong


def _wrong(row: Mapping[str, Any], key: bytes | None) -> str | None:
    """What is wrong with a row, whatever is around it."""
    try:
        event = from_row(row)
        if event.algorithm not in (PLAIN, KEYED):
            return f"It names a hash algorithm that this version does not know: {event.algorithm!r}."
        if event.algorithm == KEYED and key is None:
            return "It is keyed, and can't be verified without the key (PILOTAGE_LEDGER_KEY_FILE)."
        if not same(event.hash, hash_of(event, key)):
            return "Its hash is not that of what it says." + _unknown_kind(event)
        if row["at"] != event.at.isoformat() or row["payload"] != json.dumps(json.loads(row["payload"])):
            return "Its time or payload is not spelled as it was written."
    except (ValueError, TypeError, RecursionError) as error:
        return f"It can't be read: {error}."
    return None


def _unknown_kind(event: Event) -> str:
    return "" if event.kind in KINDS else f" There is no event {event.kind!r}."


def _named(faults: list[Fault], rows: Sequence[Mapping[str, Any]], key: bytes | None) -> list[Fault]:
    """Faults, with events told apart that were not edited but stand under each other's number."""
    edited = {fault.sequence for fault in faults if fault.kind == "edited"}
    if not 1 < len(edited) <= _MOST_MOVED:
        return faults
    moved = {}
    for row in rows:
        if row["sequence"] in edited:
            for number in edited - {row["sequence"]}:
                if _wrong({**row, "sequence": number}, key) is None:
                    moved[row["sequence"]] = number
    return [
        replace(fault, kind="reordered", detail=f"It was written as event {moved[fault.sequence]}.")
        if fault.kind == "edited" and fault.sequence in moved
        else fault
        for fault in faults
    ]


def _held(
    head: Head | None, stored: Mapping[int, Any], last: int, key: bytes | None, keyed_since: int | None
) -> list[Fault]:
    """Whether the ledger still holds what the head file notes, and whether that can be believed."""
    if head is None:
        return []
    try:
        believed = head.holds(key)
    except ConfigError as error:
        return [Fault(sequence=head.sequence, kind="head", detail=f"The head file can't be verified: {error.message}")]
    if not believed:
        return [
            Fault(sequence=head.sequence, kind="head", detail="The head file was edited, or sealed by another key.")
        ]
    if head.algorithm == PLAIN and keyed_since is not None and head.sequence >= keyed_since:
        return [Fault(sequence=head.sequence, kind="head", detail="The head file of a keyed event is not keyed.")]
    found = _as_noted(head.sequence, head.hash, stored, last, "the head file notes")
    row = stored.get(head.sequence)
    if not found and row is not None and row.get("algorithm", PLAIN) != head.algorithm:
        found.append(Fault(sequence=head.sequence, kind="head", detail="The head file of a keyed event is not keyed."))
    return found


def _senseless(rows: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Of each model the first event that could not have happened, though it is as it was written."""
    states: dict[str, ModelState] = {}
    stuck: set[str] = set()
    for event in map(from_row, rows):
        if event.model in stuck:
            continue
        try:
            states = fold([event], states)
        except ReleaseError as error:
            stuck.add(event.model)
            yield Fault(sequence=event.sequence, kind="senseless", detail=error.message)


def _as_noted(sequence: int, digits: str, stored: Mapping[int, Any], last: int, who: str) -> list[Fault]:
    if sequence > last:
        several = f"Events {last + 1} to {sequence} are" if sequence - last > 1 else f"Event {sequence} is"
        return [Fault(sequence=last + 1, kind="truncated", detail=f"{several} cut off: {who} event {sequence}.")]
    row = stored.get(sequence)
    # Hidden behind a gap it is among the missing ones.
    if row is not None and not same(str(row["hash"])[: len(digits)], digits):
        return [Fault(sequence=sequence, kind="replaced", detail=f"It is another event than {who} under its number.")]
    return []


def _notes(
    events: int, last: int, keyed: int, noted: Head | None, key: bytes | None, keyed_since: int | None
) -> Iterator[str]:
    if noted is not None and noted.sequence < last:
        yield f"Events after {noted.sequence} are not in the head file yet; the next append notes them."
    if noted is None and events:
        yield "Without a head file it can't be noticed that events were cut off at the end."
    if key is not None and events and not keyed:
        yield "A key is configured, and no event is keyed yet."
    if keyed and keyed_since is None:
        yield "Say since which event (PILOTAGE_LEDGER_KEYED_SINCE); until then a ledger made up without the key passes."
