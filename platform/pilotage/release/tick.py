"""One look of the rollout: what the evidence says about the version under way, carried out as one decision.

Whether the evidence is enough is ``rollout.py``'s business; here its decision becomes an event, with the evidence in
it, or none if nothing is decided yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pilotage.errors import NotApproved, ReleaseError
from pilotage.release import commands
from pilotage.release.decide import undisturbed
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.stages import ModelState, Version
from pilotage.release.state import fold_model
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from pilotage.data.lake import Lake

ACTOR = "rollout"
"""Who decides here, for the record."""

Did = Literal[
    "nothing",
    "held",
    "began",
    "advanced",
    "promoted",
    "rolled_back",
    "rejected",
    "asked_for_approval",
    "called_a_person",
]

NEEDS_A_PERSON = "needs_a_person"
"""What the ledger calls a verdict that nothing goes on until somebody decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """What one look came to."""

    model: str
    version: int | None
    """The version it was about."""
    did: Did
    why: str
    state: ModelState
    evidence: dict[str, Any] = field(default_factory=dict)
    """What it was decided by: JSON values."""


def to_do(spec: ModelSpec, state: ModelState) -> str | None:
    """What a look would be for, in words; ``None`` if there is nothing to look at."""
    if state.killed is not None or state.champion is None:
        return None
    if (version := state.under_way) is not None:
        return f"version {version.version} is in {version.stage}"
    if spec.rollout.automatic and state.challenger is None and (version := state.waiting) is not None:
        return f"version {version.version} is to begin its rollout"
    return None


def idle(spec: ModelSpec, state: ModelState) -> str:
    """Why there is nothing to look at, in words."""
    if state.killed is not None:
        return f"{spec.name} is killed"
    if state.champion is None:
        return f"{spec.name} has no champion"
    if state.ab_test is not None:
        return f"an A/B test of {spec.name} runs, which a person ends"
    if state.canary is not None:
        return f"version {state.canary.version} of {spec.name} is in canary, and the next one waits for it"
    return f"no version of {spec.name} is in shadow or canary"


def tick(
    spec: ModelSpec, *, settings: Settings, lake: Lake, now: datetime, ledger: Ledger | None = None, run: str = ""
) -> Ticked:
    """Looks once at a model's rollout, and decides what the evidence allows; again, if somebody decides meanwhile.

    Args:
        spec: The model.
        settings: Where everything is.
        lake: Where its predictions and outcomes are.
        now: Time of the look, UTC.
        ledger: Another ledger than the settings'.
        run: The Dagster run that looks, for the evidence.

    Raises:
        LedgerConflict: Others went on deciding about the model while the evidence was weighed; the next look sees it.
        ReleaseError: What was decided can't be done.
    """
    book = ledger or SqlLedger.of(settings)
    return undisturbed(lambda: _look(spec, settings, lake, now, book, run))


def _look(spec: ModelSpec, settings: Settings, lake: Lake, now: datetime, book: Ledger, run: str) -> Ticked:
    state = fold_model(spec.name, book.events())
    if to_do(spec, state) is None:
        return Ticked(model=spec.name, version=None, did="nothing", why=idle(spec, state), state=state)
    version = state.under_way
    if version is None:
        return _begin(spec, settings, book)
    from pilotage.release.rollout import assess, gather

    decision = assess(spec, state, gather(spec, state, settings, lake, ledger=book), now)
    return _carry_out(spec, state, version, decision, settings, book, run)


def begin_rollout(spec: ModelSpec, *, settings: Settings, ledger: Ledger | None = None) -> Ticked:
    """Lets the newest candidate enter its first stage, if it is newer than the champion and nothing is in its way.

    Raises:
        LedgerConflict: Others went on deciding about the model at this moment.
        NotReleasable: Its bundle is corrupt.
    """
    book = ledger or SqlLedger.of(settings)
    return undisturbed(lambda: _begin(spec, settings, book))


