"""The book of alarms: what was raised, what is open, who looks after it, and what has still to be told to whom.

Raising is idempotent, so that whoever finds something raises it each time it is found. Delivery is ``delivery.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pilotage.errors import ConfigError
from pilotage.monitoring.alerts import alarm as steps
from pilotage.monitoring.alerts.alarm import ESCALATE_AFTER, Alarm, Happened, Step
from pilotage.monitoring.alerts.alert import Alert, Key, Tier
from pilotage.monitoring.alerts.notices import PAUSE, WAIT, Group, Notice, Silence, moot, ready
from pilotage.monitoring.alerts.store import Rows, Transaction

if TYPE_CHECKING:
    from pilotage.settings import Settings

PLATFORM = "platform"
"""Who acts where no person does, for the record."""
LONGEST_SILENCE = timedelta(days=30)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is to be told now."""

    groups: Mapping[Group, Sequence[Notice]]
    alarms: Mapping[int, Alarm]
    """Number → every alarm that they are about."""
    moot: Sequence[Notice] = ()
    """What nobody need be told any more."""
    claimed: datetime | None = None
    """Until when it is this process's alone to tell."""


class AlertBook:
    """The alarms of one installation."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], datetime] = _now,
        escalate_after: Mapping[Tier, timedelta | None] = ESCALATE_AFTER,
    ) -> None:
        """Opens nothing yet.

        Args:
            url: SQLAlchemy URL of its database.
            clock: Gives the time, UTC.
            escalate_after: Tier → how long an alarm waits for somebody; ``None`` for ever.

        Raises:
            ConfigError: The address is none.
        """
        self._rows = Rows(url)
        self._clock = clock
        self._escalate_after = escalate_after

    @classmethod
    def of(cls, settings: Settings, *, clock: Callable[[], datetime] = _now) -> AlertBook:
        """The book of an installation."""
        after = {**ESCALATE_AFTER, "critical": timedelta(minutes=settings.alerts_escalate_minutes)}
        return cls(settings.alerts, clock=clock, escalate_after=after)

    def close(self) -> None:
        """Closes the connections."""
        self._rows.close()

    def __enter__(self) -> AlertBook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def raise_(self, alert: Alert) -> Alarm:
        """Says that something was found, for the first time or again.

        Raises:
            LedgerUnavailable: The database can't be used.
        """
        with self._rows.writing() as rows:
            at = self._clock()
            before = rows.alarm(alert.key)
            number = before.number if before else rows.next_alarm()
            return self._take(rows, before, steps.raised(before, alert, at=at, number=number), at)

    def clear(self, kind: str, model: str | None = None, subject: str = "") -> Alarm | None:
        """Says that a check did not find it. Costs a look where nothing is open.

        Returns:
            The alarm, if there ever was one.
        """
        key = Key(kind, model or "", subject)
        with self._rows.reading() as looking:
            known = looking.alarm(key) if looking else None
        if known is None or not known.open:
            return known
        with self._rows.writing() as rows:
            before, at = rows.alarm(key) or known, self._clock()
            return self._take(rows, before, steps.checked_clear(before, at=at), at)

    def look(self) -> list[Alarm]:
        """Lets time pass: ends what has been clear for long enough, escalates what has waited for too long.

        Returns:
            What is open after it.
        """
        if not self.alarms():
            return []
        with self._rows.writing() as rows:
            at = self._clock()
            silences = rows.silences(at=at)
            after = []
            for before in rows.alarms(open_only=True):
                silenced = any(silence.covers(before.key, at) for silence in silences)
                step = steps.passed(before, at=at, silenced=silenced, escalate_after=self._escalate_after)
                after.append(self._take(rows, before, step, at))
            return [alarm for alarm in after if alarm.open]

    def acknowledge(self, number: int, *, who: str, why: str) -> Alarm:
        """Somebody looks after an alarm, or takes note of what happened.

        Raises:
            ConfigError: There is no such alarm, it is over, or somebody does already; or no name or reason was given.
        """
        return self._by_hand(number, who, why, steps.acknowledged)

    def end(self, number: int, *, who: str, why: str) -> Alarm:
        """Somebody ends an alarm by hand. Found again, it opens again.

        Raises:
            ConfigError: There is no such alarm, or it is over; or no name or reason was given.
        """
        return self._by_hand(number, who, why, steps.closed)

    def silence(
        self, *, until: datetime, who: str, why: str, kind: str = "*", model: str = "*", subject: str = "*"
    ) -> Silence:
        """Nobody is told of alarms that fit, until a moment. Critical ones are told afterwards, even if they are over.

        Args:
            until: UTC; at most ``LONGEST_SILENCE`` from now.
            who: Who wants it.
            why: For what reason.
            kind: Name or pattern with ``*``; so are the others. At least one of them must name something.
            model: Of the alarms.
            subject: Of the alarms.

        Raises:
            ConfigError: It would silence everything, or for too long; or no name or reason was given.
        """
        who, why = _signed(who, why)
        if not {kind, model, subject} - {"*"}:
            raise ConfigError("That would silence everything.", fix="Name a kind, a model or a subject.")
        with self._rows.writing() as rows:
            at = self._clock()
            if not at < until <= at + LONGEST_SILENCE:
                raise ConfigError(
                    f"A silence until {until:%Y-%m-%d %H:%M} UTC is over already, or longer than "
                    f"{LONGEST_SILENCE.days} days.",
                    fix="Give another end.",
                )
            silence = Silence(
                number=rows.next_silence(),
                kind=kind,
                model=model,
                subject=subject,
                since=at,
                until=until,
                who=who,
                why=why,
            )
            rows.put_silence(silence)
            _record_silence(rows, silence, "silenced", at=at, actor=who, why=why)
            return silence

    def unsilence(self, number: int, *, who: str, why: str) -> Silence:
        """Ends a silence.

        Raises:
            ConfigError: There is no such silence, or it is over; or no name or reason was given.
        """
        who, why = _signed(who, why)
        with self._rows.writing() as rows:
            at = self._clock()
            known = next((each for each in rows.silences(at=at) if each.number == number), None)
            if known is None:
                raise ConfigError(f"No silence {number} is in force.", fix="pilotage alerts list shows them.")
            ended = replace(known, until=at)
            rows.put_silence(ended)
            _record_silence(rows, ended, "unsilenced", at=at, actor=who, why=why)
            return ended

    def alarms(self, *, open_only: bool = True) -> list[Alarm]:
        """Alarms, the oldest first."""
        with self._rows.reading() as rows:
            return rows.alarms(open_only=open_only) if rows else []

    def silences(self) -> list[Silence]:
        """Silences that are in force."""
        with self._rows.reading() as rows:
            return rows.silences(at=self._clock()) if rows else []

    def history(self, *, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """What happened, in order. One row per thing: ``sequence``, ``at``, ``alarm``, ``happened``, ``detail`` …"""
        with self._rows.reading() as rows:
            return rows.history(after=after, limit=limit) if rows else []

    def newest(self) -> int:
        """Sequence number of the last thing that happened."""
        with self._rows.reading() as rows:
            return rows.newest() if rows else 0

    def waiting(self) -> list[Notice]:
        """Notices that somebody has still to get."""
        with self._rows.reading() as rows:
            return rows.waiting() if rows else []

    def due(self) -> Batch:
        """What is to be told now."""
        with self._rows.reading() as rows:
            return self._batch(rows) if rows else Batch(groups={}, alarms={})

    def claim(self, lasts: timedelta) -> Batch | None:
        """What is to be told now, for this process alone; ``None`` if another one is at it. ``release`` it.

        Args:
            lasts: After which a process that died counts as gone.
        """
        with self._rows.writing() as rows:
            at = self._clock()
            return replace(self._batch(rows), claimed=at + lasts) if rows.claim(at + lasts, at=at) else None

    def prolong(self, claimed: datetime, lasts: timedelta) -> datetime | None:
        """Until when what was claimed is this process's alone now; ``None`` if another one is at it by now."""
        with self._rows.writing() as rows:
            until = self._clock() + lasts
            return until if rows.prolong(claimed, until) else None

    def release(self, claimed: datetime) -> None:
        """Lets another process deliver."""
        with self._rows.writing() as rows:
            rows.release(claimed)

    def note(self, notice: Notice, happened: Happened, *, receiver: str = "", why: str = "") -> None:
        """Writes down how it went with a notice."""
        with self._rows.writing() as rows:
            rows.put_notice(notice)
            rows.append(
                at=self._clock(),
                alarm=notice.alarm,
                happened=happened,
                kind=notice.kind,
                model=notice.model,
                subject=notice.subject,
                episode=notice.episode,
                tier=notice.tier,
                actor=PLATFORM,
                ended=0,
                detail={"notice": notice.number, "what": notice.what, "receiver": receiver, "why": why},
            )

    def keep(self, notice: Notice) -> None:
        """Writes a notice that changed in a way that the history need not tell."""
        with self._rows.writing() as rows:
            rows.put_notice(notice)

    @property
    def now(self) -> datetime:
        """The book's time."""
        return self._clock()

    def notices_of(self, alarm: int, episode: int) -> list[Notice]:
        """All notices of one episode of an alarm."""
        with self._rows.reading() as rows:
            return rows.notices_of(alarm, episode) if rows else []

    def _batch(self, rows: Transaction) -> Batch:
        at = self._clock()
        last: dict[Group, datetime] = {}
        for notice in rows.settled_since(at - max(PAUSE.values())):
            if notice.settled_at is not None and notice.settled_as in ("told", "nobody"):
                last[notice.group] = max(last.get(notice.group, notice.settled_at), notice.settled_at)
        waiting, silences = rows.waiting(), rows.silences()
        numbers = {notice.alarm for notice in waiting}
        found = {number: alarm for number in numbers if (alarm := rows.numbered(number)) is not None}
        # One whose opening nobody was told of need not be told that it is over.
        over = [
            notice
            for notice in waiting
            if moot(
                notice,
                found[notice.alarm],
                silences,
                episode=rows.notices_of(notice.alarm, notice.episode) if notice.what == "cleared" else (),
            )
        ]
        rest = [notice for notice in waiting if notice not in over]
        return Batch(groups=ready(rest, last_told=last, silences=silences, at=at), alarms=found, moot=over)

    def _by_hand(self, number: int, who: str, why: str, step: Callable[..., Step]) -> Alarm:
        who, why = _signed(who, why)
        with self._rows.writing() as rows:
            at = self._clock()
            before = rows.numbered(number)
            if before is None:
                raise ConfigError(f"There is no alarm {number}.", fix="pilotage alerts list shows them.", alarm=number)
            return self._take(rows, before, step(before, who=who, why=why, at=at), at, actor=who, why=why)

    def _take(
        self, rows: Transaction, before: Alarm | None, step: Step, at: datetime, *, actor: str = PLATFORM, why: str = ""
    ) -> Alarm:
        """Writes what a step came to: the state, the history and what is to be told, all or nothing."""
        alarm = step.alarm
        if alarm != before:
            rows.put_alarm(alarm)
        alert = alarm.alert
        if step.happened is not None:
            rows.append(
                at=at,
                alarm=alarm.number,
                happened=step.happened,
                kind=alert.kind,
                model=alert.model or "",
                subject=alert.subject,
                episode=alarm.episode,
                tier=alarm.tier,
                actor=actor,
                ended=int(not alarm.open),
                detail={
                    "summary": alert.summary,
                    "evidence": alert.evidence,
                    "count": alarm.count,
                    "level": alarm.level,
                    "run_url": alert.run_url,
                    "why": why or alarm.ended_why,
                },
            )
        if step.tell is not None and not (step.tell == "cleared" and alarm.tier == "information"):
            wait = WAIT[alarm.tier] if step.tell == "opened" else timedelta(0)
            rows.put_notice(
                Notice(
                    number=rows.next_notice(),
                    alarm=alarm.number,
                    episode=alarm.episode,
                    what=step.tell,
                    tier=alarm.tier,
                    level=alarm.level,
                    kind=alert.kind,
                    model=alert.model or "",
                    subject=alert.subject,
                    made_at=at,
                    due_at=at + wait,
                )
            )
        return alarm


def _record_silence(
    rows: Transaction, silence: Silence, happened: Happened, *, at: datetime, actor: str, why: str
) -> None:
    rows.append(
        at=at,
        alarm=None,
        happened=happened,
        kind=silence.kind,
        model=silence.model,
        subject=silence.subject,
        episode=0,
        tier="",
        actor=actor,
        ended=0,
        detail={"silence": silence.number, "until": silence.until, "why": why},
    )


def _signed(who: str, why: str) -> tuple[str, str]:
    if not who.strip() or not why.strip():
        raise ConfigError("It needs a name and a reason, for the record.", fix="Say who, and why.")
    return who.strip(), why.strip()
