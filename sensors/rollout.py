"""A version in shadow or canary → a look of its rollout, at most every minute."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from jobs.rollout import TICK, rollout_job_name
from pilotage.declaration import within
from pilotage.run_tags import DECISION, MODEL
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome
from sensors.asking import UNDER_WAY, skipped
from sensors.windows import Window

EVERY = timedelta(minutes=1)
"""Between two looks in the first hour of a stage, when a version that is worse shows it."""
LATER_EVERY = timedelta(minutes=5)
"""Between two looks after that: a stage lasts days, and each look is a run on record."""
FRESH = timedelta(hours=1)


def rollout_sensor(spec: ModelSpec) -> dg.SensorDefinition:
    """Watches what the ledger says of one model: reads it, and nothing else. To stop it stops the model's rollout."""

    @dg.sensor(
        name=rollout_job_name(spec.name),
        job_name=rollout_job_name(spec.name),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Lets the rollout look at a version of {within(spec.title)} that is in shadow or canary: each minute in "
            "the first hour of a stage, then every five. Also begins the rollout of a new version, where the "
            "model's file says so."
        ),
    )
    def rollout(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from pilotage.release.champions import states
        from pilotage.release.stages import ModelState
        from pilotage.release.tick import idle, to_do

        state = states(settings=platform.settings).get(spec.name, ModelState(model=spec.name))
        cause = to_do(spec, state)
        if cause is None:
            return skipped(f"Nothing to look at: {idle(spec, state)}.")
        if running := _under_way(context.instance, spec.name):
            return skipped(f"Run {running[:8]} looks at {spec.name}: {cause}.")
        now = datetime.now(UTC)
        since = state.under_way.since if state.under_way else now
        window = _window(since=since, now=now)
        request = _request(spec.name, cause, window)
        if looked := window.looked(context.instance, rollout_job_name(spec.name), str(request.run_key)):
            return skipped(f"{looked}: {cause}.")
        return dg.SensorResult(run_requests=[request])

    return rollout


def _window(*, since: datetime, now: datetime) -> Window:
    return Window.at(now, every=EVERY if now - since < FRESH else LATER_EVERY)


def _request(model: str, cause: str, window: Window) -> dg.RunRequest:
    # Of one window only one is launched; the next window is another look, whatever became of this one.
    return dg.RunRequest(
        run_key=f"{model}-{window.every.total_seconds():.0f}-{window.number}",
        tags={DECISION: TICK, MODEL: model, "pilotage/looks_because": cause},
    )


def _under_way(instance: dg.DagsterInstance, model: str) -> str | None:
    runs = instance.get_runs(dg.RunsFilter(job_name=rollout_job_name(model), statuses=UNDER_WAY), limit=1)
    return runs[0].run_id if runs else None
