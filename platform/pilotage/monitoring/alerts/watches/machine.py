"""The machine and its secrets: room on the disk, keys and certificates that end, a prediction log that nobody moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.watches.look import Look, Watch
from pilotage.settings import Settings

GIB = 2**30
FULL = (2 * GIB, 0.05, 20 * GIB)
"""Free bytes below which a disk counts as full; or share of it that is free, on disks with no more than so many free
bytes."""
FILLING = (5 * GIB, 0.10, 50 * GIB)
SOON = timedelta(days=14)
"""Before the end of a key or a certificate."""
VERY_SOON = timedelta(days=2)
FORGOTTEN = timedelta(days=30)
"""After which nobody waits for a key any more that has expired."""
LAG_WARNS = timedelta(minutes=30)
"""Age of the oldest segment that is not in the lake; they are moved after five minutes."""
LAG_CRITICAL = timedelta(hours=6)


def machine_watches(
    settings: Settings, *, now: datetime, usage: Callable[[Path], Any] = shutil.disk_usage
) -> list[Watch]:
    """What is to be looked at on this machine.

    Args:
        settings: Where everything is.
        now: UTC.
        usage: Gives ``total`` and ``free`` bytes of a folder's disk.
    """
    return [
        Watch(name="disk", kinds=frozenset({"disk_full"}), look=lambda: disk(settings, usage=usage)),
        Watch(name="api keys", kinds=frozenset({"key_expiry"}), look=lambda: api_keys(settings, now=now)),
        Watch(name="certificate", kinds=frozenset({"certificate_expiry"}), look=lambda: certificate(settings, now=now)),
        Watch(name="prediction log", kinds=frozenset({"log_lag"}), look=lambda: log_lag(settings, now=now)),
    ]


def disk(settings: Settings, *, usage: Callable[[Path], Any] = shutil.disk_usage) -> Look:
    """Room on the disks of the home, and of the lake if that is a folder elsewhere."""
    alerts, told = [], []
    folders = {"home": settings.home}
    if "://" not in settings.lake and not Path(settings.lake).is_relative_to(settings.home):
        folders["lake"] = Path(settings.lake)
    for name, folder in folders.items():
        there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
        total, free = usage(there).total, usage(there).free
        share = free / total if total else 0.0
        words = f"{free / GIB:.1f} GiB ({share:.0%}) are free on the disk of the {name}"
        told.append(words)
        if _below(free, share, FULL) or _below(free, share, FILLING):
            alerts.append(
                Alert.of(
                    "disk_full",
                    f"{words}, {folder}.",
                    tier="critical" if _below(free, share, FULL) else "warning",
                    subject=name,
                    evidence={"folder": str(folder), "free_bytes": free, "total_bytes": total},
                )
            )
    return Look(alerts=tuple(alerts), words="; ".join(told))


def _below(free: int, share: float, limit: tuple[int, float, int]) -> bool:
    least, least_share, enough = limit
    return free < least or (share < least_share and free < enough)


def api_keys(settings: Settings, *, now: datetime) -> Look:
    """Keys of applications that end soon, or ended lately and were not revoked."""
    from pilotage.runtime.access.keyfile import read_keys

    try:
        keys = read_keys(settings.api_keys)
    except ConfigError as error:
        alert = Alert.of(
            "key_expiry", f"No application can be let in. {error.message}", tier="critical", subject="file"
        )
        return Look(alerts=(alert,), words=error.message)
    alerts = [
        _ending("key_expiry", f"The API key of {key.name}", key.expires, now=now, subject=key.id, name=key.name)
        for key in keys
        if key.revoked is None and key.expires is not None and -FORGOTTEN < key.expires - now < SOON
    ]
    return Look(alerts=tuple(alerts), words=f"{len(keys)} API keys, {len(alerts)} that end soon or have ended")


def certificate(settings: Settings, *, now: datetime) -> Look:
    """The certificates in the file that the settings name: the first to end counts."""
    if settings.certificate_file is None:
        return Look(words="no certificate is named (PILOTAGE_CERTIFICATE_FILE)")
    path = settings.certificate_file
    ends = _ends(path)
    alerts = []
    if ends - now < SOON:
        alerts.append(_ending("certificate_expiry", f"The certificate in {path}", ends, now=now, subject=path.name))
    return Look(alerts=tuple(alerts), words=f"the certificate in {path} ends {ends:%Y-%m-%d}")


def _ends(path: Path) -> datetime:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return min(each.not_valid_after_utc for each in load_pem_x509_certificates(path.read_bytes()))
    except OSError as error:
        raise _no_certificate(path, error.strerror or str(error)) from None
    except ValueError:
        raise _no_certificate(path, "it holds none") from None


def _no_certificate(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"The certificate in {path} can't be read: {reason}.",
        fix="Correct PILOTAGE_CERTIFICATE_FILE, or let this user read it.",
        path=str(path),
    )


def _ending(kind: str, what: str, ends: datetime, *, now: datetime, subject: str, **evidence: Any) -> Alert:
    left = ends - now
    when = "has expired, on" if left <= timedelta(0) else f"expires in {max(left.days, 0)} days, on"
    return Alert.of(
        kind,
        f"{what} {when} {ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC.",
        tier="critical" if left < VERY_SOON and kind == "certificate_expiry" else "warning",
        subject=subject,
        evidence={"expires": ends, "days_left": round(left / timedelta(days=1), 1), **evidence},
    )


def log_lag(settings: Settings, *, now: datetime) -> Look:
    """The age of the oldest segment of the prediction log. Looks at names alone."""
    from pilotage.runtime.log import oldest

    began = oldest(settings.prediction_log)
    lag = now - began if began is not None else timedelta(0)
    words = f"the oldest segment of the prediction log is {_span(lag)} old" if began else "the prediction log is moved"
    if lag <= LAG_WARNS:
        return Look(words=words)
    alert = Alert.of(
        "log_lag",
        f"What the service answered is not moved into the lake: {words}.",
        tier="critical" if lag > LAG_CRITICAL else "warning",
        evidence={"lag_s": lag.total_seconds(), "oldest": began},
    )
    return Look(alerts=(alert,), words=words)


def _span(span: timedelta) -> str:
    minutes = span / timedelta(minutes=1)
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
