"""An alias that somebody changed in MLflow by hand → a run that records it, and adopts or reverts it."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from jobs.rollout import RECONCILE
from pilotage.errors import RegistryUnavailable
from pilotage.run_tags import DECISION
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome
from sensors.asking import UNDER_WAY, skipped

if TYPE_CHECKING:
    from pilotage.release.stages import ModelState

EVERY_S = 30


def alias_sensor(models: Mapping[str, ModelSpec]) -> dg.SensorDefinition:
    """Compares MLflow's aliases with what the ledger says; changes nothing itself."""

    @dg.sensor(
        name="aliases",
        job_name=RECONCILE,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Notices when somebody changes the alias `champion` or `challenger` in MLflow by hand, or when MLflow lags "
            f"behind the ledger for two looks, and launches `{RECONCILE}`."
        ),
    )
    def watch(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.aliases import edits, is_there, lags, look, written
        from pilotage.release.champions import states

        settings = platform.settings
        if not is_there(settings):
            return skipped("MLflow has no store yet: nothing was ever registered.")
        store, known = written(settings), states(settings=settings)
        # MLflow's client is imported only to look at what may have changed: it takes seconds.
        if store is not None and context.cursor == _both(store, known):
            return skipped(
                f"MLflow shows what the ledger says, and neither has changed since: {_shown(models, known)}."
            )
        try:
            # MLflow before the ledger: a decision in between shows as one that MLflow lags behind.
            seen = look(list(models), settings=settings)
        except RegistryUnavailable as error:
            return skipped(error.message)
        known = states(settings=settings)
        changed = [state for name in models if (state := known.get(name)) and edits(state, seen[name])]
        behind = [state for name in models if (state := known.get(name)) and lags(state, seen[name])]
        if not changed and not behind:
            agreed = None if store is None else _both(store, known)
            return skipped(f"MLflow shows what the ledger says: {_shown(models, known)}.", cursor=agreed)
        lagging = f"MLflow lags behind the ledger: {', '.join(f'{each.model} {each.sequence}' for each in behind)}"
        if not changed and context.cursor != lagging:
            # Who decides shows it, which takes as long as MLflow's client to import.
            return skipped(f"{lagging}. If it still does at the next look, {RECONCILE} is launched.", cursor=lagging)
        if context.instance.get_runs(dg.RunsFilter(job_name=RECONCILE, statuses=UNDER_WAY), limit=1):
            return skipped(f"A run of {RECONCILE} is under way.")
        said = [edit for state in changed for edit in edits(state, seen[state.model])]
        cause = "; ".join(f"{edit.model}@{edit.alias} was set to {edit.found} by hand" for edit in said)
        cause = cause or f"MLflow lags behind the ledger: {', '.join(state.model for state in behind)}"
        # An incident may come back, and a run may fail: a key a window, not an incident.
        window = int(datetime.now(UTC).timestamp() // EVERY_S)
        request = dg.RunRequest(run_key=str(window), tags={DECISION: RECONCILE, "pilotage/looks_because": cause[:250]})
        return dg.SensorResult(run_requests=[request])

    return watch


def _both(store: str, known: Mapping[str, "ModelState"]) -> str:
    """The cursor, unless MLflow lags: how its store and the ledger were when they agreed."""
    return f"{store}; {', '.join(f'{name} {state.sequence}' for name, state in known.items())}"


def _shown(models: Iterable[str], known: Mapping[str, "ModelState"]) -> str:
    from pilotage.release.aliases import aliases_of

    return ", ".join(f"{name} {aliases_of(known[name])}" for name in models if name in known) or "no model"
