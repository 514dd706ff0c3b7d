"""The file of API keys: what it holds, and how it is changed. What a service does with it is ``keys.py``'s business.

A key is ``plt_<id>_<secret>``. The file has its SHA-256 and never the secret, which is shown once. Plain SHA-256,
neither salted nor slow, is enough here: salt and work factors protect secrets that people choose, which can be guessed
or looked up; a guess at 256 random bits is hopeless at any speed, and a slow hash would only cost each request time.

Changes are made under a lock and put in place by a rename, so that a reader sees the old file or the new one. The lock
file stays, with a line in it once there are keys: so a key file that went missing does not open the service.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pilotage.durable import sync_folder
from pilotage.errors import ConfigError
from pilotage.runtime.access.caller import ROLES, Limit

PREFIX = "plt"
FORMAT = 1
MOST_KEYS = 4096
"""Keys of one file, revoked ones included."""
LARGEST_FILE = 4 * 1024 * 1024
_ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_ID_LENGTH = 10
_SECRET_BYTES = 32
_LONGEST_TEXT = 200
_MARK = b"There are API keys. Without this file, a key file that went missing would open the service.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One API key, without its secret."""

    id: str
    """Public: it is in logs, in ``pilotage keys list`` and in each record of the prediction log."""
    name: str
    """Whom it is for."""
    sha256: str
    """Of the whole key, hexadecimal."""
    roles: tuple[str, ...]
    limit: Limit | None
    created: datetime
    """UTC, as all times here."""
    expires: datetime | None = None
    """First moment at which it is no longer valid; ``None`` for never."""
    revoked: datetime | None = None
    why: str | None = None
    """Why it was revoked."""

    def state(self, now: datetime) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "valid"


def digest(key: bytes) -> bytes:
    """What the file has of a key, as bytes."""
    return hashlib.sha256(key).digest()


def lock_of(path: Path) -> Path:
    """The file that is locked while the keys change, and that stays."""
    return path.with_name(f"{path.name}.lock")


