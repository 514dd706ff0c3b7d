"""The watch over the watch: a look from a process that does not end when Dagster's daemon does.

It knows one file, which the platform's own watch writes anew at each look, and the book of alarms. It must not know
Dagster: what it is there for is that Dagster may be gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pilotage.errors import ConfigError, LedgerUnavailable, PilotageError
from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.book import AlertBook
from pilotage.monitoring.alerts.delivery import deliver
from pilotage.monitoring.alerts.receivers import Send, send
from pilotage.monitoring.alerts.unkept import Unkept

if TYPE_CHECKING:
    from pathlib import Path

    from pilotage.settings import Settings

EVERY = timedelta(minutes=1)
"""From one look to the next."""
ASLEEP = 3 * EVERY
"""After which a watch that has not looked is not at work; the machine may have been suspended."""
SILENT = timedelta(minutes=5)
"""After which the heartbeat counts as silent; it beats twice a minute."""
OVERDUE = timedelta(minutes=5)
"""How late a notice may be before it is delivered from here, in the platform's place."""
_SUBJECT = "heartbeat"


def _now() -> datetime:
    return datetime.now(UTC)


def keep_watch(
    settings: Settings,
    *,
    clock: Callable[[], datetime] = _now,
    wait: Callable[[float], None] = time.sleep,
    tell: Send = send,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Looks each minute, until the process ends, and leaves word that it did.

    Silence counts from when it began: who starts everything after a night is told of no night without a heartbeat. The
    same holds after a machine was suspended. A look that fails, since a disk is full say, is said and tried again. Of a
    book of alarms that can't be used people are told past it.

    Args:
        settings: Where everything is.
        clock: Gives the time, UTC.
        wait: Waits some seconds.
        tell: How to reach a receiver.
        say: Called with a sentence for whatever is wrong.
    """
    since = looked = clock()
    unkept = Unkept(settings, tell=tell, say=say)
    while True:
        if clock() - looked > ASLEEP:
            since = clock()
        looked = clock()
        try:
            if (silent := look_from_outside(settings, since=since, clock=clock, tell=tell, say=say)) is not None:
                say(silent)
            unkept.works()
            _note(settings, clock())
        except (PilotageError, OSError) as error:
            # A full disk must not end it: whoever restarts it would have the silence counted anew.
            say(str(error))
            if isinstance(error, LedgerUnavailable):
                unkept.failed(error)
        wait(EVERY.total_seconds())


def watching(settings: Settings, *, clock: Callable[[], datetime] = _now) -> str | None:
    """``None`` if a watch is at work, else what is wrong in a few words. For health checks."""
    try:
        at = datetime.fromisoformat(json.loads(_note_file(settings).read_text(encoding="utf-8"))["at"])
    except FileNotFoundError:
        return "has not looked yet"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_note_file(settings)} can't be read: {error}"
    ago = clock() - at
    return f"looked last {ago / timedelta(minutes=1):.0f} minutes ago" if ago > ASLEEP else None


def beating(settings: Settings, *, clock: Callable[[], datetime] = _now) -> str | None:
    """``None`` if the platform watches itself, as Dagster's daemon and code location have it do, else what is wrong in
    a few words."""
    try:
        last = _last_beat(settings)
    except ConfigError as error:
        return error.message
    if last is None:
        return "has not beaten yet"
    ago = clock() - last
    return f"beat last {ago / timedelta(minutes=1):.0f} minutes ago" if ago > SILENT else None


def _note_file(settings: Settings) -> Path:
    return settings.heartbeat.with_name("watch.json")


def _note(settings: Settings, at: datetime) -> None:
    staged = _note_file(settings).with_suffix(".new")
    staged.write_text(json.dumps({"at": at.isoformat()}), encoding="utf-8")
    staged.replace(_note_file(settings))


def look_from_outside(
    settings: Settings,
    *,
    since: datetime | None = None,
    clock: Callable[[], datetime] = _now,
    tell: Send = send,
    say: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Raises an alarm if the platform no longer watches itself, and tells people what it is late to tell.

    Args:
        settings: Where everything is.
        since: From when on a heartbeat is to be expected; without it from the first one on.
        clock: Gives the time, UTC.
        tell: How to reach a receiver.
        say: Called with a sentence for each receiver that could not be told.

    Returns:
        What is wrong, in words; ``None`` if nothing is.

    Raises:
        ConfigError: The note of the last look can't be read, and no heartbeat is to be expected otherwise.
        LedgerUnavailable: The alarms' database can't be used.
    """
    try:
        last = _last_beat(settings)
    except ConfigError as error:
        # A platform that lives writes it anew. Of one that does not, it is all that a power failure may leave.
        if since is None:
            raise
        say(str(error))
        last = None
    expected = max((each for each in (last, since) if each is not None), default=None)
    silent = None
    with AlertBook.of(settings, clock=clock) as book:
        if expected is not None and clock() - expected > SILENT:
            minutes = (clock() - expected) / timedelta(minutes=1)
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
