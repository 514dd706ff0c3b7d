"""The nightly look at every model in use: what became of its answers, and whether labels, inputs or groups moved."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.lineage import model_key
from assets.performance import monitored_steps
from pilotage.declaration import within
from pilotage.monitoring.labels import label_source
from pilotage.run_tags import CAUSE, MODEL, NIGHT
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from jobs.catalogue import Job

MONITORED_AT = "45 3 * * *"
"""Before models are trained again, so that a defect of the labels is known by then."""


def monitoring_jobs(models: Mapping[str, ModelSpec]) -> Iterator["Job"]:
    """One job a model."""
    for spec in models.values():
        steps = [*monitored_steps(spec), *(["drift_report"] if spec.drift else [])]
        measured = ["performance", "KPI", *(["fairness"] if spec.protected else []), *(["drift"] if spec.drift else [])]
        yield dg.define_asset_job(
            f"monitor_{spec.name}",
            selection=dg.AssetSelection.assets(*(model_key(spec.name, step) for step in steps)),
            description=(
                f"Collects what became of the predictions of {within(spec.title)}, judges the labels, and measures "
                f"{', '.join(measured[:-1])} and {measured[-1]}."
            ),
            tags={CAUSE: "manual", MODEL: spec.name},
        )


def monitoring_schedules(models: Mapping[str, ModelSpec]) -> Iterator[dg.ScheduleDefinition]:
    """Running on a fresh instance, without a click."""
    for spec in models.values():
        yield _nightly(spec)


def _nightly(spec: ModelSpec) -> dg.ScheduleDefinition:
    about = label_source(spec)
    tables = [f"predictions/{spec.name}", f"shadows/{spec.name}", f"outcomes/{spec.name}"]
    tables += [] if about is None else [about.table]
    tables += [] if spec.drift is None else [f"features/{spec.name}"]

    @dg.schedule(
        name=f"nightly_monitoring_{spec.name}",
        job_name=f"monitor_{spec.name}",
        cron_schedule=MONITORED_AT,
        execution_timezone=spec.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Looks at {within(spec.title)} in use, if there is something new to look at in the lake.",
    )
    def nightly_monitoring(
        context: dg.ScheduleEvaluationContext, platform: PlatformHome
    ) -> dg.RunRequest | dg.SkipReason:
        lake = platform.lake
        if not lake.exists(tables[0]):
            return dg.SkipReason(f"There is no {tables[0]} in the lake yet: the service has answered nothing.")
        measured = context.instance.get_latest_materialization_event(model_key(spec.name, "performance"))
        newest = max(lake.history(table, limit=1)[0]["timestamp"] / 1000 for table in tables if lake.exists(table))
        if measured is not None and newest <= measured.timestamp:
            return dg.SkipReason("Nothing new: no answer and no outcome came into the lake since the last look.")
        night = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(run_key=f"monitor-{spec.name}-{night}", tags={CAUSE: "nightly", NIGHT: night})

    return nightly_monitoring
