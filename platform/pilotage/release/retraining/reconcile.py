"""What became of runs, held against what the ledger says of attempts. Pure rules, and what carries them out.

Whoever knows runs tells how each stands; Dagster is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pilotage.policy import Retraining
from pilotage.release.ledger import Ledger
from pilotage.release.retraining import attempts
from pilotage.release.retraining.book import state_of
from pilotage.release.retraining.due import due
from pilotage.release.retraining.records import RetrainingState

Stand = Literal["alive", "finished", "failed", "cancelled", "gone"]
"""How a run stands; ``gone``: nobody knows of it."""

GRACE = timedelta(seconds=30)
"""After a lease ran out before it is called dead: clocks of two machines differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A run that was asked for a request's attempt."""

    run: str
    stand: Stand
    since: datetime | None = None
    """When it started to work; ``None`` before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that the ledger has to be told."""

    kind: Literal["attempt_lost", "run_lost", "used_up"]
    """An attempt whose run is over without it; a run that died before its attempt began; no attempt left."""
    why: str
    run: str = ""
    fence: int = 0
    number: int = 0
    """Of the attempt that never began."""


def _silent(_: str) -> str:
    return ""


def trouble(
    policy: Retraining,
    state: RetrainingState,
    *,
    stand_of: Callable[[str], Stand],
    launched: Callable[[int, int], Sequence[Launched]],
    now: datetime,
    said: Callable[[str], str] = _silent,
) -> Trouble | None:
    """What is wrong with the open request; ``None`` if nothing is.

    Args:
        policy: The spec's limits.
        state: By the ledger, read *before* the runs are asked: what finishes in between is seen as running, and by the
            next look as finished.
        stand_of: How a run stands.
        launched: Runs that were asked for an attempt (request, number), newest first.
        now: UTC.
        said: What a run itself said of why it failed.
    """
    request = state.open
    if request is None:
        return None
    if (running := request.running) is not None:
        stand = stand_of(running.run)
        if stand != "alive":
            why = f"Run {running.run[:8]} is {stand}, and its attempt did not finish. {said(running.run)}".rstrip()
        elif now > running.lease_until + GRACE:
            silent = (now - running.lease_until).total_seconds()
            why = f"Run {running.run[:8]} has been silent: its lease ended {silent:.0f} s ago."
        else:
            return None
        return Trouble(kind="attempt_lost", why=why, run=running.run, fence=running.fence)
    number = len(request.attempts) + 1
    asked = launched(request.number, number)
    if asked and (asked[0].stand != "alive" or _stuck(asked[0], policy, now)):
        told = asked[0].stand if asked[0].stand != "alive" else "silent"
        why = f"Run {asked[0].run[:8]} is {told}, and its attempt never began. {said(asked[0].run)}".rstrip()
        return Trouble(kind="run_lost", why=why, run=asked[0].run, number=number)
    if not asked and (wanted := due(policy, state, now)).do == "give_up":
        return Trouble(kind="used_up", why=wanted.why)
    return None


def _stuck(launched: Launched, policy: Retraining, now: datetime) -> bool:
    """Whether it has worked for longer than a lease lasts and begun nothing: its process may be gone, and Dagster does
    not know."""
    return launched.since is not None and now > launched.since + policy.lease + GRACE


def put_right(
    model: str,
    policy: Retraining,
    *,
    book: Ledger,
    stand_of: Callable[[str], Stand],
    launched: Callable[[int, int], Sequence[Launched]],
    now: datetime,
    said: Callable[[str], str] = _silent,
) -> list[Trouble]:
    """Tells the ledger everything that is wrong with a model's open request. What it did, in order.

    Args:
        model: The model.
        policy: The spec's limits.
        book: The ledger.
        stand_of: As in ``trouble``.
        launched: As in ``trouble``.
        now: UTC.
        said: As in ``trouble``.
    """
    done: list[Trouble] = []
    while True:
        state = state_of(model, book).retraining
        found = trouble(policy, state, stand_of=stand_of, launched=launched, now=now, said=said)
        if found is None or state.open is None or found in done:
            return done
        match found.kind:
            case "attempt_lost":
                attempts.fail(model, found.fence, why=found.why, book=book)
            case "run_lost":
                number = state.open.number
                attempts.fail_unbegun(model, number, found.number, run=found.run, why=found.why, book=book)
            case "used_up":
                attempts.give_up(model, policy=policy, book=book, now=now)
        done.append(found)
