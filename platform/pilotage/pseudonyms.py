"""Pseudonyms of personal values: the same person has the same one in every record, and nobody without the key can tell
who it is, or try all names to find out.

HMAC-SHA256 (RFC 2104) with a key that only the service has. Which fields are personal is the contract's business.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilotage.durable import sync_folder
from pilotage.errors import ConfigError
from pilotage.settings import Settings

PREFIX = "pseudonym:"
_DOMAIN = b"pilotage pseudonym 1\0"
"""So that the same key, used for something else, gives nothing that passes for a pseudonym."""
_HEX_DIGITS = 32
"""128 bits: among a billion people, two share one with a chance of 1 in 10²⁰."""
_KEY_BYTES = 32
_SHORTEST_KEY = 16


class Pseudonyms:
    """Makes pseudonyms with one key.

    Args:
        key: The secret, 16 bytes or more.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _SHORTEST_KEY:
            raise ConfigError(
                f"The key of the pseudonyms has {len(key)} bytes; it needs {_SHORTEST_KEY} or more.",
                fix="Restore the key from the backup: with another one, nobody's records can be found again.",
            )
        self._key = key
        self._encode = msgspec.json.Encoder().encode

    @classmethod
    def of(cls, settings: Settings) -> Pseudonyms:
        """With the key of this platform, which is made on first use unless a setting says where it is.

        Raises:
            ConfigError: The key can't be read or made, or is too short.
        """
        return cls(read_key(settings.pseudonym_key, make=settings.pseudonym_key_file is None))

    def apply(self, field: str, value: Any) -> str | None:
        """Stands for a value of a field: ``pseudonym:`` and 32 hexadecimal digits; ``None`` for ``None``.

        The same value in another field has another one, so that two fields can't be matched by it.

        Args:
            field: The request field's name.
            value: As the contract checked it. 7 and 7.0 are the same.
        """
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        message = b"%b%b\0%b" % (_DOMAIN, field.encode(), self._encode(value))
        return PREFIX + hmac.digest(self._key, message, "sha256").hex()[:_HEX_DIGITS]

    def hide(self, values: Mapping[str, Any], personal: Collection[str]) -> dict[str, Any]:
        """Values by field, with a pseudonym for each personal one."""
        return {name: self.apply(name, value) if name in personal else value for name, value in values.items()}


def read_key(path: Path, *, make: bool) -> bytes:
    """The secret in a file, without the line end that an editor leaves.

    Args:
        path: The file.
        make: Whether a missing one is made; of several processes at once, one makes it.

    Raises:
        ConfigError: It can't be read, or is missing and may not be made.
    """
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except FileNotFoundError:
        if not make:
            raise ConfigError(
                f"The key of the pseudonyms is not at {path}.",
                fix="Put it there, or correct PILOTAGE_PSEUDONYM_KEY_FILE. With a new key, nobody's records are found.",
                path=str(path),
            ) from None
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        _make_key(path)
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise _unusable(path, error) from None


def _make_key(path: Path) -> None:
    """Makes the file whole or not at all; one that is there already stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(file, os.urandom(_KEY_BYTES).hex().encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        try:
            # Exclusive as O_EXCL is, but a reader never sees half of it.
            path.hardlink_to(new)
        except FileExistsError:
            return
    finally:
        new.unlink()
    sync_folder(path.parent)


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The key of the pseudonyms, {path}, can't be used: {error.strerror}.",
        fix="Make it readable for this user, or correct PILOTAGE_PSEUDONYM_KEY_FILE.",
        path=str(path),
    )
