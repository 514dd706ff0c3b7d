"""What the ledger's events amount to for a model's retraining, and what may happen: pure, and the only way to know.

The events, with their payload. None is about a version; ``registered`` and ``refused`` of ``transitions.py`` finish an
attempt if they carry its fence, so that a version and the end of its request are one event.

- ``retrain_requested``: cause, evidence. Opens a request or joins the open one.
- ``attempt_started``: request, number, run, lease_s; its own sequence number is the fence.
- ``attempt_renewed``: attempt (the fence), lease_s.
- ``attempt_finished``: attempt, result (``blocked`` or ``unchanged``), tried.
- ``attempt_failed``: attempt, failure; or request, number, run, failure for one whose run died before it began.
- ``retrain_gave_up``: request, tried.
- ``retrain_withdrawn``: request. An attempt that runs loses its lease.
- ``person_called``: about, evidence. Changes nothing else.

Of two attempts that think they run, one has an older fence: whatever it wants to commit is refused here, and every
commit is appended only if nothing came after the state that it was checked against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from pilotage.errors import LedgerConflict, NotReleasable, ReleaseError
from pilotage.release.events import Draft, Event, RetrainingKind
from pilotage.release.retraining.records import (
    CAUSES,
    Ask,
    Attempt,
    Call,
    Outcome,
    Request,
    Result,
    RetrainingState,
    lease_of,
)

RETRAINING_KINDS = get_args(RetrainingKind)
FENCE = "attempt"
"""Field of a payload that holds an attempt's fence."""
_FINISHES = ("registered", "refused", "attempt_finished")
_OF_A_RUNNING_ATTEMPT = (*_FINISHES, "attempt_renewed")


def concerns(event: Draft | Event) -> bool:
    """Whether an event says something about retraining."""
    return event.kind in RETRAINING_KINDS or (event.kind in _FINISHES and FENCE in event.payload)


def objection(model: str, state: RetrainingState, event: Draft | Event) -> ReleaseError | None:
    """Why an event may not happen now; ``None`` if it may."""
    if not concerns(event):
        return None
    facts, kind = event.payload, event.kind
    if kind in RETRAINING_KINDS and event.version is not None:
        return _no(model, f"{kind} is about a model, not about a version")
    if kind in _OF_A_RUNNING_ATTEMPT or (kind == "attempt_failed" and FENCE in facts):
        return _stale(model, state, facts[FENCE])
    match kind:
        case "retrain_requested":
            known = facts["cause"] in CAUSES
            return None if known else _no(model, f"{facts['cause']!r} is none of its causes: {', '.join(CAUSES)}")
        case "attempt_started" | "attempt_failed":
            return _next_attempt(model, state, facts)
        case "person_called":
            return None if facts["about"] else _no(model, "a person is called about something")
        case "retrain_withdrawn":
            is_open = state.open is not None and state.open.number == facts["request"]
            return None if is_open else _no(model, f"request {facts['request']} is not open")
        case _:
            return _gives_up(model, state, facts)


def _stale(model: str, state: RetrainingState, fence: object) -> LedgerConflict | None:
    running = state.running
    if running is not None and running.fence == fence:
        return None
    holder = f"attempt {running.number} (run {running.run[:8]}) does" if running else "no attempt runs"
    after = "and the request is carried out by another attempt"
    for request in state.requests():
        if request.outcome == "withdrawn" and any(attempt.fence == fence for attempt in request.attempts):
            after = f"since request {request.number} was withdrawn"
    return LedgerConflict(
        f"The attempt that began with event {fence} no longer holds the lease of {model}'s retraining: {holder}.",
        fix=f"Let it go: what it made is not recorded, {after}.",
        model=model,
        fence=fence,
    )


def _next_attempt(model: str, state: RetrainingState, facts: Mapping[str, Any]) -> ReleaseError | None:
    request = state.open
    if request is None or request.number != facts["request"]:
        return _no(model, f"request {facts['request']} is not open")
    if request.running is not None:
        return _no(model, f"attempt {request.running.number} of request {request.number} runs (one at a time)")
    if facts["number"] != len(request.attempts) + 1:
        return _no(model, f"the next attempt of request {request.number} is {len(request.attempts) + 1}")
    return None if facts["run"] else _no(model, "an attempt has a run")


