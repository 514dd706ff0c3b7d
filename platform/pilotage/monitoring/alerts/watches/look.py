"""What a watch is, and how what it finds becomes alarms: raised while it is found, cleared once it no longer is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pilotage.monitoring.alerts.alert import Alert, Key
from pilotage.monitoring.alerts.book import AlertBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found."""

    alerts: tuple[Alert, ...] = ()
    unknown: frozenset[Key] = frozenset()
    """What could not be told: such alarms stay as they are."""
    words: str
    """What was looked at, for whoever asks why nothing was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One thing to look at."""

    name: str
    kinds: frozenset[str]
    """Kinds that this watch alone raises: an open alarm of them that it does not find is on its way to be over."""
    look: Callable[[], Look]


def carry_out(book: AlertBook, watches: Iterable[Watch]) -> dict[str, str]:
    """Looks at everything, and raises or clears. A watch that fails keeps no other from looking, and is an alarm.

    Returns:
        Watch → what it saw, in words.

    Raises:
        LedgerUnavailable: The alarms' database can't be used.
    """
    told: dict[str, str] = {}
    for watch in watches:
        try:
            look = watch.look()
        except Exception as error:  # Whatever a watch fails of: the next one still looks.
            told[watch.name] = f"could not look: {error}"
            book.raise_(
                Alert.of(
                    "watch_failed",
                    f"The watch over {watch.name} can't look: {error}",
                    subject=watch.name,
                    evidence={"error": type(error).__name__},
                )
            )
            continue
        told[watch.name] = look.words
        found = {alert.key for alert in look.alerts}
        for alert in look.alerts:
            book.raise_(alert)
        for alarm in book.alarms():
            if alarm.key.kind in watch.kinds and alarm.key not in found | look.unknown:
                book.clear(*alarm.key)
        book.clear("watch_failed", subject=watch.name)
    return told
