"""What alarms about a champion ask for: a retraining, or a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pilotage.policy import Drift
from pilotage.run_tags import ATTEMPT
from pilotage.testing.bundles import make_bundle
from sensors.retraining_alarms import alarm_sensor
from tests.unit.dagster_layer.retraining_house import MODEL_NAME, House
from tests.unit.release.lives import draft, registered


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path / "home", instance)


def failed_check(
    house: House, asset: str, name: str, why: str, severity: Any = dg.AssetCheckSeverity.WARN, **metadata: Any
) -> None:
    key = dg.AssetKey([MODEL_NAME, asset])
    told = {
        name: dg.MetadataValue.int(v) if isinstance(v, int) else dg.MetadataValue.text(v)
        for name, v in metadata.items()
    }
    house.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=key, check_name=name, passed=False, severity=severity, description=why, metadata=told
        )
    )


@pytest.fixture
def in_use(house: House, tmp_path: Path) -> House:
    sha256 = make_bundle(tmp_path / "bundle")
    house.happens(
        registered(MODEL_NAME, 1, bundle=str(tmp_path / "bundle"), sha256=sha256),
        draft("promoted", 1, model=MODEL_NAME, how="by hand"),
    )
    return house


def test_performance_that_suffers_asks_with_its_evidence(in_use: House) -> None:
    assert in_use.said(alarm_sensor(in_use.spec)) == "No alarm is open."
    failed_check(in_use, "performance", "as_promised", "auc is 0.61, at least 0.78 was asked.")
    [request] = in_use.tick(alarm_sensor(in_use.spec)).run_requests
    in_use.run(f"retrain_{MODEL_NAME}", run_config=request.run_config)
    opened = in_use.state.retraining.open
    assert opened is not None
    assert (opened.causes, opened.asks[0].alarm) == (("performance",), "performance of version 1")
    assert opened.asks[0].evidence["checks"][0]["check"] == "as_promised"
    assert "is open for performance of version 1" in in_use.said(alarm_sensor(in_use.spec))


def test_a_failed_check_counts_until_the_run_that_looks_again_has_its_result(in_use: House) -> None:
    failed_check(in_use, "performance", "as_promised", "auc is 0.61.")
    in_use.instance.create_run_for_job(in_use.defs.resolve_job_def(f"monitor_{MODEL_NAME}"))
    planned = in_use.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(dg.AssetKey([MODEL_NAME, "performance"]), "as_promised")
    )
    assert planned is not None and planned.status.value == "PLANNED"
    [request] = in_use.tick(alarm_sensor(in_use.spec)).run_requests
    [asked] = request.run_config["ops"][f"ask_for_retrain_{MODEL_NAME}"]["config"]["evidence"]["checks"]
    assert (asked["check"], asked["why"]) == ("as_promised", "auc is 0.61.")


def materialized(house: House, asset: str, **metadata: int) -> None:
    house.instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey([MODEL_NAME, asset]), metadata=metadata)
    )


def test_an_alarm_waits_until_there_are_enough_labels_that_the_last_training_did_not_have(in_use: House) -> None:
    failed_check(in_use, "performance", "as_promised", "auc is 0.61.")
    materialized(in_use, "training_set", **{"dagster/row_count": 4000})
    materialized(in_use, "label_quality", new_labels=12)
    assert in_use.said(alarm_sensor(in_use.spec)) == (
        "12 labelled rows are new since the last training; 200 are needed to learn from."
    )
    materialized(in_use, "label_quality", new_labels=200)
    assert len(in_use.tick(alarm_sensor(in_use.spec)).run_requests) == 1
    # What was counted before a training says nothing of what came after it.
    materialized(in_use, "label_quality", new_labels=12)
    materialized(in_use, "training_set", **{"dagster/row_count": 4200})
    assert len(in_use.tick(alarm_sensor(in_use.spec)).run_requests) == 1


def ask_run(house: House, request: dg.RunRequest, status: dg.DagsterRunStatus) -> str:
    job = house.defs.resolve_job_def(f"retrain_{MODEL_NAME}")
    return house.instance.create_run_for_job(job, tags=request.tags, status=status).run_id


def test_an_ask_whose_run_failed_is_asked_again_under_another_key_after_a_pause(
    in_use: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_check(in_use, "performance", "as_promised", "auc is 0.61.")
    sensor = alarm_sensor(in_use.spec)
    [first] = in_use.tick(sensor).run_requests
    ask_run(in_use, first, dg.DagsterRunStatus.STARTED)
    [same] = in_use.tick(sensor).run_requests
    assert same.run_key == first.run_key, "Dagster launches no second one"
    failed = ask_run(in_use, first, dg.DagsterRunStatus.FAILURE)
    assert in_use.said(sensor).startswith(
        f"Run {failed[:8]} failed to record it, and it is tried again 1 min after it."
    )
    monkeypatch.setattr("sensors.retraining_alarms.pause_before", lambda _: timedelta(0))
    [second] = in_use.tick(sensor).run_requests
    assert (second.run_key == first.run_key, second.tags[ATTEMPT]) == (False, "2")
    assert second.run_config == first.run_config
    done = ask_run(in_use, second, dg.DagsterRunStatus.SUCCESS)
    assert in_use.said(sensor).startswith(f"Run {done[:8]} recorded it.")


def test_a_check_about_the_champion_before_asks_for_nothing(in_use: House) -> None:
    failed_check(in_use, "performance", "as_promised", "auc is 0.61.", version=7)
    failed_check(in_use, "drift_report", "expected_performance", "It will cost more.", version=7)
    assert in_use.said(alarm_sensor(in_use.spec)) == "No alarm is open."
    failed_check(in_use, "performance", "as_estimated", "0.2 nats above its estimate.", version=1)
    [request] = in_use.tick(alarm_sensor(in_use.spec)).run_requests
    [asked] = request.run_config["ops"][f"ask_for_retrain_{MODEL_NAME}"]["config"]["evidence"]["checks"]
    assert (asked["check"], asked["version"]) == ("as_estimated", 1)


@pytest.fixture
def drifting(in_use: House) -> House:
    in_use.__dict__["spec"] = in_use.spec.model_copy(update={"drift": Drift(window=timedelta(days=7))})
    return in_use


def test_drift_asks_with_its_day_only_where_performance_is_expected_to_suffer(drifting: House) -> None:
    failed_check(drifting, "drift_report", "stable_inputs", "Incomes moved.", version=1, alarm_since="2024-05-06")
    assert drifting.said(alarm_sensor(drifting.spec)) == "Performance is not expected to suffer. Incomes moved."
    failed_check(drifting, "drift_report", "expected_performance", "Costs more.", version=1, alarm_since="2024-05-06")
    [request] = drifting.tick(alarm_sensor(drifting.spec)).run_requests
    asked = request.run_config["ops"][f"ask_for_retrain_{MODEL_NAME}"]["config"]
    assert (asked["cause"], asked["evidence"]["since"]) == ("drift", "2024-05-06")
    assert asked["evidence"]["alarm"] == "drift of version 1 since 2024-05-06"


def test_a_truth_that_moved_behind_the_inputs_asks_for_nothing_and_dates_what_performance_asks_for(
    drifting: House,
) -> None:
    since = {"version": 1, "alarm_since": "2024-05-06"}
    failed_check(drifting, "drift_report", "stable_predictions_and_labels", "The truth itself moved.", **since)
    assert drifting.said(alarm_sensor(drifting.spec)).endswith("The truth itself moved.")
    failed_check(drifting, "performance", "as_estimated", "0.2 nats above its estimate.", version=1)
    [request] = drifting.tick(alarm_sensor(drifting.spec)).run_requests
    asked = request.run_config["ops"][f"ask_for_retrain_{MODEL_NAME}"]["config"]
    assert (asked["cause"], asked["evidence"]["since"]) == ("performance", "2024-05-06")


def test_labels_that_may_not_be_learned_from_block_and_call_a_person_once(in_use: House) -> None:
    failed_check(in_use, "performance", "as_promised", "auc is 0.61.")
    error = dg.AssetCheckSeverity.ERROR
    failed_check(in_use, "label_quality", "label_rate", "97 % of the labels are true.", error)
    [request] = in_use.tick(alarm_sensor(in_use.spec)).run_requests
    for _ in range(2):
        in_use.run(f"retrain_{MODEL_NAME}", run_config=request.run_config)
    assert in_use.state.retraining.open is None
    [call] = in_use.state.retraining.calls
    assert (call.about, call.evidence["labels"][0]["why"]) == ("labels", "97 % of the labels are true.")
    assert in_use.said(alarm_sensor(in_use.spec)).startswith("A person was called for labels.")
