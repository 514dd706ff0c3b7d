"""Asking for a retraining: who wants one, and why. Whether it is wise to ask is ``decision.py``'s to say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from pilotage.errors import ConfigError, NotReleasable
from pilotage.release.decide import signed
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger, opened
from pilotage.release.retraining.book import append_when
from pilotage.release.retraining.records import Ask, Cause, Request
from pilotage.release.stages import ModelState
from pilotage.settings import Settings

_LOG = logging.getLogger(__name__)


def request(
    model: str,
    cause: Cause,
    evidence: Mapping[str, Any],
    *,
    settings: Settings,
    actor: str,
    why: str = "",
    once: str | None = None,
    ledger: Ledger | None = None,
) -> Request | None:
    """Asks for a retraining: opens a request, or joins the one that is open.

    Args:
        model: The model.
        cause: Why, in one word.
        evidence: What the alarm measured, as JSON values; ``alarm`` names it, ``since`` (ISO date) dates the change,
            ``as_of`` (ISO time with its zone) the data.
        settings: Where everything is.
        actor: Who asks.
        why: Why, in words. Default: the cause.
        once: Names the occasion, such as a night or an alarm's event: asked for again under this name, nothing is
            recorded. (A tick or a run may happen twice.)
        ledger: Another ledger than the settings'.

    Returns:
        The request that it is part of, which may be over where it was asked for before; ``None`` if an attempt runs,
        and it waits to be part of the next one.

    Raises:
        ConfigError: Nobody asks, or the evidence dates something with what is no date.
        NotReleasable: The cause is none.
    """
    why = why or f"{cause}: {evidence.get('alarm') or 'no more was said'}"
    signed(actor, why)
    _dated(evidence)
    facts = {**evidence, **({"once": once} if once is not None else {})}
    draft = Draft(
        model=model,
        kind="retrain_requested",
        actor=actor.strip(),
        cause=why.strip(),
        payload={"cause": cause, "evidence": facts},
    )

    def make(state: ModelState) -> Draft | None:
        return None if once is not None and _asked_before(state, cause, once) else draft

    with opened(settings, ledger) as book:
        state, event = append_when(book, model, make)
    if event is None and once is not None:
        return next((each for each in state.retraining.requests() if _among(each.asks, cause, once)), None)
    return None if state.retraining.queued else state.retraining.open


def withdraw(model: str, *, settings: Settings, actor: str, why: str, ledger: Ledger | None = None) -> Request:
    """Takes the open request back. An attempt that runs finds that it lost its lease, and records nothing.

    Raises:
        NotReleasable: No request is open.
    """
    signed(actor, why)

    def make(state: ModelState) -> Draft | None:
        if (open_one := state.retraining.open) is None:
            raise NotReleasable(
                f"No request to retrain {model} is open.", fix=f"pilotage status {model} shows what is.", model=model
            )
        payload = {"request": open_one.number}
        return Draft(model=model, kind="retrain_withdrawn", actor=actor, cause=why, payload=payload)

    with opened(settings, ledger) as book:
        state, _ = append_when(book, model, make)
    return state.retraining.closed[-1]


def call_a_person(
    model: str,
    about: str,
    *,
    settings: Settings,
    actor: str,
    why: str,
    evidence: Mapping[str, Any],
    ledger: Ledger | None = None,
    since: datetime | None = None,
) -> bool:
    """Records that somebody has to look, once until a version helps. Whether it was recorded now.

    Calls from before ``since`` do not count: somebody came.
    """
    draft = Draft(
        model=model,
        kind="person_called",
        actor=actor,
        cause=why,
        payload={"about": about, "evidence": dict(evidence)},
    )

    def make(state: ModelState) -> Draft | None:
        calls = [call for call in state.retraining.calls if since is None or call.at >= since]
        return None if any(call.about == about for call in calls) else draft

    with opened(settings, ledger) as book:
        _, event = append_when(book, model, make)
    if event is not None:
        _LOG.error("%s needs a person: %s", model, why)
    return event is not None


def _dated(evidence: Mapping[str, Any]) -> None:
    """Refuses what whoever reads the open request could not: its sensor would fail at every look."""
    for name, (read, wanted) in _DATES.items():
        if (value := evidence.get(name)) is None:
            continue
        try:
            read(str(value))
        except ValueError:
            raise ConfigError(
                f"{name} in the evidence is {value!r}.", fix=f"Give {wanted}, or leave it out.", field=name
            ) from None


def _zoned(text: str) -> None:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(text)


_DATES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "since": (lambda text: date.fromisoformat(text[:10]), "a date, such as 2013-02-08"),
    "as_of": (_zoned, "a time with its zone, such as 2013-02-08T04:00:00+00:00"),
}
"""Field of the evidence → what reads it, and what it is to be."""


def _asked_before(state: ModelState, cause: Cause, once: str) -> bool:
    known = state.retraining
    return _among(known.queued, cause, once) or any(_among(each.asks, cause, once) for each in known.requests())


def _among(asks: Iterable[Ask], cause: Cause, once: str) -> bool:
    return any(ask.cause == cause and ask.evidence.get("once") == once for ask in asks)
