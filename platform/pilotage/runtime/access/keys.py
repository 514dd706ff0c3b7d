"""The API keys that a serving process accepts now: told by a header, followed as their file changes.

A revoked key is refused within ``LOOK_EVERY_S``, an expired one at once. Whatever happens to the file, nobody gets in
who would not with the file as it was last good: a damaged or vanished one leaves the last good keys, and is reported.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pilotage.errors import ConfigError, Unauthenticated
from pilotage.runtime.access.caller import ANYBODY, Caller
from pilotage.runtime.access.keyfile import PREFIX, Key, digest, had_keys, read_keys

LOOK_EVERY_S = 0.5
"""Seconds between two looks at the file."""
LONGEST_HEADER = 256
"""Bytes of an ``Authorization`` header that is read at all; a key needs about 70."""
_HEADER = "Send the header: Authorization: Bearer <API key>."
_ANOTHER = "Ask for another one: pilotage keys create."
_SCHEME = b"bearer "
_START = PREFIX.encode() + b"_"
_NOBODY = digest(b"")
"""Compared with when there is no such key, so that it takes as long as if there were. No key has this hash: it would
have to be empty, and an empty one is refused before."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key, ready to be compared."""

    digest: bytes
    caller: Caller
    expires: float
    """Seconds since 1970; infinite for never."""
    revoked: bool


@dataclass(frozen=True, slots=True)
class _Ring:
    """What a file held. Replaced as a whole."""

    entries: Mapping[bytes, _Entry]
    open: bool


_CLOSED = _Ring({}, open=False)
Seen = tuple[object, ...]


class KeyRing:
    """The keys of one file. Any thread may ask."""

    def __init__(
        self,
        path: Path,
        *,
        report: Callable[[str], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the file once.

        Args:
            path: ``settings.api_keys``.
            report: Called with a sentence for each thing that an operator should know.
            wall: Gives the seconds since 1970.
            monotonic: Gives seconds that only grow.
        """
        self._path = path
        self._report = report
        self._wall = wall
        self._monotonic = monotonic
        self._ring = _CLOSED
        self._last: tuple[bytes, _Ring, _Entry] | None = None
        """The header that was right last, by which keys, and whose it is: most applications have one key."""
        self._seen: Seen | None = None
        self._revoked: set[bytes] = set()
        """Ids that were once seen revoked. An older file that is put back does not bring them back."""
        self._problem: str | None = None
        self._lock = threading.Lock()
        self._next = 0.0
        self.refresh()

    @property
    def open(self) -> bool:
        """Whether no key was ever made, so that none is needed on this machine."""
        return self._ring.open

    @property
    def problem(self) -> str | None:
        """What is wrong with the file; ``None`` if nothing is."""
        return self._problem

    def authenticate(self, header: bytes | str | None) -> Caller:
        """Tells who asks.

        Args:
            header: Value of ``Authorization``; ``None`` if none was sent. More than one must not get here
                (``admission.admit`` sees to it).

        Raises:
            Unauthenticated: No key was sent, or none that is valid now. An unknown id and a wrong secret get the same
                words, after the same work.
        """
        if self._monotonic() >= self._next:
            self.refresh()
        ring = self._ring
        if header is None:
            if ring.open:
                return ANYBODY
            raise _unauthenticated("No API key was sent.")
        if len(header) > LONGEST_HEADER:
            raise _unauthenticated(f"The Authorization header has more than {LONGEST_HEADER} characters.")
        last = self._last
        if last is not None and last[1] is ring and isinstance(header, bytes) and hmac.compare_digest(header, last[0]):
            return self._allowed(last[2])
        # A text that does not fit ASCII holds no key; what stands for its letters can't be in one.
        raw = header.encode("ascii", "replace") if isinstance(header, str) else header
        if raw[:7].lower() != _SCHEME:
            raise _unauthenticated("The Authorization header is of another scheme than Bearer.")
        key = raw[7:].strip(b" ")
        if ring.open:
            # Whoever sends a key expects that it counts.
            raise Unauthenticated(
                "An API key was sent, and this service has none.",
                fix="Send no Authorization header, or make a key: pilotage keys create NAME --role predict.",
            )
        parts = key.split(b"_", 2)
        entry = ring.entries.get(parts[1]) if len(parts) == 3 and key.startswith(_START) else None
        right = hmac.compare_digest(sha256(key).digest(), _NOBODY if entry is None else entry.digest)
        if entry is None or not right:
            raise _unauthenticated(
                "The API key is not known.", fix="See that all of it is sent, or ask for another one."
            )
        if isinstance(header, bytes):
            self._last = header, ring, entry
        return self._allowed(entry)

    def _allowed(self, entry: _Entry) -> Caller:
        """Whose key it is. The secret was right: the holder may know what became of it."""
        if entry.revoked:
            raise _unauthenticated(f"The API key {entry.caller.id} was revoked.", fix=_ANOTHER, key=entry.caller.id)
        if self._wall() >= entry.expires:
            raise _unauthenticated(f"The API key {entry.caller.id} has expired.", fix=_ANOTHER, key=entry.caller.id)
        return entry.caller

    def refresh(self) -> None:
        """Takes up a changed file. Requests call this by themselves, every ``LOOK_EVERY_S`` at most."""
        if not self._lock.acquire(blocking=False):
            return  # Another thread is at it.
        try:
            self._next = self._monotonic() + LOOK_EVERY_S
            seen = _stamp(self._path)
            if seen != self._seen:
                self._take_up()
                self._seen = seen
        finally:
            self._lock.release()

    def _take_up(self) -> None:
        try:
            keys = read_keys(self._path)
        except ConfigError as error:
            if self._problem != error.message:
                self._problem = error.message
                stays = "Nobody gets in." if not self._ring.entries else "The keys that were read last stay."
                self._report(f"{error.message} {stays} {error.fix}")
            if self._ring.open:
                self._ring = _CLOSED
            return
        if not keys and self._seen is not None and not self._ring.open:
            # There were keys, or a damaged file: with file and lock gone, it still is not for everybody.
            self._problem = f"The file of API keys {self._path} is gone, or holds no key any more."
            self._report(f"{self._problem} The keys that were read last stay. Restart the service if it is meant so.")
            return
        self._problem = None
        self._revoked.update(key.id.encode() for key in keys if key.revoked is not None)
        self._ring = _Ring({key.id.encode(): self._entry(key) for key in keys}, open=not keys)

    def _entry(self, key: Key) -> _Entry:
        return _Entry(
            digest=bytes.fromhex(key.sha256),
            caller=Caller(id=key.id, name=key.name, roles=frozenset(key.roles), limit=key.limit),
            expires=float("inf") if key.expires is None else key.expires.timestamp(),
            revoked=key.id.encode() in self._revoked,
        )


def _stamp(path: Path) -> Seen:
    """Changes whenever the file is replaced, edited or gone."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno, had_keys(path))
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode)


def _unauthenticated(message: str, *, fix: str = _HEADER, **details: object) -> Unauthenticated:
    return Unauthenticated(message, fix=fix, **details)
