"""A book of alarms with a clock that moves when told, and receivers that note what they get."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pilotage.monitoring.alerts import Alert, AlertBook, Delivered, deliver
from pilotage.monitoring.alerts.notices import Message
from pilotage.monitoring.alerts.receivers import Receiver
from pilotage.settings import Settings

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
RECEIVERS = """
# name    what                     address
oncall    critical                 json://127.0.0.1/oncall
chat      critical,warning         json://127.0.0.1/chat
boss      escalation               json://127.0.0.1/boss
paper     information              json://127.0.0.1/paper
"""


@dataclass
class Desk:
    """An installation, with everything that was told in it."""

    home: Path
    receivers: str = RECEIVERS
    now: datetime = START
    got: list[tuple[str, Message]] = field(default_factory=list)
    away: set[str] = field(default_factory=set)
    """Receivers that take nothing now."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        file = self.home / "receivers"
        file.write_text(self.receivers)
        file.chmod(0o600)
        self.settings = Settings.load().model_copy(update={"home": self.home, "alerts_file": file})
        self.book = AlertBook.of(self.settings, clock=lambda: self.now)

    def wait(self, *, look: bool = True, **span: float) -> None:
        self.now += timedelta(**span)
        if look:
            self.book.look()

    def tell(self, receiver: Receiver, message: Message) -> str | None:
        if receiver.name in self.away:
            return "it is away"
        self.got.append((receiver.name, message))
        return None

    def deliver(self) -> Delivered:
        return deliver(self.book, self.settings, tell=self.tell)

    def titles(self, name: str) -> list[str]:
        return [message.title for receiver, message in self.got if receiver == name]


def critical(summary: str = "The champion does not answer.", **fields: str) -> Alert:
    return Alert.of("service_on_fallback", summary, **{"model": "tiny", **fields})


def warning(subject: str = "flights", **fields: str) -> Alert:
    return Alert.of("freshness", f"{subject} is behind.", subject=subject, **fields)
