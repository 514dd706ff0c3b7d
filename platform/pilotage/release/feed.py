"""The ledger → what a serving process should do: each model's state, reduced to a ``Plan``. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from pilotage.errors import ReleaseError
from pilotage.release.events import Event
from pilotage.release.ledger import Ledger, read_on
from pilotage.release.stages import ModelState, Release, Version
from pilotage.release.state import fold
from pilotage.runtime.plan import Assignment, Plan, Role

_LOG = logging.getLogger(__name__)


def plan_of(state: ModelState) -> Plan:
    """What to serve for a model in some state.

    A killed model has no assignments at all: whoever overlooks ``killed`` still gets no answer from a version. Whether
    a bundle verifies is found out by who loads it.
    """
    if state.killed is not None:
        return Plan(model=state.model, sequence=state.sequence, killed=state.killed.why)
    champion, challenger = state.champion, state.challenger
    before = next(state.earlier_champions(), None)
    canary = None
    if challenger is not None:
        canary = replace(
            _assignment(state.versions[challenger.version], "canary", challenger.sequence, challenger.since),
            share=challenger.share,
            salt=challenger.salt,
            segment=challenger.segment,
        )
    return Plan(
        model=state.model,
        sequence=state.sequence,
        champion=_assignment(champion, "champion", champion.sequence, champion.promoted_at) if champion else None,
        # It became the previous one when the champion became champion.
        previous=_assignment(before, "previous_champion", champion.sequence, champion.promoted_at)
        if before and champion
        else None,
        canary=canary,
        shadows=tuple(_assignment(each, "shadow", each.sequence, each.since) for each in _unheard(state)),
        taken_back=tuple(sorted(each.version for each in state.versions.values() if each.stage == "rolled_back")),
    )


def _unheard(state: ModelState) -> Iterator[Version]:
    """What predicts and is not heard: versions on their way, and the champion before, while it is compared."""
    yield from state.shadows
    if state.watch is not None and state.versions[state.watch.version].stage == "retired":
        yield replace(state.versions[state.watch.version], since=state.watch.since)


class PlanFeed:
    """Plans as they change: each call reads only the ledger's new events, by one indexed query. For one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._states: dict[str, ModelState] = {}
        self._plans: dict[str, Plan] = {}
        self._senseless: dict[str, str] = {}
        """Models whose events can't be understood from some event on, and why."""
        self._last: Event | None = None
        """The last event that was read."""

    def __call__(self) -> dict[str, Plan]:
        """What to serve, now, for every model that the ledger knows.

        A model of which the ledger holds what this version of the platform can't understand keeps what it had before
        that, and its plan says so; the others, and their kill switches, have nothing to do with it.

        Raises:
            LedgerUnavailable: The ledger can't be read.
        """
        events, all_of_them = read_on(self._ledger, self._last)
        if all_of_them:
            self._states, self._plans, self._senseless = {}, {}, {}
        for event in events:
            self._apply(event)
        if events:
            self._last = events[-1]
        for name in {event.model for event in events}:
            plan = plan_of(self._states.get(name, ModelState(model=name)))
            self._plans[name] = replace(plan, problem=self._senseless.get(name))
        return dict(self._plans)

    def _apply(self, event: Event) -> None:
        if event.model in self._senseless:
            return
        try:
            self._states = fold([event], self._states)
        except ReleaseError as error:
            self._senseless[event.model] = error.message
            _LOG.error("%s is served as it was before: %s", event.model, error.message)


def _assignment(of: Version | Release, role: Role, sequence: int, since: datetime) -> Assignment:
    return Assignment(
        version=of.version,
        role=role,
        bundle=of.bundle,
        bundle_sha256=of.bundle_sha256,
        sequence=sequence,
        since=since,
        trained_at=of.trained_at,
    )
