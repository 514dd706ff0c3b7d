"""The nightly schedules: SQL and REST sources are read, and every model that declares it is to be trained again."""

from collections.abc import Iterator, Mapping

import dagster as dg

from assets.lineage import model_key
from jobs.daily_reads import daily_reads
from jobs.monitoring import monitoring_schedules
from jobs.retraining import ask_job_name, wish
from jobs.serving import serving_schedules
from pilotage.data.source import Files, SourceSpec
from pilotage.declaration import within
from pilotage.run_tags import CAUSE, NIGHT
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

TABLES_AT = "30 3 * * *"
"""Before the first retraining, so that it sees last night's rows."""


def all_schedules(
    sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]
) -> Iterator[dg.ScheduleDefinition]:
    """Running on a fresh instance, without a click."""
    if any(not spec.daily and not isinstance(spec.read, Files) for spec in sources.values()):
        yield dg.ScheduleDefinition(
            name="nightly_tables",
            job_name="ingest_tables",
            cron_schedule=TABLES_AT,
            tags={CAUSE: "nightly"},
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Reads new rows of SQL and REST sources without days.",
        )
    yield from daily_reads(sources, models, at=TABLES_AT)
    yield dg.ScheduleDefinition(
        name="hourly_audit",
        job_name="audit_ledger",
        cron_schedule="7 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Verifies the ledger of decisions, and notes its head where nobody can change both.",
    )
    yield from serving_schedules(models)
    yield from monitoring_schedules(models)
    for spec in models.values():
        if spec.retraining.schedule:
            yield _retraining(spec, daily=sources[spec.source].daily is not None)


def _retraining(spec: ModelSpec, *, daily: bool) -> dg.ScheduleDefinition:
    # A daily model is trained from its features; a model of a table makes them again, so its source says what is new.
    trained_from = f"features/{spec.name}" if daily else f"raw/{spec.source}"

    @dg.schedule(
        name=f"nightly_{spec.name}",
        job_name=ask_job_name(spec.name),
        cron_schedule=str(spec.retraining.schedule),
        execution_timezone=spec.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            f"Asks for a retraining of {within(spec.title)} when {trained_from} has changed since the last training."
        ),
    )
    def nightly(context: dg.ScheduleEvaluationContext, platform: PlatformHome) -> dg.RunRequest | dg.SkipReason:
        lake = platform.lake
        if not lake.exists(trained_from):
            return dg.SkipReason(f"There is no {trained_from} in the lake yet: land and ingest data first.")
        version = lake.version(trained_from)
        seen = last_trained_from(context.instance, spec.name, trained_from)
        if seen is not None and version <= seen:
            return dg.SkipReason(f"Nothing new: {trained_from} is still at version {version}, as last trained on.")
        night = context.scheduled_execution_time.date().isoformat()
        known = "never trained on" if seen is None else f"last trained on at version {seen}"
        asks = wish(
            spec.name,
            cause="nightly",
            actor="schedule",
            why=f"The night of {night}: {trained_from} is at version {version}, {known}.",
            evidence={"night": night, "table": trained_from, "version": version, "trained_on": seen},
            once=night,
        )
        return dg.RunRequest(run_key=f"{spec.name}-{night}", run_config=asks, tags={NIGHT: night})

    return nightly


def last_trained_from(instance: dg.DagsterInstance, model: str, table: str) -> int | None:
    """Version of a lake table that the last training set was made from; ``None`` if there was none."""
    event = instance.get_latest_materialization_event(model_key(model, "training_set"))
    if event is None or event.asset_materialization is None:
        return None
    versions = event.asset_materialization.metadata.get("lake_versions")
    value = getattr(versions, "data", getattr(versions, "value", None)) if versions else None
    return int(value[table]) if isinstance(value, dict) and table in value else None
