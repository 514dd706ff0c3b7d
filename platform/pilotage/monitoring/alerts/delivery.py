"""Tells everybody what they have still to be told: at least once, whatever dies meanwhile, and twice only if it died
between a receiver's yes and its note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.book import AlertBook, Batch
from pilotage.monitoring.alerts.notices import GIVE_UP_AFTER, Attempt, Notice, compose
from pilotage.monitoring.alerts.receivers import LOG, Receiver, Send, log_file, read_receivers, send, write_log

if TYPE_CHECKING:
    from pilotage.settings import Settings

AT_MOST = timedelta(minutes=10)
"""How long one message may take; then whoever sends it counts as dead, and another process may begin."""
FILE = "receivers"
"""Subject of the alarm about a file of receivers that can't be read."""
_UNKNOWN = "unknown receivers"
"""Stands for those of such a file among the attempts; no receiver can have that name."""
_REREAD = timedelta(minutes=5)
"""Longest pause until such a file is read again: somebody who mends it waits for its effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What one delivery came to."""

    messages: int = 0
    """That arrived, the log's not counted."""
    notices: int = 0
    """That need not be told to anybody any more."""
    failures: tuple[str, ...] = ()
    """Receiver and reason, of those that did not take theirs."""
    busy: bool = False
    """Whether another process was at it."""


def deliver(book: AlertBook, settings: Settings, *, tell: Send = send) -> Delivered:
    """Tells what is due, as ``notices.ready`` says.

    Args:
        book: The alarms.
        settings: Where the receivers and the log are.
        tell: How to reach a receiver.

    Raises:
        LedgerUnavailable: The alarms' database can't be used.
    """
    if not book.waiting():
        return Delivered()
    batch = book.claim(AT_MOST)
    if batch is None or batch.claimed is None:
        return Delivered(busy=True)
    round_ = _Round(book, settings, tell, batch.claimed)
    try:
        return round_.deliver(batch)
    finally:
        if round_.claimed is not None:
            book.release(round_.claimed)


