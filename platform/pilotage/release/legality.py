"""When an event may happen to a model. Defined here, once: commands refuse by it, and the ledger's fold goes by it.

Which events there are, and what a model is after each, is in ``transitions.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.errors import NotApproved, NotReleasable, ReleaseError
from pilotage.release.events import Draft, Event
from pilotage.release.retraining import state as retraining
from pilotage.release.stages import ApprovalRule, ModelState, Stage, Version, person

_FROM: Mapping[str, tuple[Stage, ...]] = {
    # What was rejected or rolled back begins again as a shadow, or not at all.
    "shadowed": ("candidate", "canary", "retired", "rejected", "rolled_back"),
    "canaried": ("candidate", "shadow", "canary", "retired"),
    "ab_started": ("candidate", "shadow", "canary", "retired"),
    "approved": ("candidate", "shadow", "canary", "retired", "rolled_back"),
    "rejected": ("candidate", "shadow", "canary", "rolled_back"),
    # Ledgers from before there were stages hold promotions of the champion.
    "promoted": ("candidate", "shadow", "canary", "retired", "rolled_back", "champion"),
    "rolled_back": ("canary", "champion"),
}
"""Stages that a version may be in when this happens to it."""

_ABOUT_THE_MODEL = ("refused", "killed", "resumed")
"""Events without a version."""


def objection(state: ModelState, event: Draft | Event) -> ReleaseError | None:
    """Why an event may not happen now; ``None`` if it may."""
    kind, number = event.kind, event.version
    wrong = retraining.objection(state.model, state.retraining, event)
    if wrong is not None or kind in retraining.RETRAINING_KINDS:
        return wrong
    if kind == "registered":
        return _no(state, "a version with this number is registered") if number in state.versions else None
    if kind == "alias_edited":
        return None
    if kind in _ABOUT_THE_MODEL:
        if number is not None:
            return _no(state, f"{kind} is about a model, not about a version")
        return _about_the_model(state, kind)
    if number is None or (known := state.versions.get(number)) is None:
        have = ", ".join(str(each) for each in sorted(state.versions)) or "none"
        return NotReleasable(
            f"{state.model} has no version {number} that passed its gate (there are: {have}).",
            fix="Name one of those, or train a new candidate.",
            model=state.model,
            version=number,
        )
    if kind == "verdict":
        return None
    if kind == "watch_ended":
        watched = state.watch is not None and state.watch.version == number
        return None if watched else _no(state, f"the champion is not compared with version {number}")
    if kind == "ab_ended":
        running = state.ab_test is not None and state.ab_test.version == number
        return None if running else _no(state, f"no A/B test of version {number} runs")
    if known.stage not in _FROM[kind]:
        return _from_there(state, kind, known)
    return _about_a_version(state, event, known)


def _about_the_model(state: ModelState, kind: str) -> ReleaseError | None:
    if kind == "killed" and state.killed:
        return _no(state, f"it was killed already, by {state.killed.actor}: {state.killed.why}")
    if kind == "resumed" and not state.killed:
        return _no(state, "it is not killed")
    return None


def _about_a_version(state: ModelState, event: Draft | Event, known: Version) -> ReleaseError | None:
    match event.kind:
        case "canaried" | "ab_started":
            return _takes_share(state, event, known) or _unapproved(event, known)
        case "promoted":
            return _unapproved(event, known)
        case "rolled_back":
            return _rolls_back(state, event, known)
        case "approved":
            rule = ApprovalRule.read(event.payload) or known.rule
            if not rule.lets(event.actor, trained_by=known.trained_by):
                return NotApproved(
                    f"{event.actor} may not approve {state.model} version {known.version}; may: "
                    f"{rule.who(known.trained_by)}.",
                    fix="Ask one of them.",
                    model=state.model,
                    version=known.version,
                )
            if person(event.actor) in {person(each.actor) for each in known.approvals}:
                return _no(state, f"{event.actor} approved version {known.version} already")
    return None


def _takes_share(state: ModelState, event: Draft | Event, known: Version) -> ReleaseError | None:
    share, salt, running = event.payload.get("share"), event.payload.get("salt"), state.challenger
    if state.champion is None:
        return NotReleasable(
            f"{state.model} has no champion that could answer the rest.",
            fix=f"pilotage promote {state.model} {known.version} --why … makes it the first one.",
            model=state.model,
        )
    if running is not None and running.version != known.version:
        return _no(state, f"version {running.version} has a share already ({running.kind.replace('_', ' ')})")
    if not isinstance(share, float) or not 0 < share < 1:
        return _no(state, f"a share of {share!r} is none; it lies between 0 and 1")
    if not isinstance(salt, str) or not salt:
        return _no(state, "a share needs a salt")
    if event.kind == "canaried" and state.canary and state.canary.salt != salt:
        return _no(state, "the salt changed within a rollout")
    return None


def _rolls_back(state: ModelState, event: Draft | Event, known: Version) -> ReleaseError | None:
    to = event.payload.get("to")
    if known.stage == "canary":
        return None if to is None else _no(state, "the champion answers for a canary that is rolled back")
    target = state.versions.get(to) if type(to) is int else None
    if target is None or target.version == known.version or target.stage == "rejected":
        answers = target is not None and target.version == known.version
        wrong = "there is none" if target is None else "it answers already" if answers else "it was rejected"
        return NotReleasable(
            f"{state.model} can't be rolled back from version {known.version} to {to}: {wrong}.",
            fix=ways_back(state, known.version),
            model=state.model,
            version=to,
        )
    if state.was_champion(target.version):
        # It was allowed to answer once, and this is the way out of trouble.
        return None
    if target.version > known.version:
        return _no(state, f"version {target.version} is newer and was never champion: promote it instead")
    return _unapproved(event, target)


def ways_back(state: ModelState, version: int) -> str:
    """What to do about a champion with nothing to go back to by itself: which versions may be named, or a kill."""
    kill = f"pilotage kill {state.model} --why … lets its fallback answer"
    may = [
        str(number)
        for number, known in sorted(state.versions.items())
        if number != version and known.stage != "rejected" and (number < version or state.was_champion(number))
    ]
    if not may:
        return f"{kill}."
    return f"pilotage rollback {state.model} --to VERSION --why … (one of {', '.join(may)}); or: {kill}."


def missing_approvals(known: Version, rule: ApprovalRule) -> int:
    """How many more people must approve a version before it gets traffic."""
    return max(0, rule.needed - len(known.approved_by(rule)))


def _unapproved(event: Draft | Event, known: Version) -> ReleaseError | None:
    rule = ApprovalRule.read(event.payload) or known.rule
    if not (missing := missing_approvals(known, rule)):
        return None
    have = ", ".join(known.approved_by(rule)) or "nobody"
    return NotApproved(
        f"{known.model} version {known.version} needs {missing} more approval{'s' * (missing > 1)} before it answers "
        f"anybody (approved by: {have}). May approve: {rule.who(known.trained_by)}.",
        fix=f"pilotage approve {known.model} {known.version} --why …",
        model=known.model,
        version=known.version,
        missing=missing,
    )


def _from_there(state: ModelState, kind: str, known: Version) -> NotReleasable:
    said = {"rolled_back": "rolled back", "ab_started": "put into an A/B test"}.get(kind, kind)
    fix = f"pilotage status {state.model} shows where each version stands."
    if known.stage in ("rejected", "rolled_back") and kind != "shadowed":
        fix = f"pilotage shadow {state.model} {known.version} --why … begins its rollout again."
    return NotReleasable(
        f"{state.model} version {known.version} can't be {said}: its stage is {known.stage.replace('_', ' ')}.",
        fix=fix,
        model=state.model,
        version=known.version,
        stage=known.stage,
    )


def _no(state: ModelState, reason: str) -> NotReleasable:
    return NotReleasable(
        f"That can't be done to {state.model}: {reason}.",
        fix=f"pilotage status {state.model} shows where it stands.",
        model=state.model,
    )
