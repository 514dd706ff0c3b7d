"""What a person or the rollout may decide about a model. Each decision is one event of the ledger, or none.

Each says who and why, verifies the bundle of a version that is to get traffic, and gives the state afterwards. What may
be decided when is in ``legality.py``. To decide again what holds already records nothing.
"""

from __future__ import annotations

from typing import Any

from pilotage.errors import NotReleasable
from pilotage.release import killing
from pilotage.release.decide import (
    Evidence,
    Verifier,
    checked,
    decide,
    drafted,
    is_at,
    permitted,
    rule_for,
    signed,
    with_evidence,
)
from pilotage.release.events import Draft
from pilotage.release.ledger import Ledger
from pilotage.release.legality import ways_back
from pilotage.release.stages import ApprovalRule, ModelState, person
from pilotage.release.trials import begin, canary, end_ab, note, shadow, start_ab
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

__all__ = [
    "approve",
    "begin",
    "canary",
    "end_ab",
    "kill",
    "note",
    "promote",
    "reject",
    "resume",
    "rollback",
    "shadow",
    "start_ab",
]


def approve(
    model: str,
    version: int,
    *,
    settings: Settings,
    actor: str,
    why: str,
    spec: ModelSpec | None = None,
    rule: ApprovalRule | None = None,
    ledger: Ledger | None = None,
) -> ModelState:
    """Says that a version may get traffic. Holds whatever others decide meanwhile, if the version is still there.

    Args:
        model: The model.
        version: A version that passed its gate.
        settings: Where everything is.
        actor: Who approves.
        why: The reason, in words.
        spec: Its rule of approvals.
        rule: Another rule; it is recorded.
        ledger: Another ledger than the settings'.

    Raises:
        NotReleasable: There is no such version, or there is nothing to approve at its stage.
        NotApproved: This person may not approve it.
    """

    def make(state: ModelState) -> Draft | None:
        known = state.versions.get(version)
        if known and person(actor) in {person(each.actor) for each in known.approvals}:
            return None
        held = rule or rule_for(state, version, spec)
        return drafted(model, "approved", version, actor, why, held.payload())

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, insist=True)


