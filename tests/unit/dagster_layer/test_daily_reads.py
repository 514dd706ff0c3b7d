"""Daily sources that no file announces are read every night, with the days that are missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.ingestion import source_assets
from jobs.catalogue import all_jobs
from jobs.nightly import TABLES_AT, all_schedules
from pilotage.data.lake import Lake
from pilotage.data.source import Daily, RestEndpoint, SourceSpec, SqlTable
from pilotage.run_tags import CAUSE, NIGHT, RANGE_FIRST, RANGE_LAST, SOURCE
from resources.platform_home import PlatformHome
from tests.unit.data.landing import source

NIGHT_OF = datetime(2026, 3, 10, 3, 30, tzinfo=UTC)
REST = RestEndpoint(url="http://127.0.0.1/{day}", records="rows")
SQL = SqlTable(url_setting="loans", table="trips", cursor="delay")


def trips(read: RestEndpoint | SqlTable, first: date, last: date | None = None) -> SourceSpec:
    return source(read=read, daily=Daily(column="day", first=first, last=last))


def hold(home: Path, table: str, *days: date) -> None:
    frame = pl.DataFrame({"day": days, "x": 1}, schema={"day": pl.Date, "x": pl.Int64})
    Lake(str(home / "lake")).replace_days(table, frame, days, note={})


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


def evaluate(spec: SourceSpec, instance: dg.DagsterInstance, home: Path) -> Any:
    (schedule,) = (item for item in all_schedules({"trips": spec}, {}) if item.name == "daily_trips")
    platform = PlatformHome(home=str(home))
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=NIGHT_OF, resources={"platform": platform}
    ) as context:
        return schedule(context)


def ranges(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return [(request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) for request in requests]


@pytest.mark.parametrize("read", [REST, SQL])
def test_the_definitions_read_a_daily_source_every_night(read: RestEndpoint | SqlTable) -> None:
    sources = {"trips": trips(read, date(2026, 1, 1))}
    definitions = dg.Definitions(
        assets=source_assets(sources["trips"]),
        jobs=[job for job in all_jobs(sources, {}) if job.name == "ingest_trips"],
        schedules=[item for item in all_schedules(sources, {}) if item.name == "daily_trips"],
        resources={"platform": PlatformHome(home="nowhere")},
    )
    schedule = definitions.resolve_schedule_def("daily_trips")

    assert schedule.cron_schedule == TABLES_AT
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    selected = definitions.resolve_job_def(schedule.job_name).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == {"raw/trips", "validated/trips", "quarantine/trips"}


def test_yesterday_is_read_and_the_days_without_rows_before_it(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    hold(tmp_path, "raw/trips", *(date(2026, 3, day) for day in (1, 2, 5, 6, 9)))

    requests = evaluate(trips(REST, date(2026, 3, 1)), instance, tmp_path)

    assert ranges(requests) == [("2026-03-03", "2026-03-04"), ("2026-03-07", "2026-03-09")]
    assert requests[0].run_key == "trips-2026-03-10-2026-03-03"
    assert (requests[0].tags[CAUSE], requests[0].tags[NIGHT], requests[0].tags[SOURCE]) == (
        "nightly",
        "2026-03-10",
        "trips",
    )


def test_an_endpoint_is_asked_for_a_month_and_no_longer(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    requests = evaluate(trips(REST, date(2020, 1, 1)), instance, tmp_path)
    assert ranges(requests) == [("2026-02-08", "2026-03-09")]


def test_a_table_is_checked_for_its_days_that_never_were_and_for_the_last_week(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    first = date(2026, 1, 1)
    spec = trips(SQL, first)
    assert ranges(evaluate(spec, instance, tmp_path)) == [("2026-01-01", "2026-03-09")]

    hold(tmp_path, "verdict/trips", *(first + timedelta(days=offset) for offset in range(60)))

    assert ranges(evaluate(spec, instance, tmp_path)) == [("2026-03-02", "2026-03-09")]


@pytest.mark.parametrize(("first", "last"), [(date(2026, 3, 10), None), (date(2025, 1, 1), date(2025, 12, 31))])
def test_a_source_without_a_day_to_read_is_skipped_with_the_reason(
    instance: dg.DagsterInstance, tmp_path: Path, first: date, last: date | None
) -> None:
    answer = evaluate(trips(REST, first, last), instance, tmp_path)
    assert "No day of trips is left to read" in answer.skip_message
