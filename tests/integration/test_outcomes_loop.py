"""From answers to what became of them, as Dagster assets: collected, judged, measured, and told to people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.labels import CHECKS
from assets.performance import monitored_steps, performance_assets
from jobs.monitoring import monitoring_jobs, monitoring_schedules
from pilotage.data.query import query
from pilotage.features.state import microseconds
from pilotage.monitoring.alerts import AlertBook
from pilotage.monitoring.label_quality import label_quality
from pilotage.spec import Fairness, Gate, ModelSpec
from resources.platform_home import PlatformHome
from tests.unit.monitoring.logs import outcome
from tests.unit.monitoring.used_world import TOOK, Used, used_spec

DAYS = 40


class House:
    """The monitoring assets of one model, in an instance of their own."""

    def __init__(self, used: Used, instance: dg.DagsterInstance) -> None:
        self.used, self.instance = used, instance
        self.resources = {"platform": PlatformHome(home=str(used.settings.home))}
        self.spec: ModelSpec = used.spec

    def look(self) -> dg.ExecuteInProcessResult:
        return dg.materialize(performance_assets(self.spec), instance=self.instance, resources=self.resources)

    @staticmethod
    def metadata(result: dg.ExecuteInProcessResult, step: str) -> dict[str, Any]:
        [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["tiny", step])]
        return {name: value.value for name, value in event.materialization.metadata.items()}

    @staticmethod
    def failed(result: dg.ExecuteInProcessResult) -> dict[str, str]:
        return {
            found.check_name: found.description or ""
            for found in result.get_asset_check_evaluations()
            if not found.passed
        }

    def alarms(self) -> set[tuple[str, str]]:
        with AlertBook.of(self.used.settings) as book:
            return {(alarm.alert.kind, alarm.alert.subject) for alarm in book.alarms() if alarm.open}

    def tick(self) -> Any:
        [schedule] = monitoring_schedules({"tiny": self.spec})
        with dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=self.used.now, resources=self.resources
        ) as context:
            return schedule(context)


def home(path: Path, **changes: Any) -> Used:
    spec = used_spec(protected=("old",), fairness=Fairness(min_group=20), **changes)
    used = Used(path, days=DAYS, a_day=60, spec=spec)
    used.orders = used.orders.with_columns(old=pl.int_range(pl.len()) % 2)
    return used


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.instance_for_test() as instance:
        yield House(home(tmp_path / "home"), instance)


def test_a_night_collects_judges_and_measures_and_the_next_one_measures_what_is_new(house: House) -> None:
    used = house.used
    assert house.tick().skip_message.startswith("There is no predictions/tiny")
    used.serve(shadow_too=True)
    used.tell(used.orders.filter(pl.col("day") < used.day(DAYS - 1)))
    assert house.tick().run_key == f"monitor-tiny-{used.now.date()}"
    first = house.look()
    assert house.failed(first) == {}
    known = used.orders.filter(pl.col("day") < used.day(DAYS - 1), ~pl.col("cancelled")).height
    collected = house.metadata(first, "source_outcomes")
    assert (collected["new"], collected["corrected"]) == (known - collected_before(used), 0)
    labels = house.metadata(first, "label_quality")
    assert labels["coverage_6h"] > 0.95
    assert labels["lag_median_h"] == 5.0
    assert labels["plot: labels"].startswith("![labels](data:image/png;base64,")
    measured = house.metadata(first, "performance")
    assert 0.6 < measured["auc_28d"] < 1
    assert measured["estimated_log_loss"] == pytest.approx(measured["log_loss_28d"], abs=0.1)
    assert measured["side_by_side"].records[0].data["version"] == 2
    assert {row.data["metric"] for row in measured["estimates"].records} == {
        "auc",
        "brier",
        "expected_cost",
        "log_loss",
    }
    kpi = house.metadata(first, "kpi")
    assert kpi["value_28d"] == pytest.approx(measured["expected_cost_28d"])
    fairness = house.metadata(first, "fairness")
    assert abs(fairness["old_selection_rate_difference"]) < 0.15

    used.tell()
    second = house.look()
    assert house.metadata(second, "source_outcomes")["new"] == used.orders.tail(60)["is_late"].count()
    assert house.metadata(second, "performance")["days_measured"] == str(used.day(DAYS - 1))
    assert house.tick().skip_message.startswith("Nothing new")
    assert house.alarms() == set()
    told = query(
        used.lake, "SELECT count(*) AS n FROM performance.tiny WHERE days = 1 AND metric = 'auc' AND value IS NOT NULL"
    )
    assert told["n"][0] >= 28


def collected_before(used: Used) -> int:
    """Labels of predictions that are older than the patience: nobody looks them up any more."""
    newest = used.orders["ordered_at"].max()
    old = used.orders.filter(~pl.col("cancelled"), pl.col("ordered_at") < newest - used.spec.outcomes.patience)
    return old.height


def test_a_broken_label_feed_is_told_blocks_retraining_and_is_over_when_it_is_mended(house: House) -> None:
    used = house.used
    used.serve()
    newest = pl.col("day") == used.day(DAYS - 1)
    used.tell(used.orders.with_columns(is_late=pl.when(newest).then(~pl.col("cancelled")).otherwise("is_late")))
    broken = house.look()
    assert "label_rate" in house.failed(broken)
    assert house.metadata(broken, "label_quality")["blocking_defects"] >= 1
    assert ("label_quality", "label_rate") in house.alarms()
    where = {"settings": used.settings, "lake": used.lake}
    assert [defect.kind for defect in label_quality(used.spec, **where) if defect.blocks] == ["label_rate"]

    used.tell()
    mended = house.look()
    # The source corrected itself: it is taken at its last word, and nothing is left to clear up.
    assert house.failed(mended).keys() & CHECKS.keys() == set()
    assert house.metadata(mended, "label_quality")["contested"] == 0
    assert (
        house.metadata(mended, "source_outcomes")["corrected"] == used.orders.filter(newest, ~pl.col("is_late")).height
    )
    assert label_quality(used.spec, **where) == []
    with AlertBook.of(used.settings) as book:
        [alarm] = [alarm for alarm in book.alarms() if alarm.alert.subject == "label_rate"]
    assert (alarm.open, alarm.clears) == (True, 1), "it is over once it stays away"


def test_a_model_that_breaks_its_promises_is_an_alarm_for_each_with_its_run_and_what_to_do(tmp_path: Path) -> None:
    kpi = used_spec().kpi.model_copy(update={"baseline": 0.9, "target": 0.1})
    used = home(tmp_path / "home", gate=Gate(at_least={"auc": 0.7}, at_most={"brier": 0.2}), kpi=kpi)
    # It decides by the protected column alone, and is sure of itself.
    used.orders = used.orders.with_columns(probability=pl.when(pl.col("old") == 1).then(0.95).otherwise(0.02))
    used.serve()
    used.tell()
    with dg.instance_for_test() as instance:
        house = House(used, instance)
        looked = house.look()
    said = house.failed(looked)
    assert "auc is 0.5" in said["as_promised"] and "at least 0.7 was asked" in said["as_promised"]
    assert "at most 0.2 was asked" in said["as_promised"]
    assert "nats off its estimate" in said["as_estimated"]
    assert "the target is 0.1, 0.9 without the model" in said["meets_target"]
    assert "selection" in said["alike"]
    kpi_told = house.metadata(looked, "kpi")
    assert kpi_told["gain_28d"] == pytest.approx(0.9 - kpi_told["value_28d"])
    with AlertBook.of(used.settings) as book:
        alarms = {(alarm.key.kind, alarm.key.subject): alarm.alert for alarm in book.alarms()}
    assert alarms.keys() >= {
        ("performance", "as_promised"),
        ("performance", "as_estimated"),
        ("performance", "meets_target"),
        ("fairness", "alike"),
    }
    for (kind, _), alert in alarms.items():
        assert alert.run_url.endswith(f"/runs/{looked.run_id}")
        assert alert.runbook.startswith("docs/runbooks/alerts.md#" + kind)


def test_outcomes_whose_prediction_never_came_are_listed_for_weeks_though_nothing_is_moved(house: House) -> None:
    used = house.used
    used.serve(used.orders.head(5))
    ages = {1: timedelta(days=2), 2: timedelta(days=35), 3: timedelta(days=90)}
    now = datetime.now(UTC)
    used.log(
        [
            outcome(each, prediction_id=f"never-{each}", received_at=microseconds(now - ago))
            for each, ago in ages.items()
        ]
    )
    told = house.metadata(house.look(), "label_quality")
    assert (told["outcomes_waiting"], told["outcomes_unknown"]) == (1, 1)
    [row] = told["unknown"].records
    assert (row.data["prediction_id"], row.data["caller"]) == ("never-2", "key-1")


def test_labels_that_the_last_training_did_not_have_are_counted_for_whoever_asks_for_another(house: House) -> None:
    used = house.used
    used.serve()
    used.tell()
    assert "new_labels" not in house.metadata(house.look(), "label_quality"), "nothing was trained yet"
    known = pl.col("ordered_at") + TOOK
    rows = used.orders.select("order_id", "day", event_time="ordered_at", label="is_late", label_known_at=known)
    used.lake.replace_days("features/tiny", rows, sorted(set(rows["day"])), note={})
    told: dict[str, Any] = {"dagster/row_count": 2000, "last_day": str(used.day(DAYS - 4))}
    house.instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey(["tiny", "training_set"]), metadata=told)
    )
    new = rows.filter(pl.col("day") > used.day(DAYS - 4))["label"].count()
    assert house.metadata(house.look(), "label_quality")["new_labels"] == new > 100


def test_outcomes_of_the_endpoint_and_of_the_source_measure_the_same(tmp_path: Path) -> None:
    told_by_source, told_by_application = home(tmp_path / "a"), home(tmp_path / "b")
    told_by_source.serve()
    told_by_source.tell()
    told_by_application.serve()
    told_by_application.log(
        [
            outcome(
                number,
                outcome_id=f"o-{order['order_id']}",
                prediction_id=f"p-{order['order_id']}",
                label=order["is_late"],
                known_at=microseconds(order["ordered_at"] + TOOK),
                received_at=microseconds(order["ordered_at"] + TOOK),
            )
            for number, order in enumerate(told_by_application.orders.iter_rows(named=True))
            if order["is_late"] is not None
        ]
    )
    told = []
    for used in (told_by_source, told_by_application):
        with dg.DagsterInstance.ephemeral() as instance:
            told.append(House.metadata(House(used, instance).look(), "performance"))
    source, application = ({name: value for name, value in each.items() if isinstance(value, float)} for each in told)
    assert source == pytest.approx(application)


def test_the_job_makes_every_step_of_a_look(house: House) -> None:
    assert monitored_steps(house.spec) == ["source_outcomes", "label_quality", "performance", "kpi", "fairness"]
    [job] = monitoring_jobs({"tiny": house.spec})
    keys = {key for asset in performance_assets(house.spec) for key in asset.keys}
    assert {key.path[1] for key in keys} == set(monitored_steps(house.spec))
    assert job.name == "monitor_tiny"
