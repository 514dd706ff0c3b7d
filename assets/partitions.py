"""Days as Dagster partitions: the one translation between a declaration's days and Dagster's keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import dagster as dg

from pilotage.data.source import Daily
from pilotage.spec import AsOf, Latest


def daily_partitions(daily: Daily) -> dg.DailyPartitionsDefinition:
    """One partition a day, from the source's first day to its last, if it has one."""
    # Dagster's end_date is exclusive.
    end = None if daily.last is None else (daily.last + timedelta(days=1)).isoformat()
    return dg.DailyPartitionsDefinition(start_date=daily.first.isoformat(), end_date=end)


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """The days that a run was asked for: one, or a range run as a single run."""
    return [date.fromisoformat(key) for key in context.partition_keys]


def tell_rows_of_days(context: dg.AssetExecutionContext, key: dg.AssetKey, rows: Mapping[date, int]) -> None:
    """Each materialized day tells its own number of rows; days without rows tell 0."""
    for day in days_of(context):
        context.add_asset_metadata(
            {"dagster/partition_row_count": rows.get(day, 0)}, asset_key=key, partition_key=day.isoformat()
        )


def reaches_back(items: list[AsOf]) -> dg.TimeWindowPartitionMapping:
    """A day's as-of features read earlier days of a source: as many as the longest window or age covers.

    An unlimited age is drawn as one day: the state that matters most is the newest, and the lineage stays readable.
    """
    spans = [item.max_age or timedelta(days=1) if isinstance(item, Latest) else item.over for item in items]
    days = max((span // timedelta(days=1) + 1 for span in spans), default=0)
    return dg.TimeWindowPartitionMapping(start_offset=-days, end_offset=0, allow_nonexistent_upstream_partitions=True)
