"""What Dagster sees, spelled out by hand: a name that changes breaks operators' bookmarks, runs and alerts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import dagster as dg
import pytest

import definitions
from definitions import build_defs, defs
from resources.platform_home import PlatformHome
from resources.records import RecordIOManager
from resources.training_run import TrainingRun

ROOT = Path(__file__).resolve().parents[3]

SOURCES = ("airlines", "airports", "flights", "loans", "planes", "weather")
FLIGHT_DELAY = (
    "features",
    "online_state",
    "training_set",
    "trained_model",
    "evaluation",
    "registered_version",
    "drift_report",
)
LOAN_APPROVAL = ("features", "training_set", "trained_model", "evaluation", "registered_version")
MONITORED = ("label_quality", "performance", "kpi")
SERVED = ("predictions", "shadows", "outcomes", "serving_skew", "scores")

ASSETS = {f"{layer}/{source}" for layer in ("raw", "validated", "quarantine") for source in SOURCES}
ASSETS |= {"ledger", "prediction_log", "alerts"}
ASSETS |= {f"{model}/{step}" for model in ("flight_delay", "loan_approval") for step in SERVED}
ASSETS |= {f"{model}/{step}" for model in ("flight_delay", "loan_approval") for step in MONITORED}
ASSETS |= {"flight_delay/source_outcomes", "loan_approval/fairness"}
ASSETS |= {f"flight_delay/{step}" for step in FLIGHT_DELAY} | {f"loan_approval/{step}" for step in LOAN_APPROVAL}

DECISIONS = ("kill", "resume", "rollback", "approve", "reject", "shadow", "canary", "promote", "withdraw")
JOBS = {
    *(f"ingest_{source}" for source in SOURCES),
    "ingest_tables",
    "data_flight_delay",
    "features_flight_delay",
    "train_flight_delay",
    "features_loan_approval",
    "train_loan_approval",
    *(f"{decision}_{model}" for decision in DECISIONS for model in ("flight_delay", "loan_approval")),
    "rollout_flight_delay",
    "rollout_loan_approval",
    "reconcile_aliases",
    "audit_ledger",
    "move_prediction_log",
    *(f"{job}_{model}" for job in ("skew", "score", "monitor") for model in ("flight_delay", "loan_approval")),
}
JOBS |= {f"{job}_{model}" for job in ("retrain", "watch") for model in ("flight_delay", "loan_approval")}
JOBS |= {"reconcile_retraining", "deliver_alerts"}
SCHEDULES = {"hourly_audit", "nightly_tables", "nightly_flight_delay", "nightly_loan_approval"}
SCHEDULES |= {"nightly_skew_flight_delay", "nightly_skew_loan_approval"}
SCHEDULES |= {"nightly_monitoring_flight_delay", "nightly_monitoring_loan_approval"}
SENSORS = {"new_files", "prediction_log", "rollout_flight_delay", "rollout_loan_approval", "aliases"}
SENSORS |= {f"{sensor}_flight_delay" for sensor in ("retrain", "retraining_alarms", "watch")}
SENSORS |= {f"{sensor}_loan_approval" for sensor in ("retrain", "retraining_alarms", "watch")}
SENSORS |= {"reconcile_retraining", "heartbeat", "alerts", "run_failures"}

HEAVY = [
    *("bentoml", "deltalake", "duckdb", "evidently", "fairlearn", "great_expectations", "lightgbm"),
    *("matplotlib", "mlflow", "optuna", "pandas", "pandera", "scipy", "sklearn", "sqlalchemy.orm"),
]


def test_the_asset_keys_are_these() -> None:
    assert {key.to_user_string() for key in defs.resolve_all_asset_keys()} == ASSETS


def test_the_jobs_are_these() -> None:
    names = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert names == JOBS


def test_schedules_and_sensors_are_these_and_run_on_a_fresh_instance() -> None:
    repository = defs.get_repository_def()
    assert {schedule.name for schedule in repository.schedule_defs} == SCHEDULES
    assert {sensor.name for sensor in repository.sensor_defs} == SENSORS
    assert all(item.default_status.name == "RUNNING" for item in (*repository.schedule_defs, *repository.sensor_defs))


def test_every_sensor_of_a_platform_in_which_nothing_happens_says_so_in_its_own_words(tmp_path: Path) -> None:
    platform = PlatformHome(home=str(tmp_path))
    overrides = {"platform": platform, "io_manager": RecordIOManager(platform=platform)}
    repository = build_defs(overrides).get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        for sensor in repository.sensor_defs:
            cursor, said = None, ""
            # The first look of a sensor that watches runs only notes from where on it watches.
            for _ in range(2):
                with dg.build_sensor_context(
                    instance=instance, resources={"platform": platform}, cursor=cursor, repository_def=repository
                ) as context:
                    looked = sensor.evaluate_tick(context)
                cursor, said = looked.cursor, str(looked.skip_message)
            assert not looked.run_requests, sensor.name
            assert said.endswith("."), f"{sensor.name}: {said}"
            assert not said.startswith("Sensor function"), f"{sensor.name}: {said}"


def test_every_asset_has_an_owner_a_group_a_kind_and_a_description() -> None:
    for spec in defs.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        assert spec.owners, name
        assert spec.group_name != "default", name
        assert spec.kinds, name
        assert spec.description, name


def test_every_job_and_schedule_and_sensor_says_what_it_is_for() -> None:
    repository = defs.get_repository_def()
    jobs = [job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")]
    for item in (*jobs, *repository.schedule_defs, *repository.sensor_defs):
        assert item.description, item.name


def test_a_title_keeps_its_names_within_a_description() -> None:
    for each in (*(defs.sensors or ()), *(defs.schedules or ()), *(defs.jobs or ())):
        assert "new york" not in str(each.description), each.name


@pytest.mark.parametrize("job", sorted(JOBS))
def test_every_job_resolves_to_a_graph_that_runs_without_configuration(job: str) -> None:
    resolved = defs.resolve_job_def(job)
    assert resolved.graph.node_dict
    assert dg.validate_run_config(resolved, {})


def test_loading_the_code_location_imports_no_heavy_library() -> None:
    code = f"import sys, definitions; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split() == []


def test_a_model_that_reads_an_undeclared_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = definitions.load_sources()
    del sources["planes"]
    monkeypatch.setattr(definitions, "load_sources", lambda: sources)
    with pytest.raises(Exception, match=r"assets/models/flight_delay\.py reads the source 'planes'"):
        definitions.build_defs()


def test_the_launchpad_describes_every_field_of_a_training_run() -> None:
    def undescribed(model: type[dg.Config], path: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            missing += [] if field.description else [f"{path}{name}"]
            inner = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
            for part in inner:
                if issubclass(part, dg.Config):
                    missing += undescribed(part, f"{path}{name}.")
        return missing

    assert undescribed(TrainingRun, "") == []


def test_a_step_loads_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    code = f"""
import sys
from datetime import date
from pilotage.data import sample
from pilotage.settings import Settings
import dagster as dg
from definitions import build_defs, defs
from resources.platform_home import PlatformHome
settings = Settings.load()
sample.publish_flights(settings.landing, first=date(2013, 1, 1), last=date(2013, 1, 1))
job = defs.resolve_job_def("ingest_flights")
job.execute_in_process(partition_key="2013-01-01", op_selection=["raw__flights"])
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PILOTAGE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.split() == ["deltalake"]
