"""What becomes of an alert over time: opened, found again, worse, clear for long enough, acknowledged, escalated.

A pure state machine: a step takes an alarm, what happened and when, and gives the alarm after it, the word for it, and
what is to be told. Nothing here knows a clock, a database or a receiver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts.alert import TIERS, Alert, Key, Tier, worse

Status = Literal["open", "ended"]
Happened = Literal[
    "opened", "repeated", "worsened", "escalated", "acknowledged", "cleared", "closed", "told", "delivered", "failed",
    "given_up", "silenced", "unsilenced", "dropped",
]  # fmt: skip
"""The words of the history. From ``delivered`` on they are about notices and silences, not about the alarm."""
What = Literal["opened", "worsened", "escalated", "cleared"]
"""What receivers are told."""

ESCALATE_AFTER: Mapping[Tier, timedelta | None] = {
    "critical": timedelta(minutes=30),
    "warning": timedelta(hours=24),
    "information": None,
}
"""How long an alarm waits for somebody to acknowledge it, before others are told; each later pause is twice as long."""
LONGEST_PAUSE = timedelta(hours=24)
"""Between two escalations."""
_REMEMBERED = 50
"""Occurrences of which a repetition is noticed. A sensor that is killed tells again only what it told last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgment:
    """Somebody's word that they look after it."""

    who: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """The state of one alarm: of everything that was ever raised with its key."""

    number: int
    """For people to name it by."""
    alert: Alert
    """As it was raised last, in the worst tier since it opened."""
    status: Status
    episode: int = 1
    """How often it has opened."""
    count: int = 1
    """How often it was raised since it opened."""
    opened_at: datetime
    raised_at: datetime
    """When it was raised last."""
    clears: int = 0
    """Checks in a row that did not find it."""
    clear_since: datetime | None = None
    ended_at: datetime | None = None
    ended_why: str = ""
    acknowledged: Acknowledgment | None = None
    level: int = 0
    """How often it has escalated since it opened, or got worse."""
    waits_since: datetime
    """Since when nobody has acknowledged it; the time of a silence does not count."""
    occurrences: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.alert.key

    @property
    def tier(self) -> Tier:
        return self.alert.tier

    @property
    def open(self) -> bool:
        return self.status == "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What something that happened came to."""

    alarm: Alarm
    happened: Happened | None = None
    """The word for the history; ``None`` if it is not worth one."""
    tell: What | None = None


def raised(before: Alarm | None, alert: Alert, *, at: datetime, number: int = 0) -> Step:
    """Somebody found something.

    Args:
        before: The alarm with this key, if there ever was one.
        alert: What was found.
        at: When.
        number: Of a new alarm.
    """
    ends = alert.rule.ends
    seen = (alert.occurrence,) if alert.occurrence else ()
    if before is None:
        status: Status = "ended" if ends == "told" else "open"
        alarm = Alarm(
            number=number, alert=alert, status=status, opened_at=at, raised_at=at, waits_since=at, occurrences=seen
        )
        return Step(alarm=_told(alarm) if ends == "told" else alarm, happened="opened", tell="opened")
    if alert.occurrence and alert.occurrence in before.occurrences:
        return Step(alarm=before)
    occurrences = (*before.occurrences, *seen)[-_REMEMBERED:]
    if not before.open:
        if ends != "clears" and not seen:
            # What happened, happened once: its key names it.
            return Step(alarm=before)
        opened = Alarm(
            number=before.number,
            alert=alert,
            status="open",
            episode=before.episode + 1,
            opened_at=at,
            raised_at=at,
            waits_since=at,
            occurrences=occurrences,
        )
        return Step(alarm=_told(opened) if ends == "told" else opened, happened="opened", tell="opened")
    got_worse = TIERS.index(alert.tier) < TIERS.index(before.tier)
    alarm = replace(
        before,
        alert=replace(alert, tier=worse(alert.tier, before.tier)),
        count=before.count + 1,
        raised_at=at,
        clears=0,
        clear_since=None,
        occurrences=occurrences,
    )
    if got_worse:
        # Whoever acknowledged a warning has not seen what it has become.
        alarm = replace(alarm, acknowledged=None, level=0, waits_since=at)
        return Step(alarm=alarm, happened="worsened", tell="worsened")
    # A year of an alarm that is found each minute is twenty rows of history, not half a million.
    return Step(alarm=alarm, happened="repeated" if alarm.count & (alarm.count - 1) == 0 else None)


