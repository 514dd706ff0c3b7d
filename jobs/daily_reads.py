"""The nightly schedules of daily sources that no file announces: endpoints and tables of other systems."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.ingestion import quarantine_key, raw_key, validated_key
from assets.lineage import model_key
from jobs.catalogue import data_steps
from pilotage.data.lake_commits import unbroken
from pilotage.data.source import Daily, Files, SourceSpec, SqlTable
from pilotage.declaration import within
from pilotage.run_tags import CAUSE, NIGHT, RANGE_FIRST, RANGE_LAST, SOURCE
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.data.lake import Lake

MISSING = timedelta(days=30)
"""How far back an endpoint is asked for days that have no rows. Older ones are a backfill by hand."""

LATE = timedelta(days=7)
"""How far back rows of a table may come late: these days are checked again every night."""

DAY = timedelta(days=1)


def daily_reads(
    sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec], *, at: str
) -> Iterator[dg.ScheduleDefinition]:
    """One schedule for each daily source without files.

    Args:
        at: When, as cron.
    """
    for name, spec in sources.items():
        if spec.daily is not None and not isinstance(spec.read, Files):
            fed = [
                model
                for model in models.values()
                if name in model.sources and _same_calendar(spec.daily, sources[model.source].daily)
            ]
            yield _read(spec, spec.daily, fed, at=at)


def _read(spec: SourceSpec, daily: Daily, fed: list[ModelSpec], *, at: str) -> dg.ScheduleDefinition:
    keys = [key(spec.name) for key in (raw_key, validated_key, quarantine_key)]
    keys += [model_key(model.name, step) for model in fed for step in data_steps(model)]

    @dg.schedule(
        name=f"daily_{spec.name}",
        target=dg.AssetSelection.assets(*keys),
        cron_schedule=at,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Reads {within(spec.title)} of yesterday (UTC), and of the days before that are missing.",
    )
    def read(context: dg.ScheduleEvaluationContext, platform: PlatformHome) -> list[dg.RunRequest] | dg.SkipReason:
        night = context.scheduled_execution_time.date()
        days = days_to_read(spec, daily, platform.lake, today=night)
        if not days:
            return dg.SkipReason(
                f"No day of {spec.name} is left to read: it has {daily.first} to {daily.last or night}."
            )
        return [
            dg.RunRequest(
                run_key=f"{spec.name}-{night}-{first}",
                tags={
                    CAUSE: "nightly",
                    NIGHT: str(night),
                    SOURCE: spec.name,
                    RANGE_FIRST: str(first),
                    RANGE_LAST: str(last),
                },
            )
            for first, last in unbroken(days)
        ]

    return read


def days_to_read(spec: SourceSpec, daily: Daily, lake: "Lake", *, today: date) -> list[date]:
    """Yesterday, and the days before it that are missing, sorted: of an endpoint those without rows, of a table those
    that were never checked, and the last ones, of which rows may have come since."""
    end = min(today - DAY, daily.last or today)
    if isinstance(spec.read, SqlTable):
        since, done = daily.first, {day for day in lake.days(f"verdict/{spec.name}") if day <= today - DAY - LATE}
    else:
        since, done = max(daily.first, today - MISSING), set(lake.days(f"raw/{spec.name}")) - {today - DAY}
    span = [since + DAY * offset for offset in range((end - since).days + 1)]
    return [day for day in span if day not in done]


def _same_calendar(one: Daily, other: Daily | None) -> bool:
    return other is not None and (one.first, one.last) == (other.first, other.last)
