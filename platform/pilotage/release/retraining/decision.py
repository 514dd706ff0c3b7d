"""Whether to ask for a retraining. Pure: what monitoring found, what was tried before, and the spec's limits.

Drift alone asks only if performance is expected to suffer, and nothing here promotes anything: a retraining makes a
candidate, the gate judges it on rows that neither it nor the champion saw, and the rollout on live traffic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from pilotage.release.retraining.records import Cause, Request
from pilotage.release.stages import ModelState
from pilotage.spec import ModelSpec

Do = Literal["ask", "wait", "blocked", "needs_a_person", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What monitoring found, as far as a retraining goes by it."""

    cause: Cause
    why: str
    """In words, with the numbers."""
    harmful: bool
    """Whether performance suffers, or must be expected to."""
    since: date | None = None
    """First day of what is different; part of the alarm's name."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; ``name`` names the alarm, else its cause does."""

    @property
    def alarm(self) -> str:
        """Names it: the same alarm, found again, is the same name."""
        named = str(self.evidence.get("name") or self.cause)
        return named if self.since is None else f"{named} since {self.since.isoformat()}"

    def payload(self) -> dict[str, Any]:
        """As the evidence of a request."""
        since = {} if self.since is None else {"since": self.since.isoformat()}
        return {**self.evidence, "alarm": self.alarm, "harmful": self.harmful, **since}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a model now."""

    do: Do
    """``blocked``: there is a reason to retrain, and the labels may not be learned from. ``needs_a_person``:
    retraining was tried and did not help."""
    why: str
    signal: Signal | None = None
    """The one that it is about; the worst first: performance, then drift."""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def should_retrain(
    spec: ModelSpec,
    state: ModelState,
    signals: Sequence[Signal],
    *,
    labels: Sequence[Mapping[str, Any]] = (),
    new_labels: int | None = None,
    now: datetime,
) -> Decision:
    """Decides whether to ask for a retraining.

    Args:
        spec: The model.
        state: What was decided and tried so far.
        signals: What monitoring found.
        labels: Defects of the labels, as JSON values, each with its ``why``.
        new_labels: Labelled rows that the last training did not have; ``None`` if nobody counted.
        now: UTC.
    """
    order = {"performance": 0, "drift": 1}
    found = sorted((each for each in signals if each.harmful), key=lambda each: order.get(each.cause, 2))
    if not found:
        harmless = " ".join(each.why for each in signals)
        why = f"Performance is not expected to suffer. {harmless}" if harmless else "No alarm is open."
        return Decision(do="nothing", why=why)
    signal = found[0]
    told = _dated(signal, signals)
    if labels:
        why = f"{signal.why} The labels may not be learned from: {' '.join(str(each['why']) for each in labels)}"
        return Decision(do="blocked", why=why, signal=signal, evidence={**told, "labels": list(labels)})
    retraining = state.retraining
    if retraining.open is not None and signal.alarm in retraining.open.alarms:
        return Decision(do="wait", why=f"Request {retraining.open.number} is open for {signal.alarm}.", signal=signal)
    if (on_its_way := _on_its_way(state)) is not None:
        why = f"Version {on_its_way}, which was trained last, is on its way: its rollout says whether it helps."
        return Decision(do="wait", why=why, signal=signal)
    spent = fruitless(state, signal.alarm)
    if len(spent) >= spec.retraining.tries_to_help:
        tried = [tried_of(each) for each in spent]
        why = f"{signal.why} Retraining did not help: {_told(spent)}. Somebody has to find out why."
        return Decision(do="needs_a_person", why=why, signal=signal, evidence={**told, "tried": tried})
    if spent and (last := spent[0].ended) is not None:
        again = last + spec.retraining.back_off * 2 ** (len(spent) - 1)
        if now < again:
            why = f"A retraining for {signal.alarm} did not help; it is tried again from {again:%Y-%m-%d %H:%M} UTC."
            return Decision(do="wait", why=why, signal=signal)
    least = spec.retraining.min_new_labels
    if new_labels is not None and new_labels < least:
        why = f"{new_labels:,} labelled rows are new since the last training; {least:,} are needed to learn from."
        return Decision(do="wait", why=why, signal=signal)
    return Decision(do="ask", why=signal.why, signal=signal, evidence=told)


def fruitless(state: ModelState, alarm: str | None = None) -> tuple[Request, ...]:
    """The latest requests in a row that did not help, newest first: no version came of them, or it was taken back.

    Those that labels kept from being carried out tried nothing, and do not count.

    Args:
        state: By the ledger.
        alarm: Only those that this alarm asked for, since a version last helped.
    """
    found = []
    for request in reversed(state.retraining.closed):
        version = state.versions.get(request.version) if request.version is not None else None
        if version is not None and version.stage not in ("rejected", "rolled_back"):
            break
        if request.outcome != "blocked" and (alarm is None or alarm in request.alarms):
            found.append(request)
    return tuple(found)


def _dated(signal: Signal, signals: Sequence[Signal]) -> dict[str, Any]:
    """A signal's evidence, with the newest change that any of them dates: what performance suffers from, drift dates,
    also where it could not say that it would do harm."""
    dates = [each.since for each in signals if each.since is not None]
    since = {"since": max(dates).isoformat()} if dates and signal.since is None else {}
    return {**signal.payload(), **since}


def tried_of(request: Request) -> dict[str, Any]:
    """A request in JSON values, for whoever has to take over."""
    return {
        "request": request.number,
        "causes": list(request.causes),
        "ended": request.ended.isoformat() if request.ended else None,
        "outcome": request.outcome,
        "version": request.version,
        "why": request.why,
        "tried": [dict(each) for each in request.tried],
    }


def _on_its_way(state: ModelState) -> int | None:
    last = state.retraining.last
    version = state.versions.get(last.version) if last is not None and last.version is not None else None
    newer = state.champion is None or (version is not None and version.version > state.champion.version)
    waits = version is not None and version.stage in ("candidate", "shadow", "canary")
    return version.version if version is not None and newer and waits else None


def _told(spent: Sequence[Request]) -> str:
    return "; ".join(
        f"request {each.number} ended as {str(each.outcome).replace('_', ' ')} ({each.why})" for each in spent
    )
