"""Plans and bundles that travel with the code: what a bento needs to serve without ledger, registry and lake.

    <folder>/plans.json                       what to serve, as the follower remembers it
    <folder>/bundles/<model>/<version>/       the verified bundles

Nothing here knows how a bento is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pilotage.errors import BundleCorrupt, ConfigError, NotReleasable
from pilotage.runtime.bundle_cache import fetch
from pilotage.runtime.plan import Assignment, Plan
from pilotage.runtime.plans_file import PlansFile
from pilotage.runtime.probe import admit
from pilotage.settings import Settings

_BUNDLES = "bundles"
Plans = Callable[[], Mapping[str, Plan]]


def bake(folder: Path, plans: Iterable[Plan], *, report: Callable[[str], None] = lambda _: None) -> dict[str, Plan]:
    """Puts champions and the champions before them into a folder, each verified as a serving process would.

    Canaries and shadows stay behind: without a ledger nobody could end their trial.

    Args:
        folder: An empty place.
        plans: Of the models that are wanted.
        report: Called with a sentence where a champion of before had to stay behind.

    Returns:
        The plans as they were written.

    Raises:
        NotReleasable: A model has no champion, or was killed.
        BundleCorrupt: A champion's bundle is not what was promoted.
    """
    baked = {}
    for plan in plans:
        if plan.killed is not None:
            raise NotReleasable(
                f"{plan.model} was killed: {plan.killed}.",
                fix=f"pilotage resume {plan.model}, first.",
                model=plan.model,
            )
        if plan.champion is None:
            raise NotReleasable(
                f"{plan.model} has no champion.",
                fix=f"Promote a version: pilotage promote {plan.model} VERSION.",
                model=plan.model,
            )
        champion = _take(folder, plan.model, plan.champion)
        previous = None
        if plan.previous is not None:
            try:
                previous = _take(folder, plan.model, plan.previous)
            except BundleCorrupt as error:
                report(f"{plan.model} version {plan.previous.version} stays behind: {error.message}")
        baked[plan.model] = replace(plan, champion=champion, previous=previous, canary=None, shadows=())
    PlansFile(folder).write(baked)
    return baked


class Baked:
    """What came with the code.

    Args:
        folder: As ``bake`` left it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plans(self) -> dict[str, Plan]:
        """The plans, with the bundles where they are now.

        Raises:
            ConfigError: The folder holds none.
        """
        try:
            known = PlansFile(self._folder).read()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The plans in {self._folder} can't be read: {error}.", fix="Build the bento again."
            ) from None
        if known is None:
            raise ConfigError(f"There are no plans in {self._folder}.", fix="Build the bento again: pilotage bento.")
        return {model: self._here(plan) for model, plan in known.plans.items()}

    def releases(self, settings: Settings, ledger: Plans) -> Plans:
        """Where a worker reads from what to serve: the ledger if one is configured, else these plans, as they are.

        With a ledger, these plans are what is known until it can be read for the first time.

        Args:
            settings: Of the worker.
            ledger: Reads the ledger.
        """
        if not settings.ledger_url:
            return self.plans
        remembered = PlansFile(settings.service_state)
        if remembered.read() is None:
            remembered.write(self.plans())
        return ledger

    def _here(self, plan: Plan) -> Plan:
        def moved(assignment: Assignment | None) -> Assignment | None:
            return assignment and replace(assignment, bundle=str(self._folder / assignment.bundle))

        return replace(plan, champion=moved(plan.champion), previous=moved(plan.previous))


def _take(folder: Path, model: str, assignment: Assignment) -> Assignment:
    place = fetch(
        Path(assignment.bundle),
        sha256=assignment.bundle_sha256,
        bundles=folder / _BUNDLES,
        model=model,
        version=assignment.version,
    )
    admit(place, sha256=assignment.bundle_sha256)
    return replace(assignment, bundle=place.relative_to(folder).as_posix())
