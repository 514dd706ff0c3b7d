"""The open request of a model → a run of its training; and runs that are lost → a run that tells the ledger.

Both read the ledger and Dagster's runs, compare, and write nothing: a tick may be repeated, and its cursor reset.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from jobs.retraining import PUT_RIGHT, launches, stands, tags_of_attempt, watch_job_name
from pilotage.declaration import within
from pilotage.run_tags import DECISION
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome
from sensors.asking import UNDER_WAY, skipped
from sensors.windows import Window

EVERY_S = 30
"""Seconds between two looks at requests and attempts."""
WATCH_EVERY = timedelta(hours=1)
"""Between two looks at a new champion: labels take hours to come, and each look is a run on record."""


def retraining_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """Starts the next attempt of the open request, when it is due. To stop it stops the model's retraining."""

    @dg.sensor(
        name=f"retrain_{spec.name}",
        job_name=f"train_{spec.name}",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Starts a run of `train_{spec.name}` for the open request to retrain {within(spec.title)}: one at a "
            f"time, at most {spec.retraining.at_most} requests within {_hours(spec)} h, each tried "
            f"{spec.retraining.attempts} times if its runs fail."
        ),
    )
    def retrain(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.champions import states
        from pilotage.release.retraining.due import due
        from pilotage.release.retraining.plan import training_of
        from pilotage.release.stages import ModelState

        now = datetime.now(UTC)
        state = states(settings=platform.settings).get(spec.name, ModelState(model=spec.name)).retraining
        wanted, request = due(spec.retraining, state, now), state.open
        if wanted.do != "begin" or request is None:
            return skipped(wanted.why)
        number = len(request.attempts) + 1
        if asked := launches(context.instance, spec.name)(request.number, number):
            told = f"Run {asked[0].run[:8]} was asked for attempt {number} of request {request.number}"
            ended = asked[0].stand != "alive"
            return skipped(f"{told}, and is over: {PUT_RIGHT} sees to it." if ended else f"{told}.")
        people = [ask.actor for ask in request.asks if ask.cause == "manual"]
        training = training_of(spec, request, now=now)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    # A failed run consumes its key for ever; the next attempt has another number.
                    run_key=f"{spec.name}-{request.number}-{number}",
                    run_config={"resources": {"training": {"config": training}}} if training else {},
                    tags=tags_of_attempt(
                        request.number,
                        number,
                        causes=request.causes,
                        actor=people[-1] if people else request.asks[-1].actor,
                        why=" ".join(ask.why for ask in request.asks),
                    ),
                )
            ]
        )

    return retrain


def reconcile_sensor(models: Mapping[str, ModelSpec]) -> dg.SensorDefinition:
    """Notices attempts whose run is over, silent or gone."""

    @dg.sensor(
        name=PUT_RIGHT,
        job_name=PUT_RIGHT,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Notices retraining runs that failed, were cancelled, fell silent or vanished without finishing their "
            f"attempt, and launches `{PUT_RIGHT}`."
        ),
    )
    def watch(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.champions import states
        from pilotage.release.retraining.reconcile import trouble

        now = datetime.now(UTC)
        known = states(settings=platform.settings)
        found = []
        for spec in models.values():
            if (state := known.get(spec.name)) is None:
                continue
            wrong = trouble(
                spec.retraining,
                state.retraining,
                stand_of=stands(context.instance),
                launched=launches(context.instance, spec.name),
                now=now,
            )
            if wrong is not None:
                found.append(f"{spec.name}: {wrong.why}")
        if not found:
            running = [
                f"{name} (attempt {held.number})" for name, state in known.items() if (held := state.retraining.running)
            ]
            return skipped(f"No attempt is lost. Running: {', '.join(running) or 'none'}.")
        if under_way := context.instance.get_runs(dg.RunsFilter(job_name=PUT_RIGHT, statuses=UNDER_WAY), limit=1):
            return skipped(f"Run {under_way[0].run_id[:8]} sees to it. {' '.join(found)}")
        window = int(now.timestamp() // EVERY_S)
        tags = {DECISION: PUT_RIGHT, "pilotage/looks_because": " ".join(found)[:250]}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=str(window), tags=tags)])

    return watch


def watch_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """Looks at a champion against the one before it, or its limit, once an hour while there is something to compare."""

    @dg.sensor(
        name=watch_job_name(spec.name),
        job_name=watch_job_name(spec.name),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Once an hour holds a new champion of {within(spec.title)} against the one before, on labelled answers, "
            "and takes it back if it does worse."
        ),
    )
    def watch(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.champions import states
        from pilotage.release.retraining.watch import to_do
        from pilotage.release.stages import ModelState

        state = states(settings=platform.settings).get(spec.name, ModelState(model=spec.name))
        if (cause := to_do(spec, state)) is None:
            return skipped(f"No champion of {spec.name} is compared with the one before it, or with a limit.")
        if running := context.instance.get_runs(
            dg.RunsFilter(job_name=watch_job_name(spec.name), statuses=UNDER_WAY), limit=1
        ):
            return skipped(f"Run {running[0].run_id[:8]} looks: {cause}.")
        window = Window.at(datetime.now(UTC), every=WATCH_EVERY)
        key = f"{spec.name}-{state.sequence}-{window.number}"
        if looked := window.looked(context.instance, watch_job_name(spec.name), key):
            return skipped(f"{looked}: {cause}.")
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=key, tags={DECISION: "watch", "pilotage/looks_because": cause})]
        )

    return watch


def _hours(spec: ModelSpec) -> str:
    return f"{spec.retraining.per.total_seconds() / 3600:g}"