def reject(
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
    """Says that a version is not to be released; takes its traffic if it had any.

    Raises:
        NotReleasable: There is no such version, or it is or was champion.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """

    def make(state: ModelState) -> Draft | None:
        if is_at(state, version, "rejected"):
            return None
        return drafted(model, "rejected", version, actor, why, with_evidence({}, evidence))

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def promote(
    model: str,
    version: int,
    *,
    settings: Settings,
    actor: str,
    why: str,
    spec: ModelSpec | None = None,
    rule: ApprovalRule | None = None,
    how: str = "by hand",
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Makes a version the champion, whatever its stage: for its rollout, for the first version, and for emergencies.

    Args:
        model: The model.
        version: A version that passed its gate.
        settings: Where everything is.
        actor: Who decides.
        why: The reason, in words.
        spec: Its rule of approvals.
        rule: Another rule of approvals; it is recorded.
        how: ``by hand``, ``rollout``, ``first version`` or ``alias``; recorded beside the stage that it came from.
        ledger: Another ledger than the settings'.
        seen: Last event about the model that the decision was made on.
        evidence: What it was made by.

    Raises:
        NotReleasable: There is no such version, it was refused or rejected, or its bundle is corrupt.
        NotApproved: Somebody has to approve first.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    verifier = Verifier(settings)

    def make(state: ModelState) -> Draft | None:
        if is_at(state, version, "champion"):
            return None
        known = state.versions.get(version)
        payload: dict[str, Any] = {"how": how, "stage": known.stage if known else None}
        payload |= (rule or rule_for(state, version, spec)).payload()
        if spec is not None and spec.retraining.watch is not None:
            payload["watch_s"] = spec.retraining.watch.lasts.total_seconds()
        draft = drafted(model, "promoted", version, actor, why, with_evidence(payload, evidence))
        return checked(state, draft, verifier, "become champion")

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def rollback(
    model: str,
    to: int | None = None,
    *,
    settings: Settings,
    actor: str,
    why: str,
    version: int | None = None,
    spec: ModelSpec | None = None,
    ledger: Ledger | None = None,
    seen: int | None = None,
    evidence: Evidence | None = None,
) -> ModelState:
    """Takes back what was released last: a version with a share, else the champion.

    Args:
        model: The model.
        to: The version that answers instead of the champion, which is then the one that is taken back. Default: the
            last champion before it that was not rolled back itself and whose bundle verifies.
        settings: Where everything is.
        actor: Who decides.
        why: The reason, in words.
        version: The version that is taken back; refused if it gets no traffic any more.
        spec: Its rule of approvals, for a target that never was champion.
        ledger: Another ledger than the settings'.
        seen: Last event about the model that the decision was made on.
        evidence: What it was made by.

    Raises:
        NotReleasable: Nothing was released, there is nothing to go back to, or the target's bundle is corrupt.
        NotApproved: The target was never champion, and nobody approved it.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    verifier = Verifier(settings, copies=True)

    def make(state: ModelState) -> Draft | None:
        bad = version
        if bad is None:
            last = state.challenger if state.challenger and to is None else state.champion
            if last is None:
                raise NotReleasable(
                    f"{model} has no champion to take back.", fix=f"pilotage kill {model} --why …", model=model
                )
            bad = last.version
        target = None
        if state.champion and bad == state.champion.version:
            target = to if to is not None else _earlier(state, bad, verifier)
        elif to is not None:
            raise NotReleasable(
                f"{model} version {bad} is not the champion; nobody but the champion answers instead of it.",
                fix="Leave the target away.",
                model=model,
            )
        payload = {"to": target} | (rule_for(state, target, spec).payload() if target is not None else {})
        draft = drafted(model, "rolled_back", bad, actor, why, with_evidence(payload, evidence))
        permitted(state, draft)
        if target is not None:
            verifier.require(state.versions[target], "answer instead")
        return draft

    signed(actor, why)
    return decide(model, make, settings=settings, ledger=ledger, seen=seen)


def kill(
    model: str, *, settings: Settings, actor: str, why: str, ledger: Ledger | None = None, seen: int | None = None
) -> ModelState:
    """Lets no version of a model answer, until ``resume``. Holds whatever others decide meanwhile, unless it is about
    what was ``seen``.

    A person's kill (nothing ``seen``) holds on this host before it is recorded, and though it can't be.

    Raises:
        LedgerConflict: Somebody else decided about this model since what was seen.
        KillNotRecorded: It holds on this host, and is not in the ledger.
    """
    signed(actor, why)
    if seen is not None or ledger is not None:
        draft = drafted(model, "killed", None, actor, why, {})
        return decide(
            model,
            lambda state: None if state.killed else draft,
            settings=settings,
            ledger=ledger,
            seen=seen,
            insist=seen is None,
        )
    return killing.kill(model, settings=settings, actor=actor, why=why)


def resume(model: str, *, settings: Settings, actor: str, why: str, ledger: Ledger | None = None) -> ModelState:
    """Lets a killed model answer again.

    Raises:
        NotReleasable: It is not killed.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    signed(actor, why)
    if ledger is None:
        # One that waits for the ledger would kill the model again.
        killing.record(settings)
    draft = drafted(model, "resumed", None, actor, why, {})
    return decide(model, lambda _: draft, settings=settings, ledger=ledger)


def _earlier(state: ModelState, champion: int, verifier: Verifier) -> int:
    """The last champion before this one that may answer again."""
    damaged = []
    for release in state.earlier_champions():
        known = state.versions[release.version]
        if verifier.fits(known):
            return known.version
        damaged.append(str(known.version))
    lost = f" (the bundles of versions {', '.join(damaged)} do not verify)" if damaged else ""
    raise NotReleasable(
        f"{state.model} has no earlier champion to go back to{lost}.",
        fix=ways_back(state, champion),
        model=state.model,
    )
