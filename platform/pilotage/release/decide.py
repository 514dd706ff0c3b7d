"""How a decision gets into the ledger: read, refuse or append, and again if another model's event came between.

The decisions themselves are in ``commands.py`` and ``trials.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pilotage.errors import BundleCorrupt, ConfigError, LedgerConflict, NotReleasable
from pilotage.release.aliases import show
from pilotage.release.events import Draft, Kind
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.legality import objection
from pilotage.release.stages import ApprovalRule, ModelState, Stage, Version
from pilotage.release.state import fold, fold_model
from pilotage.runtime.probe import require_fit
from pilotage.runtime.tried import Tried
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

T = TypeVar("T")
Evidence = Mapping[str, Any]
"""What a tick of the rollout decided by: JSON values."""

_LOOKS = 5
"""Times that a look is taken that others decide during; each takes seconds, and a decision a millisecond."""


def decide(
    model: str,
    make: Callable[[ModelState], Draft | None],
    *,
    settings: Settings,
    ledger: Ledger | None = None,
    seen: int | None = None,
    insist: bool = False,
) -> ModelState:
    """Appends one event about a model, if it may happen, and shows the new state in MLflow.

    Args:
        model: The model.
        make: Gives the event for the state that is found; ``None`` if there is nothing left to do. Called again when
            the ledger went on in between.
        settings: Where everything is.
        ledger: Another ledger than the settings'.
        seen: Sequence number of the last event about the model that the decision was made on.
        insist: Whether the decision holds whatever others decided in between.

    Returns:
        The model's state afterwards.

    Raises:
        NotReleasable: It may not happen.
        NotApproved: Somebody has to approve first.
        LedgerConflict: Somebody else decided about this model in the meantime.
    """
    book = ledger or SqlLedger.of(settings)
    try:
        while True:
            events = book.events()
            head = events[-1].sequence if events else 0
            state = fold_model(model, events)
            if seen is not None and state.sequence != seen and not insist:
                raise LedgerConflict(
                    f"Somebody else decided about {model} in the meantime (event {state.sequence}).",
                    fix="Look at the new state, and decide again.",
                    model=model,
                )
            seen = state.sequence
            draft = make(state)
            if draft is None:
                break
            if (wrong := objection(state, draft)) is not None:
                raise wrong
            try:
                event = book.append(draft, expected=head)
            except LedgerConflict:
                # Perhaps it was about another model; then nothing has changed for this one.
                continue
            state = fold([event], {model: state})[model]
            break
    finally:
        if ledger is None and isinstance(book, SqlLedger):
            book.close()
    show(state, settings=settings)
    return state


def undisturbed(look: Callable[[], T]) -> T:
    """What a look comes to: if somebody decides about the model while it weighs the evidence, it looks again.

    Raises:
        LedgerConflict: Somebody did each time.
    """
    for _ in range(_LOOKS - 1):
        with suppress(LedgerConflict):
            return look()
    return look()


class Verifier:
    """Lets a version get traffic only if its bundle is fit to serve; looks at each bundle once."""

    def __init__(self, settings: Settings, *, copies: bool = False) -> None:
        """Looks at nothing yet.

        Args:
            settings: Where everything is.
            copies: Whether a copy that the service keeps will do: good enough to go back to where the registry has
                lost a bundle.
        """
        self._tried = Tried(settings.tried)
        self._copies = settings.bundles if copies else None
        self._found: dict[int, BundleCorrupt | None] = {}

    def fits(self, version: Version) -> bool:
        """Whether its bundle verifies."""
        return self._look(version) is None

    def require(self, version: Version, purpose: str) -> None:
        """Refuses a version whose bundle does not verify.

        Raises:
            NotReleasable: Says what it may not become, and why.
        """
        if (error := self._look(version)) is not None:
            raise NotReleasable(
                f"{version.model} version {version.version} may not {purpose}: {error.message}",
                fix=error.fix,
                model=version.model,
                version=version.version,
            ) from error

    def _look(self, version: Version) -> BundleCorrupt | None:
        if version.version not in self._found:
            places = [Path(version.bundle)]
            if self._copies is not None:
                places.append(self._copies / version.model / str(version.version))
            errors: list[BundleCorrupt] = []
            for place in places:
                if (error := self._wrong(place, version.bundle_sha256)) is None:
                    errors = []
                    break
                errors.append(error)
            # Of the registry's, if none will do.
            self._found[version.version] = errors[0] if errors else None
        return self._found[version.version]

    def _wrong(self, place: Path, sha256: str) -> BundleCorrupt | None:
        try:
            require_fit(place, sha256=sha256, tried=self._tried)
        except BundleCorrupt as error:
            return error
        return None


def signed(actor: str, why: str) -> None:
    """Refuses a decision that does not say who made it and why.

    Raises:
        ConfigError: One of them is missing.
    """
    for name, value in (("who decides", actor), ("why", why)):
        if not value.strip():
            raise ConfigError(
                f"A decision is recorded with who made it and why; {name} is missing.",
                fix="Give both: --actor NAME --why REASON (in Dagster: actor and why in the run's configuration).",
            )


def drafted(model: str, kind: Kind, version: int | None, actor: str, why: str, payload: Mapping[str, Any]) -> Draft:
    """An event, signed."""
    return Draft(model=model, kind=kind, version=version, actor=actor.strip(), cause=why.strip(), payload=payload)


def with_evidence(payload: Mapping[str, Any], evidence: Evidence | None) -> dict[str, Any]:
    """A payload, with what a tick decided by."""
    return {**payload, **({"evidence": dict(evidence)} if evidence is not None else {})}


def is_at(state: ModelState, version: int, stage: Stage) -> bool:
    """Whether a version is in a stage."""
    known = state.versions.get(version)
    return known is not None and known.stage == stage


def rule_for(state: ModelState, version: int, spec: ModelSpec | None) -> ApprovalRule:
    """The spec's rule of today, else the one that the version was registered with."""
    if spec is not None:
        return ApprovalRule.of(spec)
    known = state.versions.get(version)
    return known.rule if known else ApprovalRule()


def permitted(state: ModelState, draft: Draft) -> None:
    """Raises the reason why an event may not happen now."""
    if (wrong := objection(state, draft)) is not None:
        raise wrong


def checked(state: ModelState, draft: Draft, verifier: Verifier, purpose: str) -> Draft:
    """The event, if it may happen and its version is fit to serve: what is not allowed needs no look at its bundle."""
    permitted(state, draft)
    if draft.version is not None:
        verifier.require(state.versions[draft.version], purpose)
    return draft