def _gives_up(model: str, state: RetrainingState, facts: Mapping[str, Any]) -> ReleaseError | None:
    request = state.open
    if request is None or request.number != facts["request"]:
        return _no(model, f"request {facts['request']} is not open")
    if request.running is not None:
        return _no(model, f"attempt {request.running.number} of request {request.number} runs")
    return None if request.attempts else _no(model, f"nothing was tried for request {request.number}")


def _no(model: str, reason: str) -> NotReleasable:
    return NotReleasable(
        f"That can't be done to the retraining of {model}: {reason}.",
        fix=f"pilotage status {model} shows where it stands.",
        model=model,
    )


def apply(state: RetrainingState, event: Event) -> RetrainingState:
    """What is known after an event that may happen.

    Raises:
        KeyError, TypeError, ValueError: Its payload is not what its kind has.
    """
    if not concerns(event):
        return state
    if event.kind == "retrain_requested":
        return _asked(state, event)
    if event.kind == "person_called":
        return replace(state, calls=(*state.calls, _call(event)))
    request = state.open
    if request is None:
        raise ValueError("no request is open")
    match event.kind:
        case "attempt_started":
            return replace(state, open=replace(request, attempts=(*request.attempts, _attempt(event))))
        case "attempt_renewed":
            until = event.at + lease_of(event.payload)
            return replace(state, open=_with_last(request, lease_until=until))
        case "attempt_failed":
            return _failed(state, request, event)
        case "retrain_gave_up":
            return _closed(state, request, event, "gave_up")
        case "retrain_withdrawn":
            if request.running is not None:
                request = _with_last(request, ended=event.at, failure=f"withdrawn by {event.actor}")
            return _closed(state, request, event, "withdrawn")
    return _finished(state, request, event)


def _asked(state: RetrainingState, event: Event) -> RetrainingState:
    ask = Ask(
        cause=event.payload["cause"],
        why=event.cause,
        actor=event.actor,
        at=event.at,
        sequence=event.sequence,
        evidence=event.payload["evidence"],
    )
    if state.running is not None:
        return replace(state, queued=(*state.queued, ask))
    if state.open is not None:
        return replace(state, open=replace(state.open, asks=(*state.open.asks, ask)))
    return replace(state, open=Request(number=event.sequence, asks=(ask,), opened=event.at))


def _attempt(event: Event, *, failure: str | None = None) -> Attempt:
    facts = event.payload
    return Attempt(
        number=facts["number"],
        run=facts["run"],
        began=event.at,
        fence=event.sequence,
        lease_until=event.at if failure else event.at + lease_of(facts),
        ended=event.at if failure else None,
        failure=failure,
    )


def _failed(state: RetrainingState, request: Request, event: Event) -> RetrainingState:
    failure = event.payload["failure"]
    if FENCE in event.payload:
        request = _with_last(request, ended=event.at, failure=failure)
    else:
        request = replace(request, attempts=(*request.attempts, _attempt(event, failure=failure)))
    # The next attempt begins after they asked, so it answers them too.
    return replace(state, open=replace(request, asks=(*request.asks, *state.queued)), queued=())


def _finished(state: RetrainingState, request: Request, event: Event) -> RetrainingState:
    result: Result = event.payload["result"] if event.kind == "attempt_finished" else event.kind  # type: ignore[assignment]
    if result not in get_args(Result):
        raise ValueError(f"{result!r} is no result")
    return _closed(state, _with_last(request, ended=event.at), event, result)


def _closed(state: RetrainingState, request: Request, event: Event, outcome: Outcome) -> RetrainingState:
    why = " ".join(event.payload["reasons"]) if outcome == "refused" else event.cause
    done = replace(
        request,
        outcome=outcome,
        ended=event.at,
        version=event.version,
        why=why,
        tried=tuple(event.payload.get("tried", ())),
    )
    after = None
    if state.queued:
        first = state.queued[0]
        after = Request(number=first.sequence, asks=state.queued, opened=first.at)
    calls = () if outcome == "registered" else state.calls
    return RetrainingState(open=after, closed=(*state.closed, done), calls=calls)


def _call(event: Event) -> Call:
    return Call(
        about=event.payload["about"],
        why=event.cause,
        at=event.at,
        sequence=event.sequence,
        evidence=event.payload["evidence"],
    )


def _with_last(request: Request, **changes: Any) -> Request:
    return replace(request, attempts=(*request.attempts[:-1], replace(request.attempts[-1], **changes)))
