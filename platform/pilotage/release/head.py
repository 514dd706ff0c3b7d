"""The ledger's head, noted in a file outside its database: what was there once can't go missing unnoticed.

The file says "event N with this hash existed", no more. It only goes forward, and only while the ledger still holds
what it noted before: the note of a ledger that was cut off or rewritten stays, as evidence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pilotage.durable import replacing
from pilotage.errors import LedgerUnavailable
from pilotage.release.events import Event, digest, same

_WAIT_S = 30
"""Seconds to wait for another writer of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last event of the ledger at some time."""

    sequence: int
    hash: str
    at: str
    """When the event was appended, ISO 8601 in UTC."""
    algorithm: str
    """Of the event, and of the seal."""
    seal: str
    """Hash over the other fields."""

    def holds(self, key: bytes | None) -> bool:
        """Whether the seal is right.

        Raises:
            ConfigError: It is keyed, and there is no key.
        """
        return same(self.seal, _seal(self, key))


def head_of(event: Event, key: bytes | None) -> Head:
    """The note of an event."""
    head = Head(sequence=event.sequence, hash=event.hash, at=event.at.isoformat(), algorithm=event.algorithm, seal="")
    return replace(head, seal=_seal(head, key))


def _seal(head: Head, key: bytes | None) -> str:
    fields = asdict(head)
    del fields["seal"]
    # Named, so that no event's hash can pass for the seal of a head.
    return digest({"head": fields}, algorithm=head.algorithm, key=key)


def read_head(path: Path) -> Head | None:
    """The note, if there is one. Whether its seal is right is another question.

    Raises:
        LedgerUnavailable: The file is there, and is no note.
    """
    try:
        found = Head(**json.loads(path.read_text()))
        typed = type(found.sequence) is int and all(
            isinstance(word, str) for word in (found.hash, found.at, found.algorithm, found.seal)
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, str(error)) from error
    if not typed:
        raise _unreadable(path, "a field is of the wrong type")
    return found


def advance(path: Path, event: Event, *, key: bytes | None, hash_at: Callable[[int], str | None]) -> None:
    """Notes an event that was appended, unless a later one is noted, or what is noted is no longer in the ledger.

    Args:
        path: The file.
        event: What was appended and committed.
        key: The secret that seals the note of a keyed event.
        hash_at: Gives the hash of the event with a sequence number, as the ledger has it now.

    Raises:
        LedgerUnavailable: The file that is there is no note; it stays.
        OSError: The file can't be written.
        filelock.Timeout: Another writer holds it for too long.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_WAIT_S):
        noted = read_head(path)
        if noted is not None:
            if noted.sequence >= event.sequence:
                return
            there = event.previous if noted.sequence == event.sequence - 1 else hash_at(noted.sequence)
            if there is None or not same(there, noted.hash):
                raise _unreadable(path, f"event {noted.sequence}, which it notes, is no longer in the ledger")
        with replacing(path) as aside:
            aside.write_text(json.dumps(asdict(head_of(event, key)), indent=2) + "\n")


def _unreadable(path: Path, reason: str) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger's head file {path} can't be used: {reason}.",
        fix="pilotage audit verify, and docs/runbooks/ledger-does-not-verify.md.",
        path=str(path),
    )
