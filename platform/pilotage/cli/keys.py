"""``pilotage keys``: makes, lists and revokes API keys of the prediction service.

A new key is shown once and kept nowhere. It goes to standard output alone, and what is said about it to standard error:
so it can be piped to where it is needed, and nobody has to see it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pilotage.cli.console import err, out, print_json
from pilotage.errors import ConfigError
from pilotage.runtime.access import keyfile
from pilotage.runtime.access.caller import FASTEST, Limit
from pilotage.settings import Settings

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LONGEST = timedelta(days=3650)
USUAL_RATE = 100.0
"""Requests a second of a key that nothing else is said of."""
SOON = timedelta(days=14)
"""How long before its end a key is shown as ending soon."""


def create(
    settings: Settings,
    name: str,
    *,
    roles: Sequence[str],
    rate: float | None,
    burst: int | None,
    unlimited: bool,
    expires: str | None,
    as_json: bool,
) -> None:
    """Makes a key and shows it, this once.

    Raises:
        ConfigError: Something of it does not fit, or the file can't be changed.
    """
    if unlimited and (rate is not None or burst is not None):
        raise ConfigError("--unlimited is no limit, and --rate and --burst are one.", fix="Give the one or the other.")
    limit = None if unlimited else limit_of(USUAL_RATE if rate is None else rate, burst)
    lasts = None if expires is None else duration(expires)
    key, text = keyfile.create_key(settings.api_keys, name, roles=roles, limit=limit, lasts=lasts)
    if as_json:
        print_json({**_told(key, datetime.now(UTC)), "key": text})
        return
    until = "for good" if key.expires is None else f"until {key.expires:%Y-%m-%d %H:%M} UTC"
    err().print(
        f"Key {key.id} for {key.name}: {', '.join(key.roles)}; {_words(key.limit)}; valid {until}. It is shown once:",
        highlight=False,
        markup=False,
    )
    # Not by the console, which may fold it.
    print(text, flush=True)


def show(settings: Settings, *, as_json: bool) -> None:
    """Lists every key, without secrets.

    Raises:
        ConfigError: The file is damaged or gone.
    """
    from rich.table import Column, Table
    from rich.text import Text

    keys = keyfile.read_keys(settings.api_keys)
    now = datetime.now(UTC)
    if as_json:
        print_json([_told(key, now) for key in keys])
        return
    if not keys:
        out().print(
            "There is no API key. The service answers this machine without one, and refuses to listen elsewhere.",
            highlight=False,
        )
        return
    dates = (Column(name, overflow="fold") for name in ("created", "until"))
    table = Table(Column("id", no_wrap=True), "name", "roles", "limit", *dates, "state")
    for key in keys:
        until = "" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        told = (key.name, ", ".join(key.roles), _words(key.limit), f"{key.created:%Y-%m-%d}", until, _state(key, now))
        table.add_row(key.id, *(Text(word) for word in told))
    out().print(table)


def revoke(settings: Settings, key_id: str, *, why: str) -> None:
    """Revokes a key; services refuse it within a second.

    Raises:
        ConfigError: There is no such key, no reason, or the file can't be changed.
    """
    key = keyfile.revoke_key(settings.api_keys, key_id, why=why)
    out().print(
        f"Key {key.id} of {key.name} is revoked since {key.revoked:%Y-%m-%d %H:%M:%S} UTC: {key.why}",
        highlight=False,
        markup=False,
    )


def take_over(settings: Settings, source: Path) -> None:
    """Adds the keys of another file that are not known yet.

    Raises:
        ConfigError: A file can't be read or changed.
    """
    added = keyfile.import_keys(settings.api_keys, source)
    named = "".join(f" {key.id} ({key.name})" for key in added) or " nothing new"
    out().print(f"Taken over from {source}:{named}", highlight=False, markup=False)


def limit_of(rate: float, burst: int | None) -> Limit:
    """The limit that the options say.

    Raises:
        ConfigError: They are out of range.
    """
    try:
        usual = max(1, round(2 * min(rate, FASTEST)))
        return Limit(per_second=rate, burst=usual if burst is None else burst)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--rate and --burst don't fit: {error}.", fix="Give other ones, or --unlimited.") from None


def duration(
    text: str, *, option: str = "--expires", longest: timedelta = _LONGEST, most: str = "ten years"
) -> timedelta:
    """``12h``, ``90d`` or ``4w`` as a time span.

    Args:
        text: What was given.
        option: By which option.
        longest: What it may be at most.
        most: The same in words.

    Raises:
        ConfigError: It is something else, or longer.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    span = int(found[1]) * _UNITS[found[2]] if found else timedelta(0)
    if not timedelta(0) < span <= longest:
        raise ConfigError(
            f"{option} {text!r} is no time span.", fix=f"Give hours, days or weeks, {most} at most: 12h, 7d, 4w."
        )
    return span


def _told(key: keyfile.Key, now: datetime) -> dict[str, Any]:
    told = asdict(key)
    del told["sha256"]
    told["limit"] = None if key.limit is None else {"per_second": key.limit.per_second, "burst": key.limit.burst}
    return {**told, "state": key.state(now)}


def _state(key: keyfile.Key, now: datetime) -> str:
    state = key.state(now)
    if state == "revoked":
        return f"revoked: {key.why}"
    ending = state == "valid" and key.expires is not None and key.expires - now < SOON
    return "valid, ends soon" if ending else state


def _words(limit: Limit | None) -> str:
    return "no limit" if limit is None else f"{limit.per_second:g}/s, {limit.burst} at once"
