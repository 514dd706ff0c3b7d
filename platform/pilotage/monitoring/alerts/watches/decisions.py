"""What the ledger says was decided, as alerts: so nobody who decides has to remember to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pilotage.monitoring.alerts.alert import Alert
from pilotage.monitoring.alerts.watches.look import Look, Watch

if TYPE_CHECKING:
    from pilotage.release.events import Event
    from pilotage.release.ledger import Ledger

FIRST_LOOK = timedelta(days=1)
"""How far the first look goes back: what was decided before is history."""


@dataclass(slots=True)
class DecisionsWatch:
    """Looks at the ledger's new events."""

    ledger: Ledger
    now: datetime
    seen: int | None
    """Number of the last event that was looked at; ``None`` before the first look. The caller keeps it."""
    ui: str = ""
    """Address of the Dagster UI, where the runs are that decided."""

    def watch(self) -> Watch:
        """This watch."""
        return Watch(name="ledger", kinds=frozenset(), look=self.look)

    def look(self) -> Look:
        """See the module. An event that was told before is not told again: its number names the alarm."""
        events = self._new()
        recent = [event for event in events if self.seen is not None or self.now - event.at <= FIRST_LOOK]
        alerts = alerts_of(recent, ui=self.ui)
        self.seen = events[-1].sequence if events else self.seen or 0
        return Look(alerts=tuple(alerts), words=f"{len(recent)} new events of the ledger, the last is {self.seen}")

    def _new(self) -> list[Event]:
        """The events after the last one that was seen. Where that is gone, the ledger was restored from a backup, and
        gives its numbers again: that is a first look."""
        if not self.seen:
            return self.ledger.events()
        if found := self.ledger.events(after=self.seen - 1):
            return found[1:]
        self.seen = None
        return self.ledger.events()


def alerts_of(events: Iterable[Event], *, ui: str = "") -> list[Alert]:
    """The alerts that events of the ledger are worth, with the runs that decided, as far as these say them.

    Args:
        events: Of the ledger.
        ui: Address of the Dagster UI; empty to link to no run that an event does not give the address of.
    """
    found = []
    for event in events:
        if event.kind in _ALERTS and (alert := _ALERTS[event.kind](event)) is not None:
            run = _run_of(event) if ui and not alert.run_url else ""
            found.append(replace(alert, run_url=f"{ui}/runs/{run}") if run else alert)
    return found


def _run_of(event: Event) -> str:
    """The run that decided, or whose end was the last of several; empty where no run did."""
    tried: Sequence[Mapping[str, Any]] = event.payload.get("tried") or ({},)
    return str((event.payload.get("evidence") or {}).get("run") or tried[-1].get("run") or "")


def _plain(kind: str, words: str) -> Callable[[Event], Alert]:
    def make(event: Event) -> Alert:
        version = "" if event.version is None else f" version {event.version}"
        return _alert(kind, event, f"{event.model}{version} {words} by {event.actor}: {event.cause}")

    return make


def _refused(event: Event) -> Alert:
    reasons = "; ".join(str(reason) for reason in event.payload.get("reasons", ())) or "its gate says no"
    return _alert("refused", event, f"A candidate of {event.model} was refused: {reasons}")


def _registered(event: Event) -> Alert:
    return _alert(
        "retrained", event, f"{event.model} version {event.version} passed its gate and is registered ({event.cause})."
    )


def _taken_back(event: Event) -> Alert:
    """A version that was rolled back or rejected: by a guardrail, or by a person."""
    word = "rolled back" if event.kind == "rolled_back" else "rejected"
    evidence = event.payload.get("evidence") or {}
    hit = [rail for rail in evidence.get("guardrails", ()) if rail.get("breached")]
    if evidence:
        # Whoever decides by evidence is the platform.
        return _alert(
            "guardrail_hit",
            event,
            f"{event.model} version {event.version} was {word} by the platform: {event.cause}",
            guardrails=[str(rail.get("message") or rail.get("metric")) for rail in hit],
        )
    return _alert(
        "rolled_back", event, f"{event.model} version {event.version} was {word} by {event.actor}: {event.cause}"
    )


def _gave_up(event: Event) -> Alert:
    return _alert("needs_a_person", event, f"Retraining of {event.model} was given up: {event.cause}")


def _called(event: Event) -> Alert:
    return _alert(
        "needs_a_person",
        event,
        f"{event.model} needs a person: {event.cause}",
        about=event.payload.get("about"),
        found=event.payload.get("evidence") or {},
    )


def _waits(event: Event) -> Alert | None:
    """A rollout that goes on only if somebody approves, or decides; whatever else it found changes nothing."""
    about = f"{event.model} version {event.version}"
    match event.payload.get("decision"):
        case "request_approval":
            return _alert("waits_for_approval", event, f"{about} waits for approval: {event.cause}")
        case "needs_a_person":
            return _alert("needs_a_person", event, f"The rollout of {about} goes on no more by itself: {event.cause}")
    return None


def _alias_edited(event: Event) -> Alert:
    alias, action = event.payload.get("alias"), event.payload.get("action")
    return _alert(
        "alias_edited", event, f"The alias {alias} of {event.model} was changed by hand in MLflow; it was {action}."
    )


_ALERTS: Mapping[str, Callable[[Event], Alert | None]] = {
    "registered": _registered,
    "refused": _refused,
    "promoted": _plain("promoted", "is in production, promoted"),
    "rolled_back": _taken_back,
    "rejected": _taken_back,
    "killed": _plain("killed", "was killed, and its fallback answers;"),
    "resumed": _plain("resumed", "was resumed"),
    "verdict": _waits,
    "alias_edited": _alias_edited,
    "retrain_gave_up": _gave_up,
    "person_called": _called,
}


def _alert(kind: str, event: Event, summary: str, **evidence: Any) -> Alert:
    return Alert.of(
        kind,
        summary,
        model=event.model,
        subject=f"event {event.sequence}",
        evidence={**evidence, "event": event.sequence, "at": event.at, "by": event.actor, "version": event.version},
        run_url=str(event.payload.get("run_url") or ""),
        # A restored ledger gives numbers again.
        occurrence=f"{event.sequence} {event.hash[:8]}",
    )
