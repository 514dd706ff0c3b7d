"""Jobs around the service: its log into the lake, its answers checked for skew, and rows scored in bulk."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.lineage import model_key
from assets.predictions import LOG, STEPS
from pilotage.data.source import SourceSpec
from pilotage.declaration import within
from pilotage.run_tags import CAUSE, DECISION, MODEL
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from jobs.catalogue import Job

MOVE = "move_prediction_log"
SKEW_AT = "30 2 * * *"
"""At night, over the last seven days' answers."""
_BY_HAND = {CAUSE: "manual"}


def serving_jobs(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> Iterator["Job"]:
    """The move of the log, then for each model its skew check and its bulk scoring."""
    moved = [model_key(spec.name, step) for spec in models.values() for step in STEPS]
    yield dg.define_asset_job(
        MOVE,
        selection=dg.AssetSelection.assets(LOG, *moved),
        description=(
            "Moves what the service has logged into the lake: sealed segments, and those of workers that died. A "
            "sensor launches it; to launch it by hand moves at once."
        ),
        tags={DECISION: "move_log"},
    )
    for spec in models.values():
        yield dg.define_asset_job(
            f"skew_{spec.name}",
            selection=dg.AssetSelection.assets(model_key(spec.name, "serving_skew")),
            description=f"Computes a sample of what {within(spec.title)} answered again from the lake, and compares.",
            tags=_BY_HAND | {MODEL: spec.name},
        )
        days = ", for a day or a range of days" if sources[spec.source].daily else ""
        yield dg.define_asset_job(
            f"score_{spec.name}",
            selection=dg.AssetSelection.assets(model_key(spec.name, "scores")),
            description=f"Scores rows of {spec.source} in the lake with the champion{days}.",
            tags=_BY_HAND | {MODEL: spec.name},
        )


def serving_schedules(models: Mapping[str, ModelSpec]) -> Iterator[dg.ScheduleDefinition]:
    """Running on a fresh instance, without a click."""
    for spec in models.values():
        yield _skew(spec)


def _skew(spec: ModelSpec) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"nightly_skew_{spec.name}",
        job_name=f"skew_{spec.name}",
        cron_schedule=SKEW_AT,
        execution_timezone=spec.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Checks the answers of {within(spec.title)} for skew, if there are new ones in the lake.",
    )
    def nightly_skew(context: dg.ScheduleEvaluationContext, platform: PlatformHome) -> dg.RunRequest | dg.SkipReason:
        table, lake = f"predictions/{spec.name}", platform.lake
        if not lake.exists(table):
            return dg.SkipReason(f"There is no {table} in the lake yet: the service has answered nothing.")
        checked = context.instance.get_latest_materialization_event(model_key(spec.name, "serving_skew"))
        newest = lake.history(table, limit=1)[0]["timestamp"] / 1000
        if checked is not None and newest <= checked.timestamp:
            return dg.SkipReason(f"Nothing new: no answer came into {table} since the last check.")
        night = context.scheduled_execution_time.date().isoformat()
        return dg.RunRequest(run_key=f"skew-{spec.name}-{night}", tags={CAUSE: "nightly"})

    return nightly_skew
