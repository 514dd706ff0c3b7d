"""The watch over the watch: a look from a process that does not end when Dagster's daemon does.

It knows one file, which the platform's own watch writes anew at each look, and the book of alarms. It must not know
Dagster: what it is there for is that Dagster may be gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.book import AlertBook
from pilotage.monitoring.alerts.delivery import deliver
from pilotage.monitoring.alerts.receivers import Send, send

if TYPE_CHECKING:
    from pilotage.settings import Settings

SILENT = timedelta(minutes=5)
"""After which the heartbeat counts as silent; it beats twice a minute."""
OVERDUE = timedelta(minutes=5)
"""How late a notice may be before it is delivered from here, in the platform's place."""
_SUBJECT = "heartbeat"


def _now() -> datetime:
    return datetime.now(UTC)


def look_from_outside(
    settings: Settings,
    *,
    clock: Callable[[], datetime] = _now,
    tell: Send = send,
    say: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Raises an alarm if the platform no longer watches itself, and tells people what it is late to tell.

    Args:
        settings: Where everything is.
        clock: Gives the time, UTC.
        tell: How to reach a receiver.
        say: Called with a sentence for each receiver that could not be told.

    Returns:
        What is wrong, in words; ``None`` if nothing is.

    Raises:
        ConfigError: The note of the last look can't be read.
        LedgerUnavailable: The alarms' database can't be used.
    """
    last = _last_beat(settings)
    silent = None
    with AlertBook.of(settings, clock=clock) as book:
        if last is not None and clock() - last > SILENT:
            minutes = (clock() - last) / timedelta(minutes=1)
            silent = f"The platform has not watched itself for {minutes:.0f} minutes: its daemon or its sensor is gone."
            evidence = {"last": last, "minutes": round(minutes, 1)}
            book.raise_(Alert.of("daemon_silent", silent, subject=_SUBJECT, evidence=evidence))
        else:
            book.clear("daemon_silent", subject=_SUBJECT)
        book.look()
        overdue = [notice for notice in book.waiting() if clock() - notice.waits_for() > OVERDUE]
        if silent is not None or overdue:
            for failed in deliver(book, settings, tell=tell).failures:
                say(failed)
    return silent


def _last_beat(settings: Settings) -> datetime | None:
    """When the platform last watched itself; ``None`` if it never did."""
    try:
        return datetime.fromisoformat(json.loads(settings.heartbeat.read_text(encoding="utf-8"))["at"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{settings.heartbeat} can't be read: {error}.",
            fix="Let this user read it; the sensor `heartbeat` writes it anew.",
            path=str(settings.heartbeat),
        ) from None
