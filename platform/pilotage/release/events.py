"""What an event of the ledger is, and the hash that chains it to the one before. ``ledger.py`` stores them.

The hash is SHA-256, or HMAC-SHA256 where a key is configured: then nobody can forge a chain who can only write the
database. An event says which; an unkeyed ledger may become a keyed one, never the other way round.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pilotage.errors import ConfigError, LedgerUnavailable

ReleaseKind = Literal[
    "registered",
    "refused",
    "shadowed",
    "canaried",
    "ab_started",
    "ab_ended",
    "approved",
    "rejected",
    "promoted",
    "rolled_back",
    "killed",
    "resumed",
    "verdict",
    "alias_edited",
    "watch_ended",
]
"""What can happen to versions and their model; ``transitions.py`` explains each, ``legality.py`` allows it."""
RetrainingKind = Literal[
    "retrain_requested",
    "attempt_started",
    "attempt_renewed",
    "attempt_finished",
    "attempt_failed",
    "retrain_gave_up",
    "retrain_withdrawn",
    "person_called",
]
"""... and to a request to retrain: in ``retraining/state.py``."""
ErasureKind = Literal["erasure_begun", "erased"]
"""Events that change nothing of a model, and are about no version: somebody is to be forgotten, and is. Their payload:
person (a pseudonym), keys, found; of what is done also begun (the event) and kept (see ``governance/erasure.py``)."""
Kind = Literal[ReleaseKind, RetrainingKind, ErasureKind]
KINDS: tuple[Kind, ...] = get_args(Kind)
ABOUT_PEOPLE = get_args(ErasureKind)

Algorithm = Literal["sha256", "hmac-sha256"]
PLAIN: Algorithm = "sha256"
KEYED: Algorithm = "hmac-sha256"

_SHORTEST_KEY = 16
"""Bytes; a shorter secret can be guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that somebody wants to append."""

    model: str
    kind: Kind
    actor: str
    """Who decided: a person, or the part of the platform."""
    cause: str
    """Why, in words."""
    version: int | None = None
    payload: Mapping[str, Any]
    """JSON values; never secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the ledger. Grain: one per decision."""

    sequence: int
    """1, 2, 3 … over all models, without gaps."""
    at: datetime
    model: str
    kind: Kind
    version: int | None
    actor: str
    cause: str
    payload: Mapping[str, Any]
    previous: str
    """Hash of the event before; empty for the first."""
    hash: str
    algorithm: Algorithm = PLAIN
    """How the hash was computed."""


def read_key(path: Path | None) -> bytes | None:
    """The secret in a key file, without the line end that an editor leaves; ``None`` if there is no file configured.

    Raises:
        ConfigError: The file can't be read, or holds too little. To go on without it would write an unkeyed event.
    """
    if path is None:
        return None
    try:
        key = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(
            f"The ledger's key file {path} can't be read: {error.strerror}.",
            fix="Put the key there, readable for this user, or correct PILOTAGE_LEDGER_KEY_FILE.",
            path=str(path),
        ) from None
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            f"The ledger's key file {path} holds {len(key)} bytes; a key has {_SHORTEST_KEY} or more.",
            fix=f"Make one: openssl rand -hex 32 > {path}",
            path=str(path),
        )
    return key


def refuse_unkeyed(algorithm: str, key: bytes | None, *, sequence: int = 0, keyed_since: int | None = None) -> None:
    """Keeps a writer that does not have the key from breaking a keyed chain off, and one that has it from sealing a
    chain that somebody made up without it.

    Args:
        algorithm: Of the last event.
        key: The writer's.
        sequence: Of the last event; 0 if there is none.
        keyed_since: Number of the first keyed event; ``None`` if that is not known.

    Raises:
        ConfigError: The event before is keyed, or the next one is to be, and there is no key.
        LedgerUnavailable: The event before should be keyed, and is not; or the ledger was cut off before the first that
            is.
    """
    if keyed_since is not None and sequence >= keyed_since and algorithm == PLAIN:
        raise LedgerUnavailable(
            f"Event {sequence} of the ledger is not keyed, though all are since event {keyed_since}.",
            fix="pilotage audit verify, and docs/runbooks/ledger-does-not-verify.md.",
            sequence=sequence,
        )
    if keyed_since is not None and sequence + 1 < keyed_since:
        raise LedgerUnavailable(
            f"The ledger ends with {sequence}, though event {keyed_since} is the first with a key: it was cut off.",
            fix="pilotage audit verify, and docs/runbooks/ledger-does-not-verify.md; or correct "
            "PILOTAGE_LEDGER_KEYED_SINCE.",
            sequence=sequence,
        )
    due = keyed_since is not None
    if key is None and (due or algorithm != PLAIN):
        raise ConfigError(
            "The ledger is keyed, and no key is configured here.",
            fix="Set PILOTAGE_LEDGER_KEY_FILE to the file that holds its key.",
        )


def seal(draft: Draft, *, sequence: int, at: datetime, previous: str, key: bytes | None = None) -> Event:
    """Makes an event of a draft: a hash over everything in it and the hash of the one before."""
    # A round trip, so that what is hashed is what will be read back.
    payload = json.loads(json.dumps(dict(draft.payload), allow_nan=False))
    unsealed = Event(
        sequence=sequence,
        at=at,
        model=draft.model,
        kind=draft.kind,
        version=draft.version,
        actor=_readable(draft.actor),
        cause=_readable(draft.cause),
        payload=payload,
        previous=previous,
        hash="",
        algorithm=KEYED if key is not None else PLAIN,
    )
    return replace(unsealed, hash=hash_of(unsealed, key))


def _readable(text: str) -> str:
    """What a terminal of another encoding sent is spelled out: a decision is recorded, whatever its words look like."""
    return text.encode("utf-8", "backslashreplace").decode()


def hash_of(event: Event, key: bytes | None = None) -> str:
    """The hash that an event must have.

    Raises:
        ConfigError: It is keyed, and there is no key.
    """
    fields = {**asdict(event), "at": event.at.isoformat()}
    del fields["hash"]
    if event.algorithm == PLAIN:
        # As events were hashed before there were two algorithms.
        del fields["algorithm"]
    return digest(fields, algorithm=event.algorithm, key=key)


def digest(fields: Mapping[str, Any], *, algorithm: str, key: bytes | None) -> str:
    """Hash of named values, by an event's algorithm.

    Raises:
        ConfigError: It is keyed, and there is no key; or this version does not know it.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    if algorithm == PLAIN:
        return hashlib.sha256(text).hexdigest()
    if algorithm != KEYED:
        raise ConfigError(
            f"This version of Pilotage knows no hash algorithm {algorithm!r}.", fix="Use the version that wrote it."
        )
    if key is None:
        raise ConfigError(
            "A keyed hash of the ledger can't be computed: no key is configured here.",
            fix="Set PILOTAGE_LEDGER_KEY_FILE to the file that holds its key.",
        )
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two hashes are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def to_row(event: Event) -> dict[str, Any]:
    """An event as it is stored."""
    return {**asdict(event), "at": event.at.isoformat(), "payload": json.dumps(event.payload)}


def from_row(row: Mapping[str, Any]) -> Event:
    """An event as it was stored; rows from before there were two algorithms have none.

    Raises:
        ValueError: A value is not what ``to_row`` writes.
        TypeError: A value is not even of its type.
    """
    for name, value in row.items():
        if name in ("sequence", "version"):
            if type(value) is not int and (value is not None or name == "sequence"):
                raise TypeError(f"{name} is {value!r}, no number")
        elif not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, no text")
        elif not value.isascii():
            # Raises for what was no UTF-8 in the database.
            value.encode()
    return Event(**{**row, "at": datetime.fromisoformat(row["at"]), "payload": json.loads(row["payload"])})