def had_keys(path: Path) -> bool:
    """Whether keys were ever made in a file, even if it is gone. Where that can't be told, they were."""
    try:
        return lock_of(path).stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def read_keys(path: Path) -> tuple[Key, ...]:
    """All keys of a file; none if there never was one.

    Raises:
        ConfigError: The file can't be read, is damaged, may be written by everybody, or is gone though there was one.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        if had_keys(path):
            raise _unusable(path, "it is gone, though keys were made once") from None
        return ()
    except OSError as error:
        raise _out_of_reach(path, error, "read", "Let this user read it, and search its folders.") from None
    if mode & 0o002:
        raise _unusable(path, "everybody on this machine may write it (chmod 600 it, and look at what it holds)")
    return parse_keys(raw, path)


def parse_keys(raw: bytes, path: Path) -> tuple[Key, ...]:
    """The keys in a file's bytes.

    Raises:
        ConfigError: They are damaged.
    """
    try:
        if len(raw) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        content = json.loads(raw)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT}")
        keys = tuple(_from_json(item) for item in content["keys"])
        if len({key.id for key in keys}) != len(keys):
            raise ValueError("two keys have the same id")
        if len(keys) > MOST_KEYS:
            raise ValueError(f"it holds more than {MOST_KEYS} keys")
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        # A KeyError says no more than a name.
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise _unusable(path, reason) from None
    return keys


def create_key(
    path: Path,
    name: str,
    *,
    roles: Sequence[str],
    limit: Limit | None,
    lasts: timedelta | None = None,
    now: datetime | None = None,
) -> tuple[Key, str]:
    """Makes a key.

    Args:
        path: ``settings.api_keys``.
        name: Whom it is for, for people.
        roles: One or more of ``ROLES``.
        limit: How often it may ask; ``None`` for no limit.
        lasts: How long it is valid; ``None`` for ever.
        now: When it is made, UTC.

    Returns:
        Its record, and the key itself. It is nowhere else: whoever loses it needs a new one.

    Raises:
        ConfigError: A name or role does not fit, or the file can't be changed.
    """
    # As it will be read back.
    made = (now or datetime.now(UTC)).replace(microsecond=0)
    wanted = _roles(roles)
    if not (name := name.strip()) or len(name) > _LONGEST_TEXT or not name.isprintable():
        raise ConfigError("A key needs a printable name of 1 to 200 characters.", fix="Say whom it is for.")
    if lasts is not None and lasts <= timedelta(0):
        raise ConfigError("A key can't have expired before it is made.", fix="Give a time in the future.")
    with _changing(path) as (keys, write):
        if len(keys) >= MOST_KEYS:
            raise ConfigError(
                f"{path} holds {MOST_KEYS} keys, which is the most it may.", fix="Start a new file, and rotate."
            )
        taken = {key.id for key in keys}
        while (key_id := "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))) in taken:
            pass
        text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = Key(
            id=key_id,
            name=name,
            sha256=digest(text.encode()).hex(),
            roles=wanted,
            limit=limit,
            created=made,
            expires=made + lasts if lasts is not None else None,
        )
        write((*keys, key))
    return key, text


def revoke_key(path: Path, key_id: str, *, why: str, now: datetime | None = None) -> Key:
    """Revokes a key for good. One that is revoked already stays as it is.

    Args:
        path: The file.
        key_id: Its id, or all of the key: who finds one that leaked has that.
        why: The reason, for the record.
        now: UTC.

    Raises:
        ConfigError: There is no such key, no reason, or the file can't be changed.
    """
    if not why.strip() or len(why) > _LONGEST_TEXT:
        raise ConfigError("Revoking a key needs a reason of 1 to 200 characters.", fix="Say why.")
    key_id = key_id.removeprefix(f"{PREFIX}_").partition("_")[0]
    with _changing(path, create=False) as (keys, write):
        found = next((key for key in keys if key.id == key_id), None)
        if found is None:
            raise ConfigError(
                f"{path} has no key with the id {key_id[:50]!r}.", fix="pilotage keys list shows their ids."
            )
        if found.revoked is not None:
            return found
        gone = replace(found, revoked=(now or datetime.now(UTC)).replace(microsecond=0), why=why.strip())
        write([gone if key.id == key_id else key for key in keys])
    return gone


def import_keys(path: Path, source: Path) -> tuple[Key, ...]:
    """Adds the keys of another file, of which this one knows nothing yet. Those that it knows stay as they are here.

    Returns:
        What was added.

    Raises:
        ConfigError: A file can't be read or changed, or the source is not there.
    """
    coming = read_keys(source)
    if not coming and not source.exists():
        raise ConfigError(f"There is no file {source}.", fix="Name the file whose keys are to be taken over.")
    with _changing(path) as (keys, write):
        known = {key.id for key in keys}
        new = tuple(key for key in coming if key.id not in known)
        if len(keys) + len(new) > MOST_KEYS:
            raise ConfigError(f"{path} may hold {MOST_KEYS} keys at most.", fix="Start a new file, and rotate.")
        if new:
            write((*keys, *new))
    return new


@contextmanager
def _changing(path: Path, *, create: bool = True) -> Iterator[tuple[tuple[Key, ...], Callable[[Sequence[Key]], None]]]:
    """The keys as they are, and what writes them; nobody else changes them in between."""
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.exists() and not had_keys(path):
            raise ConfigError(
                f"There is no file of API keys {path}.", fix="Is PILOTAGE_HOME right? No key was made there."
            )
        lock = os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unchanged(path, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_keys(path), lambda keys: _write(path, keys, lock)
    finally:
        os.close(lock)


def _write(path: Path, keys: Sequence[Key], lock: int) -> None:
    raw = (json.dumps({"format": FORMAT, "keys": [_to_json(key) for key in keys]}, indent=1) + "\n").encode()
    staged = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            # Whatever the mode of a file that was left there.
            os.fchmod(handle, 0o600)
            file.write(raw)
            file.flush()
            os.fsync(handle)
        os.pwrite(lock, _MARK, 0)
        staged.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise _unchanged(path, error) from None


def _to_json(key: Key) -> dict[str, Any]:
    limit = None if key.limit is None else {"per_second": key.limit.per_second, "burst": key.limit.burst}
    times = {name: _text(getattr(key, name)) for name in ("created", "expires", "revoked")}
    return {**asdict(replace(key, limit=None)), "limit": limit, **times}


def _from_json(item: Mapping[str, Any]) -> Key:
    known = {"id", "name", "sha256", "roles", "limit", "created", "expires", "revoked", "why"}
    if odd := set(item) ^ known:
        raise ValueError(f"a key has a field {sorted(odd)[0]!r} too much or too little")
    key_id, sha256, name, why = item["id"], item["sha256"], item["name"], item["why"]
    if not (isinstance(key_id, str) and 8 <= len(key_id) <= 32 and key_id.isascii() and key_id.isalnum()):
        raise ValueError(f"{key_id!r} is no id of a key")
    if len(bytes.fromhex(sha256)) != 32:
        raise ValueError(f"the hash of {key_id} is no SHA-256")
    if not isinstance(name, str) or not (why is None or isinstance(why, str)):
        raise ValueError(f"name or reason of {key_id} is no text")
    created = _time(item["created"])
    if created is None:
        raise ValueError(f"{key_id} was never created")
    unknown = set(item["roles"]) - set(ROLES)
    if unknown or not item["roles"] or not isinstance(item["roles"], list):
        raise ValueError(f"{key_id} has an unknown role, or none")
    return Key(
        id=key_id,
        name=name,
        sha256=sha256,
        roles=tuple(item["roles"]),
        limit=None if item["limit"] is None else Limit(**item["limit"]),
        created=created,
        expires=_time(item["expires"]),
        revoked=_time(item["revoked"]),
        why=why,
    )


def _roles(roles: Sequence[str]) -> tuple[str, ...]:
    unknown = sorted(set(roles) - set(ROLES))
    if unknown or not roles:
        raise ConfigError(
            f"There is no role {unknown[0]!r}." if unknown else "A key without a role may do nothing.",
            fix=f"Give one or more of: {', '.join(ROLES)}.",
        )
    return tuple(role for role in ROLES if role in roles)


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"the time {text} has no zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"the time {text} is out of range") from None


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"The file of API keys {path} can't be used: {reason}.",
        fix="Restore it from the backup, or remove it together with its .lock file and make new keys.",
        path=str(path),
    )


def _out_of_reach(path: Path, error: OSError, what: str, fix: str) -> ConfigError:
    """Of a file that nothing is wrong with: to restore or remove it, as of a damaged one, would lose keys."""
    return ConfigError(
        f"The file of API keys {path} can't be {what}: {error.strerror or error}.",
        fix=f"{fix} The keys in it are as they were.",
        path=str(path),
    )


def _unchanged(path: Path, error: OSError) -> ConfigError:
    fix = "Make room on its disk, or let this user write into its folder, and do it again."
    return _out_of_reach(path, error, "changed", fix)
