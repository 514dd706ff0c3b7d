"""Tells people that the book of alarms can't be used. Whatever is found is written into it before anybody is told, so
that nobody would hear of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pilotage.errors import ConfigError, LedgerUnavailable
from pilotage.monitoring.alerts.alert import PAGE, Tier
from pilotage.monitoring.alerts.notices import Message
from pilotage.monitoring.alerts.receivers import Receiver, Send, read_receivers

if TYPE_CHECKING:
    from pilotage.settings import Settings

PATIENCE = 3
"""Looks in a row, one a minute, that must fail before anybody is told."""
AGAIN = 60
"""Looks after which a receiver is told again, since nobody can acknowledge it."""


class Unkept:
    """How often in a row the book could not be used, and who was told of it. Forgotten when its process ends."""

    def __init__(self, settings: Settings, *, tell: Send, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._say = say
        self._looks = 0
        self._told: dict[str, int] = {}
        """Receiver → the failed look at which it took its message."""

    def failed(self, error: LedgerUnavailable) -> None:
        """A look failed because of the book. A receiver that does not take its message is tried at the next one."""
        self._looks += 1
        if self._looks < PATIENCE:
            return
        body = (
            f"No alarm can be kept, so nobody is told of any, and whatever else is wrong: {error.message}\n"
            f"{error.fix}\nWhat to do: {PAGE}#watch_failed"
        )
        message = _message("critical", "[CRITICAL] watch failed: alarms can't be kept", body)
        for receiver in self._receivers():
            due = self._looks - self._told.get(receiver.name, -AGAIN) >= AGAIN
            if due and self._concerns(receiver) and self._reach(receiver, message):
                self._told[receiver.name] = self._looks

    def works(self) -> None:
        """A look found the book in order: who was told otherwise is told that it is over."""
        if self._told:
            message = _message("information", "[OVER] watch failed: alarms can't be kept", "Alarms are kept again.")
            for receiver in self._receivers():
                if receiver.name in self._told:
                    self._reach(receiver, message)
        self._looks, self._told = 0, {}

    def _receivers(self) -> Sequence[Receiver]:
        try:
            return read_receivers(self._settings.alerts_file)
        except ConfigError as error:
            self._say(str(error))
            return ()

    def _concerns(self, receiver: Receiver) -> bool:
        """As of a critical alarm that nobody acknowledges."""
        escalated = self._looks >= PATIENCE + self._settings.alerts_escalate_minutes
        return "critical" in receiver.tiers or (receiver.escalation and escalated)

    def _reach(self, receiver: Receiver, message: Message) -> bool:
        why = self._tell(receiver, message)
        if why is not None:
            self._say(f"{receiver.name}: {why}")
        return why is None


def _message(tier: Tier, title: str, body: str) -> Message:
    return Message(tier=tier, title=title, body=body, data=({"kind": "watch_failed", "tier": tier, "summary": body},))
