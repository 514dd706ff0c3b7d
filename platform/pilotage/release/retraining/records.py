"""What is known of a model's retraining: records. ``state.py`` makes them of the ledger, nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

Cause = Literal["nightly", "drift", "performance", "manual"]
"""What asked: the schedule, an alarm about inputs, one about performance, or a person."""
CAUSES: tuple[Cause, ...] = get_args(Cause)

Result = Literal["registered", "refused", "blocked", "unchanged"]
"""What a finished attempt came to: a version; a candidate that its gate refused; nothing, since the data may not be
learned from; nothing, since the very same model is known already."""
Outcome = Literal["registered", "refused", "blocked", "unchanged", "gave_up", "withdrawn"]
"""What a request came to; ``gave_up``: no attempt finished; ``withdrawn``: somebody took it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One wish for a retraining. Several make one request."""

    cause: Cause
    why: str
    actor: str
    at: datetime
    sequence: int
    """Of its ledger event."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: what the alarm measured. ``alarm`` names it, ``since`` says from when on the world is another."""

    @property
    def alarm(self) -> str:
        """Names what asked, so that the same thing is known again; a cause without a name is one alarm."""
        return str(self.evidence.get("alarm") or self.cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to carry a request out."""

    number: int
    """1, 2, 3 … within its request."""
    run: str
    """Dagster run."""
    began: datetime
    fence: int
    """Sequence number of the event that began it: later attempts have higher ones. What it commits carries it."""
    lease_until: datetime
    """Nobody else begins before; it is put off while the attempt lives."""
    ended: datetime | None = None
    failure: str | None = None
    """Why it came to nothing; ``None`` while it runs, and if it finished."""

    @property
    def running(self) -> bool:
        return self.ended is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What several asks amount to: one retraining, carried out once."""

    number: int
    """Sequence number of the event that opened it; names it for ever."""
    asks: tuple[Ask, ...]
    opened: datetime
    attempts: tuple[Attempt, ...] = ()
    """Oldest first; at most the last one runs."""
    outcome: Outcome | None = None
    """``None`` while it is open."""
    ended: datetime | None = None
    version: int | None = None
    """What was registered."""
    why: str = ""
    """What its end says."""
    tried: tuple[Mapping[str, Any], ...] = ()
    """What it was tried with: one entry a candidate, or what an attempt failed of."""

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Each once, in the order of ``CAUSES``."""
        asked = {ask.cause for ask in self.asks}
        return tuple(cause for cause in CAUSES if cause in asked)

    @property
    def alarms(self) -> frozenset[str]:
        return frozenset(ask.alarm for ask in self.asks)

    @property
    def running(self) -> Attempt | None:
        """The attempt that runs."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].running else None

    @property
    def failures(self) -> int:
        """Attempts that came to nothing."""
        return sum(attempt.failure is not None for attempt in self.attempts)

    @property
    def began(self) -> datetime | None:
        """When its first attempt did; ``None`` before."""
        return self.attempts[0].began if self.attempts else None

    @property
    def as_of(self) -> datetime | None:
        """The time of the data that its newest ask is about, where it names one: that of a replay is long past."""
        told = self.asks[-1].evidence.get("as_of")
        return None if told is None else datetime.fromisoformat(str(told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Somebody has to look: the platform has done what it can."""

    about: str
    """Names what it is about, such as an alarm; it is called for once, until a version helps."""
    why: str
    at: datetime
    sequence: int
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingState:
    """Everything about a model's retraining."""

    open: Request | None = None
    """The one request that is to be carried out."""
    queued: tuple[Ask, ...] = ()
    """Asked for while an attempt ran, which may not have seen why: they make the next request, or join this one if its
    attempt fails."""
    closed: tuple[Request, ...] = ()
    """Oldest first."""
    calls: tuple[Call, ...] = ()
    """For a person, since a request last brought a version; oldest first."""

    @property
    def running(self) -> Attempt | None:
        """The attempt that runs."""
        return self.open.running if self.open else None

    @property
    def last(self) -> Request | None:
        """The request that was closed last."""
        return self.closed[-1] if self.closed else None

    def find(self, number: int) -> Request | None:
        """A request by its number."""
        return next((each for each in self.requests() if each.number == number), None)

    def requests(self) -> Iterator[Request]:
        """All of them, the newest first."""
        if self.open is not None:
            yield self.open
        yield from reversed(self.closed)

    def begun_since(self, moment: datetime) -> tuple[Request, ...]:
        """Requests whose first attempt began after a moment, newest first."""
        return tuple(each for each in self.requests() if each.began is not None and each.began > moment)


def lease_of(payload: Mapping[str, Any]) -> timedelta:
    """The lease that an event gives or puts off."""
    seconds = float(payload["lease_s"])
    if not seconds > 0:
        raise ValueError(f"a lease of {seconds} s")
    return timedelta(seconds=seconds)
