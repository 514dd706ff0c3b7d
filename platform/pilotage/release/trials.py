"""What a version goes through on its way to champion: shadow, canary, A/B test. ``commands.py`` gives it to callers."""

from __future__ import annotations

import secrets

from pilotage.errors import NotReleasable
from pilotage.expressions import to_json
from pilotage.release.decide import Evidence, Verifier, checked, decide, drafted, is_at, rule_for, signed, with_evidence
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger
from pilotage.release.stages import ModelState
from pilotage.settings import Settings
from pilotage.spec import ModelSpec


def shadow(
    model: str,
    version: int,
    *,
    settings: Settings,
    actor: str,
    why: str,
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Lets a version predict on every request without being heard; also begins again what was taken back.

    Args:
        model: The model.
        version: A version that passed its gate.
        settings: Where everything is.
        actor: Who decides.
        why: The reason, in words.
        ledger: Another ledger than the settings'.
        seen: Last event about the model that the decision was made on.
        evidence: What it was made by.

    Raises:
        NotReleasable: There is no such version, it is where it can't become a shadow, or its bundle is corrupt.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    verifier = Verifier(settings)

    def make(state: ModelState) -> Draft | None:
        if is_at(state, version, "shadow"):
            return None
        draft = drafted(model, "shadowed", version, actor, why, with_evidence({}, evidence))
        return checked(state, draft, verifier, "become a shadow")

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def canary(
    model: str,
    version: int,
    share: float | None = None,
    *,
    settings: Settings,
    actor: str,
    why: str,
    spec: ModelSpec | None = None,
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Gives a version a share of the traffic, or its canary another one.

    Args:
        model: The model.
        version: A version that passed its gate.
        share: Of the entities, 0..1. Default: of the next step that the spec declares.
        settings: Where everything is.
        actor: Who decides.
        why: The reason, in words.
        spec: Its steps, its first segment and its rule of approvals. Default: no segment, and the rule that the version
            was registered with.
        ledger: Another ledger than the settings'.
        seen: Last event about the model that the decision was made on.
        evidence: What it was made by.

    Raises:
        NotReleasable: See ``shadow``; or there is no champion that could answer the rest, or no further step.
        NotApproved: Somebody has to approve first.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    verifier = Verifier(settings)
    salt = secrets.token_hex(8)

    def make(state: ModelState) -> Draft | None:
        running = state.canary if state.canary and state.canary.version == version else None
        step, wanted = _step(model, None if running is None else running.step, share, spec)
        first = spec.rollout.first_segment if spec is not None and step == 0 else None
        payload = {
            "share": wanted,
            "salt": running.salt if running else salt,
            "segment": None if first is None else to_json(first, name="rollout.first_segment"),
            "step": step,
        }
        if running and (running.share, running.segment, running.step) == (wanted, payload["segment"], step):
            return None
        payload |= rule_for(state, version, spec).payload()
        draft = drafted(model, "canaried", version, actor, why, with_evidence(payload, evidence))
        return checked(state, draft, verifier, "get traffic")

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def start_ab(
    model: str,
    version: int,
    share: float = 0.5,
    *,
    settings: Settings,
    actor: str,
    why: str,
    spec: ModelSpec | None = None,
    ledger: Ledger | None = None,
) -> ModelState:
    """Begins an A/B test of a version against the champion, or gives the one that runs another share.

    Arguments and errors as in ``canary``.
    """
    verifier = Verifier(settings)
    salt = secrets.token_hex(8)

    def make(state: ModelState) -> Draft | None:
        if state.ab_test and (state.ab_test.version, state.ab_test.share) == (version, share):
            return None
        # Who was drawn stays drawn as far as the share allows: the lot of an entity is its own, only the line moves.
        goes_on = state.ab_test is not None and state.ab_test.version == version
        drawn_by = state.ab_test.salt if goes_on and state.ab_test else salt
        payload = {"share": float(share), "salt": drawn_by, **rule_for(state, version, spec).payload()}
        draft = drafted(model, "ab_started", version, actor, why, payload)
        return checked(state, draft, verifier, "get traffic")

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger)


def end_ab(
    model: str,
    *,
    settings: Settings,
    actor: str,
    why: str,
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Ends the A/B test: all traffic is the champion's again, and the other version waits for a decision."""

    def make(state: ModelState) -> Draft | None:
        if state.ab_test is None:
            raise NotReleasable(
                f"No A/B test of {model} runs.", fix=f"pilotage status {model} shows what does.", model=model
            )
        return drafted(model, "ab_ended", state.ab_test.version, actor, why, with_evidence({}, evidence))

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def begin(
    model: str,
    version: int,
    *,
    spec: ModelSpec,
    settings: Settings,
    actor: str,
    why: str,
    ledger: Ledger | None = None,
    seen: int | None = None,
) -> ModelState:
    """Lets a version enter the first stage of its rollout. Errors as in ``shadow`` and ``canary``."""
    if spec.rollout.shadow is not None:
        return shadow(model, version, settings=settings, actor=actor, why=why, ledger=ledger, seen=seen)
    return canary(model, version, settings=settings, actor=actor, why=why, spec=spec, ledger=ledger, seen=seen)


def note(
    model: str,
    version: int,
    decision: str,
    *,
    settings: Settings,
    actor: str,
    why: str,
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Records a verdict that changes no stage, such as that a version waits for approval."""
    signed(actor, why)
    draft = drafted(model, "verdict", version, actor, why, {"decision": decision, "evidence": dict(evidence or {})})
    return decide(model, lambda _: draft, settings=settings, ledger=ledger, seen=seen)


def _step(model: str, now: int | None, share: float | None, spec: ModelSpec | None) -> tuple[int, float]:
    """Number and share of the next step."""
    steps = spec.rollout.canary if spec is not None else ()
    if share is not None:
        reached = [number for number, step in enumerate(steps) if step.share <= share]
        return max(reached, default=0), float(share)
    number = 0 if now is None else now + 1
    if number >= len(steps):
        raise NotReleasable(
            f"{model} has no canary step {number + 1} of its own.",
            fix="Name a share, or promote the version.",
            model=model,
        )
    return number, steps[number].share
