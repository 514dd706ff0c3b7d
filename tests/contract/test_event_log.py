"""The batching event log makes the records that Dagster's own SQLite storage makes of the same run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance import InstanceRef

DAYS = dg.DailyPartitionsDefinition(start_date="2013-01-01", end_date="2013-01-15")
FIRST, LAST = "2013-01-02", "2013-01-11"
OURS = {
    "event_log_storage": {
        "module": "resources.event_log",
        "class": "BatchedSqliteEventLogStorage",
        "config": {"dagster_home": {"env": "DAGSTER_HOME"}},
    }
}


@dg.multi_asset(
    specs=[dg.AssetSpec("a", partitions_def=DAYS), dg.AssetSpec("b", partitions_def=DAYS, deps=["a"])],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("fine", asset="a")],
)
def both(context: dg.AssetExecutionContext) -> Iterator[Any]:
    for number, key in enumerate(context.partition_keys):
        context.add_asset_metadata({"number": number}, asset_key="a", partition_key=key)
    yield dg.MaterializeResult("a", metadata={"shared": "yes"})
    yield dg.MaterializeResult("b")
    yield dg.AssetCheckResult(asset_key=dg.AssetKey("a"), check_name="fine", passed=True)


@contextmanager
def instance(home: Path, overrides: dict[str, Any]) -> Iterator[dg.DagsterInstance]:
    home.mkdir()
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides)) as made:
        yield made


def records(home: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    with instance(home, overrides) as made:
        job = dg.Definitions(assets=[both], jobs=[dg.define_asset_job("j")], executor=dg.in_process_executor)
        result = job.resolve_job_def("j").execute_in_process(
            instance=made,
            tags={"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": LAST},
        )
        stored = [entry for entry in made.all_logs(result.run_id) if entry.is_dagster_event]
        told: dict[str, Any] = {"stored": sorted(str(entry.dagster_event_type) for entry in stored)}
        for name in ("a", "b"):
            key = dg.AssetKey(name)
            rows = made.fetch_materializations(key, limit=100, ascending=True).records
            told[name] = [(row.partition_key, numbers(row.asset_materialization)) for row in rows]
            told[f"{name} partitions"] = made.get_materialized_partitions(key)
            newest = made.get_latest_materialization_event(key)
            told[f"{name} newest"] = newest and newest.asset_materialization and newest.asset_materialization.partition
            told[f"{name} status"] = made.get_status_by_partition(key, DAYS.get_partition_keys(), DAYS)
            # The values of the tags are hashes of the run's id.
            told[f"{name} tags"] = [sorted(tags) for tags in made.get_event_tags_for_asset(key)]
        return told


def numbers(made: dg.AssetMaterialization | None) -> dict[str, Any]:
    metadata = made.metadata if made else {}
    return {label: value.value for label, value in metadata.items() if label in ("number", "shared")}


def test_a_run_over_a_range_of_days_leaves_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "4")
    ours = records(tmp_path / "ours", OURS)
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    theirs = records(tmp_path / "theirs", {})
    assert ours == theirs
    assert [day for day, _ in ours["a"]] == sorted(ours["a partitions"])
    assert len(ours["a"]) == 10
    assert ours["a"][3] == ("2013-01-05", {"number": 3, "shared": "yes"})


def test_an_instance_can_change_to_this_storage_and_keeps_what_it_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    records(home, {})
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=OURS)) as changed:
        assert type(changed.event_log_storage).__name__ == "BatchedSqliteEventLogStorage"
        assert len(changed.get_materialized_partitions(dg.AssetKey("a"))) == 10
