"""The life of an attempt: begun by its run, renewed while it lives, finished by what it records, failed by whoever
finds it dead. Each step is one event, appended only to the state that it was checked against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pilotage.errors import LedgerConflict, NotReleasable
from pilotage.policy import Retraining
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger
from pilotage.release.legality import objection
from pilotage.release.retraining.book import append_when, state_of
from pilotage.release.retraining.due import due
from pilotage.release.retraining.records import Attempt, Request, Result
from pilotage.release.retraining.state import FENCE
from pilotage.release.stages import ModelState

ACTOR = "retraining"
"""Who decides here, for the record."""


def begin(
    model: str, request: int, *, run: str, policy: Retraining, book: Ledger, now: datetime | None = None
) -> tuple[Request, Attempt]:
    """Begins the next attempt of a request. A run that began one already goes on with it.

    Args:
        model: The model.
        request: Its number.
        run: Dagster run.
        policy: The spec's limits.
        book: The ledger.
        now: UTC; the time by default.

    Raises:
        LedgerConflict: Another attempt runs, or this run's is over.
        NotReleasable: The request is not open, or not due.
    """

    def make(state: ModelState) -> Draft | None:
        known = state.retraining.open
        if known is None or known.number != request:
            raise _over(model, request, state)
        if (running := known.running) is not None:
            if running.run == run:
                return None
            raise LedgerConflict(
                f"Attempt {running.number} of request {request} of {model} runs already (run {running.run[:8]}).",
                fix="Wait for it.",
                model=model,
                run=running.run,
            )
        if any(attempt.run == run for attempt in known.attempts):
            raise LedgerConflict(
                f"The attempt of run {run[:8]} at request {request} of {model} is over.",
                fix="Another run tries again.",
                model=model,
                run=run,
            )
        wanted = due(policy, state.retraining, now or datetime.now(UTC))
        if wanted.do != "begin":
            raise NotReleasable(
                f"Request {request} of {model} may not begin now: {wanted.why}", fix="Wait for it.", model=model
            )
        payload = {
            "request": request,
            "number": len(known.attempts) + 1,
            "run": run,
            "lease_s": policy.lease.total_seconds(),
        }
        return _draft(model, "attempt_started", wanted.why, payload)

    state, _ = append_when(book, model, make)
    held = state.retraining.open
    if held is None or held.running is None:
        raise LedgerConflict(f"Request {request} of {model} was lost.", fix="pilotage audit verify", model=model)
    return held, held.running


def renew(model: str, fence: int, *, lease: timedelta, book: Ledger) -> None:
    """Puts an attempt's lease off.

    Raises:
        LedgerConflict: It no longer holds it.
    """
    draft = _draft(model, "attempt_renewed", "It lives.", {FENCE: fence, "lease_s": lease.total_seconds()})
    append_when(book, model, lambda _: draft)


def check(model: str, fence: int, *, book: Ledger) -> None:
    """Refuses to go on with an attempt that no longer holds the lease.

    Raises:
        LedgerConflict: Another one does, or none.
    """
    wrong = objection(state_of(model, book), _draft(model, "attempt_renewed", "?", {FENCE: fence}))
    if wrong is not None:
        raise wrong


def finish(
    model: str,
    fence: int,
    result: Result,
    *,
    why: str,
    book: Ledger,
    tried: Sequence[Mapping[str, Any]] = (),
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Finishes an attempt that ends without a candidate. (One with a candidate is finished by its registration.)

    Raises:
        LedgerConflict: It no longer holds the lease.
    """
    payload = {FENCE: fence, "result": result, "tried": list(tried), "evidence": dict(evidence or {})}
    draft = _draft(model, "attempt_finished", why, payload)

    def make(state: ModelState) -> Draft | None:
        done = state.retraining.last
        # Recorded just before, by this very attempt: a step may be carried out twice.
        return None if done and done.attempts and done.attempts[-1].fence == fence else draft

    append_when(book, model, make)


def fail(model: str, fence: int, *, why: str, book: Ledger) -> bool:
    """Says that an attempt came to nothing. Whether it did: one that is over by now is left alone."""
    draft = _draft(model, "attempt_failed", why, {FENCE: fence, "failure": why})

    def make(state: ModelState) -> Draft | None:
        running = state.retraining.running
        return draft if running is not None and running.fence == fence else None

    return append_when(book, model, make)[1] is not None


def fail_unbegun(model: str, request: int, number: int, *, run: str, why: str, book: Ledger) -> bool:
    """Says that a run died before its attempt began. Whether it did: what began meanwhile is left alone."""
    payload = {"request": request, "number": number, "run": run, "failure": why}
    draft = _draft(model, "attempt_failed", why, payload)

    def make(state: ModelState) -> Draft | None:
        known = state.retraining.open
        fits = known is not None and known.number == request and known.running is None
        return draft if fits and known is not None and len(known.attempts) + 1 == number else None

    return append_when(book, model, make)[1] is not None


def give_up(model: str, *, policy: Retraining, book: Ledger, now: datetime | None = None) -> Request | None:
    """Closes a request whose attempts are used up; a person is needed. The request, or ``None`` if it is not so."""

    def make(state: ModelState) -> Draft | None:
        request = state.retraining.open
        if request is None:
            return None
        wanted = due(policy, state.retraining, now or datetime.now(UTC))
        if wanted.do != "give_up":
            return None
        tried = [
            {"attempt": each.number, "run": each.run, "began": each.began.isoformat(), "failure": each.failure}
            for each in request.attempts
        ]
        return _draft(model, "retrain_gave_up", wanted.why, {"request": request.number, "tried": tried})

    state, event = append_when(book, model, make)
    return state.retraining.last if event is not None else None


def _over(model: str, request: int, state: ModelState) -> NotReleasable:
    known = state.retraining.find(request)
    told = "is not known" if known is None else f"is over: {known.outcome}"
    return NotReleasable(
        f"Request {request} of {model} {told}.",
        fix=f"Ask again: pilotage retrain {model} --why …",
        model=model,
        request=request,
    )


def _draft(model: str, kind: Any, why: str, payload: Mapping[str, Any]) -> Draft:
    return Draft(model=model, kind=kind, actor=ACTOR, cause=why, payload=payload)
