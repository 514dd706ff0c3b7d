"""What people are told of alarms, and when: notices, silences, and how several notices become one message.

Pure. Who receives a message, and how it gets there, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pilotage.monitoring.alerts.alarm import Alarm, What
from pilotage.monitoring.alerts.alert import Key, Tier

WAIT: Mapping[Tier, timedelta] = {
    "critical": timedelta(0),
    "warning": timedelta(minutes=1),
    "information": timedelta(minutes=5),
}
"""How long a new alarm waits for others of its kind and model, to be told together with them."""
PAUSE: Mapping[Tier, timedelta] = {
    "critical": timedelta(minutes=1),
    "warning": timedelta(minutes=10),
    "information": timedelta(minutes=30),
}
"""Least time between two messages about new alarms of one kind and model."""
FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=3)
"""How long a receiver is tried with a notice that is not critical. A critical one is tried until it arrives."""
_SHOWN = 10
"""Alarms that one message lists; it counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nobody is told of alarms that fit, until a moment. They are recorded all the same."""

    number: int
    kind: str = "*"
    """A name, or a pattern with ``*``; so are the others."""
    model: str = "*"
    subject: str = "*"
    since: datetime
    until: datetime
    who: str
    why: str

    def covers(self, key: Key, at: datetime) -> bool:
        """Whether an alarm is not to be told now."""
        return self.since <= at < self.until and self.fits(key)

    def fits(self, key: Key) -> bool:
        """Whether it is about an alarm, whenever."""
        return (
            fnmatchcase(key.kind, self.kind)
            and fnmatchcase(key.model, self.model)
            and fnmatchcase(key.subject, self.subject)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How it went with one notice and one receiver."""

    told_at: datetime | None = None
    """When it arrived; ``None`` if it did not yet."""
    tries: int = 0
    """Failed ones."""
    next_at: datetime | None = None
    why: str = ""
    since: datetime | None = None
    """When it failed first; ``None`` if it did not."""

    def failed(self, why: str, at: datetime, *, longest: timedelta = LONGEST_RETRY) -> Attempt:
        """After another failure: the next try is later each time."""
        pause = min(FIRST_RETRY * 2 ** min(self.tries, 20), longest)
        return Attempt(tries=self.tries + 1, next_at=at + pause, why=why, since=self.since or at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to be told about one alarm; kept until everybody whom it concerns has it."""

    number: int
    alarm: int
    episode: int
    what: What
    tier: Tier
    level: int
    """Escalations so far: 1 for the first."""
    kind: str
    model: str
    subject: str
    made_at: datetime
    due_at: datetime
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    """Receiver → how it went."""
    settled_at: datetime | None = None
    settled_as: str = ""
    """``told``, ``given_up``, ``silenced`` or ``nobody`` (nobody receives such notices but the log)."""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.model, self.subject)

    @property
    def group(self) -> Group:
        return Group(self.what, self.tier, self.kind, self.model)

    def started(self) -> bool:
        """Whether somebody has it already."""
        return any(attempt.told_at is not None for attempt in self.attempts.values())

    def waits_for(self) -> datetime:
        """When the next receiver is to be tried."""
        later = [each.next_at for each in self.attempts.values() if each.told_at is None and each.next_at is not None]
        return max(self.due_at, min(later)) if later else self.due_at


class Group(NamedTuple):
    """What becomes one message."""

    what: What
    tier: Tier
    kind: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a receiver gets."""

    tier: Tier
    title: str
    body: str
    data: Sequence[Mapping[str, Any]]
    """The same for programs: one object an alarm."""


def ready(
    waiting: Iterable[Notice], *, last_told: Mapping[Group, datetime], silences: Sequence[Silence], at: datetime
) -> dict[Group, list[Notice]]:
    """The notices that are to be told now, as the messages that they become.

    Once one of a group is due, the others of its group come along.

    Args:
        waiting: Notices that are not settled.
        last_told: Group → when a message of it was sent last.
        silences: All that are in force.
        at: Now.
    """
    groups: dict[Group, list[Notice]] = {}
    for notice in sorted(waiting, key=lambda each: each.number):
        if not any(silence.covers(notice.key, at) for silence in silences):
            groups.setdefault(notice.group, []).append(notice)
    return {group: notices for group, notices in groups.items() if _due(group, notices, last_told.get(group), at)}


def moot(notice: Notice, alarm: Alarm, silences: Iterable[Silence], *, episode: Iterable[Notice] = ()) -> bool:
    """Whether nobody need be told any more: it came and went while it was silenced.

    Critical ones are always told, and so is the end of what somebody was told of.

    Args:
        notice: The notice.
        alarm: What it is about, as it is now.
        silences: All that there were.
        episode: All notices of its episode; of use where it says that the alarm is over.
    """
    if notice.tier == "critical" or notice.started():
        return False
    if notice.what == "cleared" and any(each.what == "opened" and each.started() for each in episode):
        return False
    over = not alarm.open or alarm.episode != notice.episode
    return (
        over and alarm.alert.rule.ends == "clears" and any(each.covers(notice.key, notice.made_at) for each in silences)
    )


def _due(group: Group, notices: Sequence[Notice], last: datetime | None, at: datetime) -> bool:
    fresh = [notice for notice in notices if not notice.attempts]
    # A retry is about its receiver, and waits for nobody.
    if any(notice.waits_for() <= at for notice in notices if notice.attempts):
        return True
    # What is of later than now is from before the clock was set back; nobody waits until it is there again.
    if group.what == "opened" and last is not None and timedelta(0) <= at - last < PAUSE[group.tier]:
        return False
    return any(notice.due_at <= at or notice.made_at > at for notice in fresh)


_HEADS: Mapping[What, str] = {
    "opened": "{tier}",
    "worsened": "now {tier}",
    "escalated": "still {tier}, nobody has acknowledged",
    "cleared": "over",
}


def compose(notices: Sequence[Notice], alarms: Mapping[int, Alarm]) -> Message:
    """One message about some notices of one group.

    Args:
        notices: One or more.
        alarms: Number → the alarm as it is now.
    """
    group = notices[0].group
    about = [alarms[notice.alarm] for notice in notices]
    shown = " ".join(part for part in (group.kind.replace("_", " "), f"({group.model})" if group.model else "") if part)
    many = f"{len(notices)} × " if len(notices) > 1 else ""
    title = f"[{_HEADS[group.what].format(tier=group.tier).upper()}] {many}{shown}"
    if len(notices) == 1 and about[0].alert.subject:
        title += f": {about[0].alert.subject}"
    parts = [_words(notice, alarm) for notice, alarm in zip(notices, about, strict=True)][:_SHOWN]
    if len(notices) > _SHOWN:
        parts.append(f"… and {len(notices) - _SHOWN} more: pilotage alerts list")
    return Message(
        tier="information" if group.what == "cleared" else group.tier,
        title=title,
        body="\n\n".join(parts),
        data=[_data(notice, alarm) for notice, alarm in zip(notices, about, strict=True)],
    )


def _words(notice: Notice, alarm: Alarm) -> str:
    alert = alarm.alert
    lines = [alert.summary]
    lines += [f"  {name}: {_brief(value)}" for name, value in list(alert.evidence.items())[:12]]
    if notice.what == "cleared":
        lines.append(f"Over since {_time(alarm.ended_at or notice.made_at)}: {alarm.ended_why or 'it opened again'}")
    else:
        since = f"Since {_time(alarm.opened_at)}"
        since += f", raised {alarm.count} times." if alarm.count > 1 else "."
        lines.append(since)
        if not alarm.open and alarm.alert.rule.ends == "clears":
            lines.append(f"It is over by now, since {_time(alarm.ended_at or notice.made_at)}.")
        lines.append(f"What to do: {alert.runbook}")
    if alert.run_url:
        lines.append(f"Run: {alert.run_url}")
    if alarm.open and alarm.acknowledged is None:
        lines.append(f"Take it on: pilotage alerts ack {alarm.number} --why …")
    elif alarm.acknowledged is not None and alarm.open:
        lines.append(f"{alarm.acknowledged.who} looks after it: {alarm.acknowledged.why}")
    return "\n".join(lines)


def _data(notice: Notice, alarm: Alarm) -> dict[str, Any]:
    alert = alarm.alert
    return {
        "alarm": alarm.number,
        "what": notice.what,
        "tier": notice.tier,
        "kind": alert.kind,
        "model": alert.model,
        "subject": alert.subject,
        "summary": alert.summary,
        "evidence": dict(alert.evidence),
        "count": alarm.count,
        "since": alarm.opened_at.isoformat(),
        "runbook": alert.runbook,
        "run_url": alert.run_url,
    }


def _brief(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:198]} …"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
