"""The nightly schedules train when there is something new to learn from, and say why when there is not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.models import load_models
from assets.sources import load_sources
from jobs.catalogue import all_jobs
from jobs.nightly import all_schedules
from pilotage.data.lake import Lake
from pilotage.run_tags import CAUSE, DECISION, NIGHT
from pilotage.settings import Settings
from resources.platform_home import PlatformHome

NIGHT_OF = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Settings.load().model_copy(update={"home": tmp_path}).lake)


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


def evaluate(name: str, instance: dg.DagsterInstance, home: Path) -> Any:
    schedule = next(item for item in all_schedules(load_sources(), load_models()) if item.name == name)
    # Closed at once: its end brings back the instance before it, which must not be one that is gone by then.
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=NIGHT_OF, resources={"platform": PlatformHome(home=str(home))}
    ) as context:
        return schedule(context)


def trained(instance: dg.DagsterInstance, model: str, versions: dict[str, int]) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization([model, "training_set"], metadata={"lake_versions": versions})
    )


def test_a_model_without_features_is_skipped_with_the_reason(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path
) -> None:
    answer = evaluate("nightly_flight_delay", instance, tmp_path)
    assert "no features/flight_delay in the lake yet" in answer.skip_message


def test_a_model_that_was_never_trained_is_asked_for_and_the_wish_says_its_cause(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path
) -> None:
    lake.replace("features/flight_delay", pl.DataFrame({"a": [1]}), note={})
    request = evaluate("nightly_flight_delay", instance, tmp_path)
    assert request.tags == {NIGHT: "2026-11-20"}
    asked = request.run_config["ops"]["ask_for_retrain_flight_delay"]["config"]
    assert (asked["cause"], asked["once"], asked["actor"]) == ("nightly", "2026-11-20", "schedule")
    assert asked["why"] == "The night of 2026-11-20: features/flight_delay is at version 0, never trained on."
    assert request.run_key == "flight_delay-2026-11-20"


def test_a_night_without_new_features_is_skipped_and_one_with_new_ones_is_not(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path
) -> None:
    lake.replace("features/flight_delay", pl.DataFrame({"a": [1]}), note={})
    trained(instance, "flight_delay", {"features/flight_delay": 0})
    assert "still at version 0" in evaluate("nightly_flight_delay", instance, tmp_path).skip_message
    lake.replace("features/flight_delay", pl.DataFrame({"a": [2]}), note={})
    assert isinstance(evaluate("nightly_flight_delay", instance, tmp_path), dg.RunRequest)


def test_a_model_of_a_table_is_trained_when_its_source_has_new_rows(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path
) -> None:
    lake.replace("raw/loans", pl.DataFrame({"loan_id": [1]}), note={})
    trained(instance, "loan_approval", {"features/loan_approval": 5, "raw/loans": 0})
    assert "raw/loans is still at version 0" in evaluate("nightly_loan_approval", instance, tmp_path).skip_message
    lake.replace("raw/loans", pl.DataFrame({"loan_id": [1, 2]}), note={})
    assert isinstance(evaluate("nightly_loan_approval", instance, tmp_path), dg.RunRequest)


def test_every_job_says_manual_for_a_person_and_a_schedule_puts_its_own_cause_over_it() -> None:
    jobs = all_jobs(load_sources(), load_models())
    # What decides, or looks after the service, has no cause: it need not wait for runs that move data or train.
    tags = [dict(job.tags or {}) for job in jobs]  # type: ignore[attr-defined]
    assert {each[CAUSE] for each in tags if DECISION not in each} == {"manual"}
    tables = next(item for item in all_schedules(load_sources(), load_models()) if item.name == "nightly_tables")
    with dg.DagsterInstance.ephemeral() as instance, dg.build_schedule_context(instance, NIGHT_OF) as context:
        [request] = tables.evaluate_tick(context).run_requests or []
    assert request.tags[CAUSE] == "nightly"