class _Round:
    """One delivery."""

    def __init__(self, book: AlertBook, settings: Settings, tell: Send, claimed: datetime) -> None:
        self.claimed: datetime | None = claimed
        """Until when nobody else delivers; ``None`` once another process does."""
        self._book = book
        self._settings = settings
        self._tell = tell
        self._messages = 0
        self._settled = 0
        self._failures: dict[str, str] = {}
        self._worked: set[str] = set()
        self._complete = True
        try:
            self._receivers = read_receivers(settings.alerts_file)
        except ConfigError as error:
            # The log is told now, and the others once it is known who they are.
            self._receivers, self._complete = (), False
            self._failures[FILE] = error.message

    def deliver(self, batch: Batch) -> Delivered:
        for notice in batch.moot:
            self._settle(notice, "silenced")
        for notices in batch.groups.values():
            if self.claimed is not None:
                self._group(notices, batch)
        self._raise_or_clear()
        return Delivered(
            messages=self._messages,
            notices=self._settled,
            failures=tuple(f"{name}: {why}" for name, why in self._failures.items()),
            busy=self.claimed is None,
        )

    def _group(self, notices: Sequence[Notice], batch: Batch) -> None:
        told = {notice.number: self._without_gone(notice) for notice in notices}
        log = Receiver(name=LOG, tiers=frozenset(("critical", "warning", "information")))
        last_resort = any(receiver.escalation for receiver in self._receivers)
        for receiver in (log, *self._receivers):
            wanting = [
                notice
                for notice in told.values()
                if (receiver is log or receiver.gets(notice, last_resort=last_resort))
                and _untold(notice, receiver.name, self._book)
            ]
            if wanting and not self._still():
                # Whoever is at it by now knows who was told, and goes on.
                return
            if wanting:
                for notice in self._to(receiver, wanting, batch):
                    told[notice.number] = notice
        for notice in told.values():
            names = [LOG, *(each.name for each in self._receivers if each.gets(notice, last_resort=last_resort))]
            if self._complete:
                self._settle_if_done(notice, names)
            else:
                self._settle_if_done(self._put_off(notice), [*names, _UNKNOWN])

    def _still(self) -> bool:
        """Whether it is this process's to go on, with another message's time to do it in."""
        if self.claimed is not None:
            self.claimed = self._book.prolong(self.claimed, AT_MOST)
        return self.claimed is not None

    def _without_gone(self, notice: Notice) -> Notice:
        """Forgets failed attempts with receivers that are no longer in the file: nothing waits for them."""
        names = {LOG, *(each.name for each in self._receivers)}
        left = {name: each for name, each in notice.attempts.items() if name in names or each.told_at is not None}
        if not self._complete or len(left) == len(notice.attempts):
            return notice
        after = replace(notice, attempts=left)
        self._book.keep(after)
        return after

    def _put_off(self, notice: Notice) -> Notice:
        """Nobody knows whom else to tell: it waits until the file is read again, later each time."""
        if not _untold(notice, _UNKNOWN, self._book):
            return notice
        before, at = notice.attempts.get(_UNKNOWN, Attempt()), self._book.now
        attempt = before.failed(self._failures[FILE], at, longest=_REREAD)
        after = replace(notice, attempts={**notice.attempts, _UNKNOWN: attempt})
        self._book.keep(after)
        return after

    def _to(self, receiver: Receiver, notices: Sequence[Notice], batch: Batch) -> list[Notice]:
        """Sends one message, and writes down how it went."""
        message = compose(notices, batch.alarms)
        why: str | None
        if receiver.name == LOG:
            try:
                write_log(log_file(self._settings), message, at=self._book.now)
                why = None
            except OSError as error:
                why = f"{error.strerror}: {error.filename}"
        else:
            why = self._tell(receiver, message)
        if why is None:
            self._worked.add(receiver.name)
            self._messages += receiver.name != LOG
        else:
            self._failures[receiver.name] = why
        return [self._note(notice, receiver.name, why) for notice in notices]

    def _note(self, notice: Notice, receiver: str, why: str | None) -> Notice:
        at, before = self._book.now, notice.attempts.get(receiver, Attempt())
        attempt = Attempt(told_at=at, tries=before.tries) if why is None else before.failed(why, at)
        after = replace(notice, attempts={**notice.attempts, receiver: attempt})
        if receiver == LOG and why is None:
            self._book.keep(after)
        else:
            self._book.note(after, "delivered" if why is None else "failed", receiver=receiver, why=why or "")
        return after

    def _settle_if_done(self, notice: Notice, names: Sequence[str]) -> None:
        missing = [name for name in names if notice.attempts.get(name, Attempt()).told_at is None]
        if not missing:
            self._settle(notice, "told" if len(names) > 1 else "nobody")
        elif notice.tier != "critical" and all(self._tried_long(notice, name) for name in missing):
            self._settle(notice, "given_up", why=f"{', '.join(missing)} could not be told")

    def _tried_long(self, notice: Notice, name: str) -> bool:
        """Whether a receiver has failed for so long that it is given up. A silence before that is none."""
        since = notice.attempts.get(name, Attempt()).since
        return since is not None and self._book.now - since > GIVE_UP_AFTER

    def _settle(self, notice: Notice, how: str, *, why: str = "") -> None:
        self._settled += 1
        settled = replace(notice, settled_at=self._book.now, settled_as=how)
        if how in ("told", "nobody"):
            self._book.keep(settled)
        else:
            self._book.note(settled, "given_up" if how == "given_up" else "dropped", why=why)

    def _raise_or_clear(self) -> None:
        """A receiver that can't be reached is an alarm itself, told to the others."""
        for name, why in self._failures.items():
            about = "can't be read" if name == FILE else "does not take its messages"
            self._book.raise_(
                Alert.of(
                    "delivery", f"The receiver of alerts {name} {about}: {why}", subject=name, evidence={"why": why}
                )
            )
        for name in self._worked - set(self._failures):
            self._book.clear("delivery", subject=name)
        if not self._complete:
            return
        there = {LOG, *(each.name for each in self._receivers)}
        for alarm in self._book.alarms():
            # The file can be read; and nobody waits for a receiver that is no longer in it.
            if alarm.key.kind == "delivery" and alarm.key.subject not in there:
                self._book.clear(*alarm.key)


def _untold(notice: Notice, receiver: str, book: AlertBook) -> bool:
    """Whether a receiver is to be tried with a notice now."""
    attempt = notice.attempts.get(receiver)
    if attempt is None:
        return True
    return attempt.told_at is None and (attempt.next_at is None or attempt.next_at <= book.now)
