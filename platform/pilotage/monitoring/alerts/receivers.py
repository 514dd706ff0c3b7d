"""Who is told, and how: the file of receivers, the log, and Apprise for mail, chat and webhooks.

An address holds a secret more often than not: it is in no message, log line, error or ``repr``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.alert import TIERS, Tier
from pilotage.monitoring.alerts.notices import Message, Notice

if TYPE_CHECKING:
    from datetime import datetime

    from pilotage.settings import Settings

LOG = "log"
"""The receiver that is always there."""
ESCALATION = "escalation"
_LARGEST_LOG = 10 * 2**20
"""Bytes of the log file, after which it is moved aside; the one moved aside before is dropped."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_LEVELS: Mapping[Tier, int] = {"critical": logging.ERROR, "warning": logging.WARNING, "information": logging.INFO}
_LOG = logging.getLogger("pilotage.alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Somebody, or something, that is told."""

    name: str
    tiers: frozenset[Tier]
    escalation: bool = False
    """Whether it is told what nobody acknowledged."""
    address: str = field(default="", repr=False)
    """As Apprise takes it."""

    def gets(self, notice: Notice, *, last_resort: bool) -> bool:
        """Whether a notice is for it.

        What nobody acknowledged goes to the next tier of receivers as well: a warning to those of critical ones, a
        critical one to those of escalations.

        Args:
            notice: The notice.
            last_resort: Whether there is any receiver of escalations.
        """
        if notice.kind == "delivery" and notice.subject == self.name:
            return False
        if notice.tier in self.tiers:
            return True
        if not notice.level:
            return False
        if notice.tier == "warning" and "critical" in self.tiers:
            return True
        # A warning that waits on goes all the way.
        return self.escalation and (notice.tier == "critical" or notice.level > 1 or not last_resort)


Send = Callable[[Receiver, Message], str | None]
"""Tells a receiver; gives ``None`` if it arrived, else why not."""


def read_receivers(path: Path | None) -> tuple[Receiver, ...]:
    """The receivers of a file: one a line, ``NAME WHAT ADDRESS``. WHAT is ``all``, or tiers and ``escalation`` with
    commas between them.

    Raises:
        ConfigError: The file can't be read, everybody may write it, or a line says something else. No address is
            repeated.
    """
    if path is None:
        return ()
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise _unusable(path, str(reason)) from None
    if mode & 0o002:
        raise _unusable(path, "everybody on this machine may write it (chmod 600 it, and look at what it holds)")
    found: dict[str, Receiver] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        receiver = _receiver(path, number, line.split())
        if receiver.name in found:
            raise _unusable(path, f"line {number}: there are two receivers {receiver.name}")
        found[receiver.name] = receiver
    return tuple(found.values())


def _receiver(path: Path, number: int, words: Sequence[str]) -> Receiver:
    if len(words) != 3:
        raise _unusable(path, f"line {number} has {len(words)} words, not the three NAME WHAT ADDRESS")
    name, what, address = words
    if not _NAME.fullmatch(name) or name == LOG:
        raise _unusable(path, f"line {number}: its first word is no name of a receiver")
    if "://" not in address:
        raise _unusable(path, f"line {number}: its third word is no address")
    wanted = set(TIERS) if what == "all" else set(what.split(","))
    if unknown := sorted(wanted - {*TIERS, ESCALATION}):
        if "://" in what:
            raise _unusable(path, f"line {number}: its second word is an address, not what the receiver gets")
        raise _unusable(path, f"line {number}: {unknown[0]!r} is neither a tier nor {ESCALATION!r}")
    tiers: frozenset[Tier] = frozenset(tier for tier in TIERS if tier in wanted)
    return Receiver(name=name, tiers=tiers, escalation=ESCALATION in wanted, address=address)


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"The receivers of alerts in {path} can't be used: {reason}.",
        fix="Correct it as docs/how-to/alerts.md says (PILOTAGE_ALERTS_FILE names it).",
        path=str(path),
    )


def log_file(settings: Settings) -> Path:
    """Where every message is, one JSON object a line."""
    return settings.home / "logs" / "alerts.log"


def write_log(path: Path, message: Message, *, at: datetime) -> None:
    """Adds a message to the log file, and to the log of this process.

    Raises:
        OSError: There is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LARGEST_LOG:
        path.replace(path.with_suffix(".log.1"))
    line = json.dumps({"at": at.isoformat(), "tier": message.tier, "title": message.title, "alarms": message.data})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    _LOG.log(_LEVELS[message.tier], "%s: %s", message.title, message.body.partition("\n")[0])


def send(receiver: Receiver, message: Message) -> str | None:
    """Tells a receiver by Apprise. See ``Send``."""
    import apprise

    # What it says has the address in it, and is told below without.
    logging.getLogger("apprise").propagate = False
    kinds = {
        "critical": apprise.NotifyType.FAILURE,
        "warning": apprise.NotifyType.WARNING,
        "information": apprise.NotifyType.INFO,
    }
    asset = apprise.AppriseAsset(app_id="Pilotage", app_desc="Pilotage", async_mode=False, secure_logging=True)
    try:
        service = apprise.Apprise.instantiate(receiver.address, asset=asset)
        if service is None:
            return "it is no address that Apprise knows"
        box = apprise.Apprise(asset=asset)
        box.add(service)
        result = box.notify(
            title=message.title,
            body=message.body,
            notify_type=kinds[message.tier],
            body_format=apprise.NotifyFormat.TEXT,
            log_level=logging.WARNING,
        )
        why = None if result else "; ".join(entry.message for entry in result.logs())
    except Exception as error:  # noqa: BLE001, RUF100 - a hundred plugins, each with its own ways to fail
        return _without_secrets(f"{type(error).__name__}: {error}", receiver.address)
    if why is None:
        return None
    return _without_secrets(why, receiver.address)[:300] or "it did not take the message"


def _without_secrets(text: str, address: str) -> str:
    """What a plugin said, without the parts of the address that may be secret."""
    parts = urlsplit(address)
    secrets = {address, parts.username, parts.password, parts.query, *parts.path.split("/"), *parts.query.split("&")}
    secrets |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    # Where others have a host and a port, pagers and chats have a token.
    parties = (each for each in re.split("[:@]", parts.netloc) if "." not in each and each != "localhost")
    secrets |= {each for each in parties if not (each.isdecimal() and len(each) < 6)}
    for secret in sorted({each for each in secrets if each and len(each) > 3}, key=len, reverse=True):
        text = text.replace(secret, "****").replace(unquote(secret), "****")
    return text
