"""Dagster's SQLite event log, writing the events of a range of days in one transaction instead of one each.

A run over a year of days writes a materialization for every day and asset: some 5,000 transactions, each with its own
connection and its own wait for the disk. Dagster hands them over in batches when ``DAGSTER_EVENT_BATCH_SIZE`` is set,
and its Postgres storage takes them so; its SQLite storage takes them one by one. Here is that one method.

It leans on how Dagster 1.13.27 keeps SQLite shards; ``tests/contract/test_event_log.py`` holds it to the records that
Dagster's own storage makes of the same events.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import StringSource
from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData


class BatchedSqliteEventLogStorage(SqliteEventLogStorage):
    """Configured in ``dagster.yaml`` with the folder that ``DAGSTER_HOME`` names."""

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {"dagster_home": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchedSqliteEventLogStorage":
        # Where Dagster keeps it by default, so that an instance can change to this storage and back.
        return cls(str(Path(config_value["dagster_home"]) / "history" / "runs"), inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Stores events of one run. As ``store_event`` for each, but asset events in one transaction a shard."""
        batch = [event for event in events if event.dagster_event_type in ASSET_EVENTS]
        # Asset checks are planned in the same batch; there are few, and they have a table of their own.
        super().store_event_batch([event for event in events if event.dagster_event_type not in ASSET_EVENTS])
        if len({event.run_id for event in batch}) != 1:
            super().store_event_batch(batch)
            return
        # Made once: to serialise an event takes as long as to store it, and both shards hold the same row.
        inserts = [self.prepare_insert_event(event) for event in batch]
        with self.run_connection(batch[0].run_id) as connection:
            for insert in inserts:
                connection.execute(insert)
        with self.index_transaction() as connection:
            ids = [connection.execute(insert).lastrowid for insert in inserts]
            self._store_asset_event_tags(connection, batch, ids)
            # An asset's row tells its last event; the ones before it would be written over.
            newest = {event.get_dagster_event().asset_key: number for number, event in enumerate(batch)}
            for number in newest.values():
                self._store_asset_event(connection, batch[number], ids[number])