def _begin(spec: ModelSpec, settings: Settings, book: Ledger) -> Ticked:
    state = fold_model(spec.name, book.events())
    version = state.waiting
    if version is None or state.killed is not None or state.champion is None or state.challenger is not None:
        return Ticked(model=spec.name, version=None, did="nothing", why=idle(spec, state), state=state)
    why = "Newer than the champion; the model's rollout is automatic."
    by: dict[str, Any] = {"settings": settings, "actor": ACTOR, "why": why, "ledger": book, "seen": state.sequence}
    try:
        after = commands.begin(spec.name, version.version, spec=spec, **by)
    except NotApproved as error:
        return _ask(state, version, error.message, {}, settings, book)
    return Ticked(model=spec.name, version=version.version, did="began", why=why, state=after)


def _carry_out(
    spec: ModelSpec, state: ModelState, version: Version, decision: Any, settings: Settings, book: Ledger, run: str
) -> Ticked:
    model, number, why = spec.name, version.version, decision.why
    evidence = {**decision.payload, **({"run": run} if run else {})}
    # Seen: the evidence is about this state, and about no other.
    by: dict[str, Any] = {
        "settings": settings,
        "actor": ACTOR,
        "why": why,
        "ledger": book,
        "seen": state.sequence,
        "evidence": evidence,
    }
    did: Did
    try:
        match decision.kind:
            case "hold" if decision.stuck:
                return _call(state, version, why, evidence, settings, book)
            case "hold":
                did, after = "held", state
            case "advance":
                did, after = "advanced", commands.canary(model, number, spec=spec, **by)
            case "promote":
                did, after = "promoted", commands.promote(model, number, spec=spec, how="rollout", **by)
            case "roll_back" if version.stage == "canary":
                did, after = "rolled_back", commands.rollback(model, version=number, **by)
            case "reject" | "roll_back":
                did, after = "rejected", commands.reject(model, number, **by)
            case "request_approval":
                return _ask(state, version, why, evidence, settings, book)
            case unknown:
                raise ReleaseError(
                    f"The rollout of {model} decided {unknown!r}, which can't be carried out.",
                    fix="Use the version of Pilotage that knows it.",
                    model=model,
                )
    except NotApproved as error:
        return _ask(state, version, error.message, evidence, settings, book)
    return Ticked(model=model, version=number, did=did, why=why, state=after, evidence=evidence)


def _call(
    state: ModelState, version: Version, why: str, evidence: dict[str, Any], settings: Settings, book: Ledger
) -> Ticked:
    """Records, once in a stage, that the rollout goes on no more by itself."""
    about = (each for each in book.events(after=version.sequence) if each.kind == "verdict")
    mine = (each for each in about if (each.model, each.version) == (version.model, version.version))
    if any(each.payload.get("decision") == NEEDS_A_PERSON for each in mine):
        return Ticked(model=state.model, version=version.version, did="held", why=why, state=state, evidence=evidence)
    after = commands.note(
        state.model,
        version.version,
        NEEDS_A_PERSON,
        settings=settings,
        actor=ACTOR,
        why=why,
        ledger=book,
        seen=state.sequence,
        evidence=evidence,
    )
    return Ticked(
        model=state.model, version=version.version, did="called_a_person", why=why, state=after, evidence=evidence
    )


def _ask(
    state: ModelState, version: Version, why: str, evidence: dict[str, Any], settings: Settings, book: Ledger
) -> Ticked:
    """Records, once, that a version waits for approval."""
    did: Did = "held"
    after = state
    if version.approval_asked_at is None:
        did = "asked_for_approval"
        after = commands.note(
            state.model,
            version.version,
            "request_approval",
            settings=settings,
            actor=ACTOR,
            why=why,
            ledger=book,
            seen=state.sequence,
            evidence=evidence,
        )
    return Ticked(model=state.model, version=version.version, did=did, why=why, state=after, evidence=evidence)
