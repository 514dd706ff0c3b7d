"""When the open request of a model may be carried out. Pure: a state, the spec's limits, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pilotage.policy import Retraining
from pilotage.release.retraining.records import Request, RetrainingState

Do = Literal["wait", "begin", "give_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be done about the open request now."""

    do: Do
    why: str
    at: datetime | None = None
    """Of ``wait``: when it may begin, if that can be said."""


def due(policy: Retraining, state: RetrainingState, now: datetime) -> Due:
    """What is to be done about the open request now.

    Args:
        policy: The spec's limits.
        state: By the ledger.
        now: UTC.
    """
    request = state.open
    if request is None:
        last = state.last
        told = f"; the last one ({last.number}) ended as {_words(last)}" if last else ""
        return Due(do="wait", why=f"Nobody asks for a retraining{told}.")
    if (running := request.running) is not None:
        told = f"Attempt {running.number} of request {request.number} runs (run {running.run[:8]})"
        return Due(do="wait", why=f"{told}; its lease ends at {running.lease_until:%H:%M:%S} UTC.", at=None)
    if request.attempts:
        return _again(policy, request, now)
    if (limited := _limited(policy, state, request, now)) is not None:
        return limited
    return Due(do="begin", why=f"Request {request.number} ({', '.join(request.causes)}) is due.")


def _limited(policy: Retraining, state: RetrainingState, request: Request, now: datetime) -> Due | None:
    """The wait of a request that is one too many within ``per``; ``None`` if it is not.

    A request that names the time of its data (a replay's night) is counted among those that do, by that time.
    """
    hours = policy.per.total_seconds() / 3600
    if (as_of := request.as_of) is not None:
        others = [each.as_of for each in state.closed if each.began is not None and each.as_of is not None]
        count = sum(as_of - policy.per < other <= as_of for other in others)
        why = f"{count} requests of the {hours:g} h before {as_of:%Y-%m-%d %H:%M} UTC began, as many as may."
        return Due(do="wait", why=why) if count >= policy.at_most else None
    begun = state.begun_since(now - policy.per)
    if len(begun) < policy.at_most:
        return None
    at = begun[policy.at_most - 1].began
    at = at + policy.per if at else None
    why = f"{len(begun)} requests began within {hours:g} h, as many as may; it waits until {at:%Y-%m-%d %H:%M} UTC."
    return Due(do="wait", why=why, at=at)


def _again(policy: Retraining, request: Request, now: datetime) -> Due:
    failed, last = request.failures, request.attempts[-1]
    if failed >= policy.attempts:
        return Due(do="give_up", why=f"{failed} attempts came to nothing; the last one: {last.failure}")
    at = (last.ended or last.began) + policy.retry_after * 2 ** (failed - 1)
    if now < at:
        return Due(
            do="wait", why=f"Attempt {last.number} came to nothing; the next one begins at {at:%H:%M:%S} UTC.", at=at
        )
    return Due(do="begin", why=f"Attempt {last.number} of request {request.number} came to nothing: {last.failure}")


def _words(request: Request) -> str:
    return f"version {request.version}" if request.version is not None else str(request.outcome).replace("_", " ")
