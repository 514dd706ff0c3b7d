"""What happens to a model, and what it is after it. When it may happen is in ``legality.py``.

The events, with their payload (``version`` is the version they are about; ``evidence`` is what a tick decided by):

- ``registered``: bundle, bundle_sha256, mlflow_run_id, run_url, trained_at, facts; approval (rule of its spec).
- ``refused`` (no version): reasons, bundle_sha256, mlflow_run_id.
- ``shadowed``: evidence?
- ``canaried``: share, salt, segment, step, approval; evidence?
- ``ab_started``: share, salt, approval. ``ab_ended``: evidence?
- ``approved``: approval. ``rejected``: evidence?
- ``promoted``: approval, how; evidence?; watch_s? (how long the champion before is compared with this one).
- ``rolled_back`` (version: the one that is taken away): to (who answers instead; ``null`` for a canary), approval;
  evidence?
- ``killed``, ``resumed`` (no version).
- ``verdict``: decision, evidence: what a tick found that changes no stage, such as that it waits for approval.
- ``alias_edited`` (version: what somebody set, if any): alias, expected, action.
- ``watch_ended`` (version: the champion before, which is compared no longer): evidence?
- Those of a retraining: see ``retraining/state.py``.

``approval`` is the rule that held: ``{"needed": people, "approvers": [names]}``. Events from before rules name none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pilotage.release.events import Event
from pilotage.release.retraining import state as retraining
from pilotage.release.stages import (
    Approval,
    ApprovalRule,
    Challenger,
    Killed,
    ModelState,
    Refusal,
    Release,
    Stage,
    Version,
    Watch,
)

_TO: Mapping[str, Stage] = {
    "shadowed": "shadow",
    "ab_ended": "candidate",
    "rejected": "rejected",
    "rolled_back": "rolled_back",
}
"""Where a version goes that this happens to, and nothing else does."""


def apply(state: ModelState, event: Event) -> ModelState:
    """What a model is after an event that may happen.

    Raises:
        KeyError, TypeError, ValueError: Its payload is not what its kind has.
    """
    if retraining.concerns(event):
        state = replace(state, retraining=retraining.apply(state.retraining, event))
        if event.kind in retraining.RETRAINING_KINDS:
            # Whoever decides about a version need not decide again because a retraining goes on beside it.
            return state
    state = replace(state, sequence=event.sequence)
    if event.version is None or event.kind == "alias_edited":
        return _of_the_model(state, event)
    return _of_a_version(state, event, event.version)


def _of_the_model(state: ModelState, event: Event) -> ModelState:
    match event.kind:
        case "refused":
            return replace(state, refused=(*state.refused, _refusal(event)))
        case "killed":
            killed = Killed(why=event.cause, actor=event.actor, at=event.at, sequence=event.sequence)
            return replace(state, killed=killed)
        case "resumed":
            pause = (state.killed.at, event.at) if state.killed else (event.at, event.at)
            return replace(state, killed=None, pauses=(*state.pauses, pause))
    return state


def _of_a_version(state: ModelState, event: Event, number: int) -> ModelState:
    match event.kind:
        case "registered":
            return replace(state, versions={**state.versions, number: _registered(event, number)})
        case "canaried" | "ab_started":
            return replace(_moved(state, number, "canary", event), challenger=_challenger(state, event, number))
        case "approved":
            approval = Approval(actor=event.actor, why=event.cause, at=event.at, sequence=event.sequence)
            known = state.versions[number]
            return _with(state, replace(known, approvals=(*known.approvals, approval), approval_asked_at=None))
        case "verdict":
            decision = event.payload["decision"]
            asked = event.at if decision == "request_approval" else None
            stuck = event.cause if decision == "needs_a_person" else None
            return _with(state, replace(state.versions[number], approval_asked_at=asked, needs_a_person=stuck))
        case "watch_ended":
            return replace(state, watch=None)
        case "promoted":
            return replace(_crowned(state, number, event, former="retired"), watch=_watch(state, number, event))
        case "rolled_back" if (to := event.payload["to"]) is not None:
            return _crowned(state, to, event, former="rolled_back")
    return _moved(_without_share(state, number), number, _TO[event.kind], event)


def _registered(event: Event, number: int) -> Version:
    facts = event.payload
    return Version(
        model=event.model,
        version=number,
        bundle=facts["bundle"],
        bundle_sha256=facts["bundle_sha256"],
        registered_at=event.at,
        trained_at=datetime.fromisoformat(facts["trained_at"]),
        mlflow_run_id=facts["mlflow_run_id"],
        run_url=facts["run_url"],
        cause=event.cause,
        facts=facts["facts"],
        trained_by=event.actor,
        rule=ApprovalRule.read(facts) or ApprovalRule(),
        since=event.at,
        sequence=event.sequence,
    )


def _refusal(event: Event) -> Refusal:
    facts = event.payload
    return Refusal(
        model=event.model,
        at=event.at,
        mlflow_run_id=facts["mlflow_run_id"],
        bundle_sha256=facts["bundle_sha256"],
        reasons=tuple(facts["reasons"]),
    )


def _challenger(state: ModelState, event: Event, number: int) -> Challenger:
    facts, champion = event.payload, state.champion
    if champion is None:
        raise ValueError("there is no champion")
    kind: Any = "canary" if event.kind == "canaried" else "ab_test"
    goes_on = state.challenger is not None and state.challenger.kind == kind
    return Challenger(
        kind=kind,
        version=number,
        share=facts["share"],
        salt=facts["salt"],
        segment=facts.get("segment"),
        step=facts.get("step", 0),
        since=event.at,
        against=champion.version,
        sequence=event.sequence,
        first=state.challenger.first if goes_on and state.challenger else event.sequence,
    )


def _crowned(state: ModelState, number: int, event: Event, *, former: Stage) -> ModelState:
    """A version becomes champion, whoever was before.

    What had a share was compared with the champion before: it is a candidate again, and so are shadows that are older
    than what is now in production.
    """
    before = state.champion
    if state.challenger is not None and state.challenger.version != number:
        state = _moved(state, state.challenger.version, "candidate", event)
    for shadow in state.shadows:
        if shadow.version < number:
            state = _moved(state, shadow.version, "candidate", event)
    if before is not None and before.version != number:
        state = _moved(state, before.version, former, event)
    state = _moved(state, number, "champion", event)
    known = state.versions[number]
    release = Release(
        model=event.model,
        version=number,
        bundle=known.bundle,
        bundle_sha256=known.bundle_sha256,
        promoted_at=event.at,
        actor=event.actor,
        why=event.cause,
        trained_at=known.trained_at,
        mlflow_run_id=known.mlflow_run_id,
        sequence=event.sequence,
        facts=known.facts,
    )
    return replace(state, champion=release, history=(*state.history, release), challenger=None, watch=None)


def _watch(before: ModelState, number: int, event: Event) -> Watch | None:
    seconds = float(event.payload.get("watch_s") or 0)
    if seconds <= 0 or before.champion is None or before.champion.version == number:
        return None
    return Watch(version=before.champion.version, since=event.at, until=event.at + timedelta(seconds=seconds))


def _without_share(state: ModelState, number: int) -> ModelState:
    has_it = state.challenger is not None and state.challenger.version == number
    return replace(state, challenger=None) if has_it else state


def _moved(state: ModelState, number: int, stage: Stage, event: Event) -> ModelState:
    known = state.versions[number]
    # Whoever approved what then had to be taken back is asked again.
    approvals = () if stage in ("rejected", "rolled_back") else known.approvals
    return _with(
        state,
        replace(
            known,
            stage=stage,
            since=event.at,
            sequence=event.sequence,
            approvals=approvals,
            approval_asked_at=None,
            needs_a_person=None,
        ),
    )


def _with(state: ModelState, version: Version) -> ModelState:
    return replace(state, versions={**state.versions, version.version: version})