def checked_clear(before: Alarm, *, at: datetime) -> Step:
    """A check did not find it. Only conditions end so, and only when they stay away."""
    if not before.open or before.alert.rule.ends != "clears":
        return Step(alarm=before)
    return _cleared(replace(before, clears=before.clears + 1, clear_since=before.clear_since or at), at)


def passed(
    before: Alarm,
    *,
    at: datetime,
    silenced: bool = False,
    escalate_after: Mapping[Tier, timedelta | None] = ESCALATE_AFTER,
) -> Step:
    """Time has passed: it may have been clear for long enough, or waited for somebody for too long."""
    if not before.open:
        return Step(alarm=before)
    step = _cleared(before, at)
    if step.happened is not None:
        return step
    if silenced:
        return Step(alarm=replace(before, waits_since=at))
    after = escalate_after.get(before.tier)
    if after is None or before.acknowledged is not None or before.clears:
        return Step(alarm=before)
    pause = max(after, min(after * 2 ** min(before.level, 20), LONGEST_PAUSE))
    if at - before.waits_since < pause:
        return Step(alarm=before)
    return Step(alarm=replace(before, level=before.level + 1, waits_since=at), happened="escalated", tell="escalated")


def acknowledged(before: Alarm, *, who: str, why: str, at: datetime) -> Step:
    """Somebody looks after it. What happened, and does not go on, is thereby over.

    Raises:
        ConfigError: It is over already, or somebody does already.
    """
    _refuse_ended(before)
    if before.acknowledged is not None:
        raise ConfigError(
            f"Alarm {before.number} is acknowledged already, by {before.acknowledged.who}: {before.acknowledged.why}",
            fix="Talk to them.",
            alarm=before.number,
        )
    alarm = replace(before, acknowledged=Acknowledgment(who=who, why=why, at=at))
    if before.alert.rule.ends == "acknowledged":
        alarm = replace(alarm, status="ended", ended_at=at, ended_why=f"acknowledged by {who}: {why}")
    return Step(alarm=alarm, happened="acknowledged")


def closed(before: Alarm, *, who: str, why: str, at: datetime) -> Step:
    """Somebody ends it by hand, for instance since what found it is no longer there. Found again, it opens again.

    Raises:
        ConfigError: It is over already.
    """
    _refuse_ended(before)
    ended = replace(before, status="ended", ended_at=at, ended_why=f"closed by {who}: {why}")
    return Step(alarm=ended, happened="closed", tell="cleared")


def _cleared(alarm: Alarm, at: datetime) -> Step:
    rule = alarm.alert.rule
    if alarm.clear_since is None or alarm.clears < rule.clear_checks or at - alarm.clear_since < rule.clear_for:
        return Step(alarm=alarm)
    ended = replace(alarm, status="ended", ended_at=at, ended_why=f"not found by {alarm.clears} checks in a row")
    return Step(alarm=ended, happened="cleared", tell="cleared")


def _told(alarm: Alarm) -> Alarm:
    return replace(alarm, status="ended", ended_at=alarm.opened_at, ended_why="it was only to be told")


def _refuse_ended(alarm: Alarm) -> None:
    if not alarm.open:
        raise ConfigError(
            f"Alarm {alarm.number} is over: {alarm.ended_why}.",
            fix="pilotage alerts list shows those that are open.",
            alarm=alarm.number,
        )
