"""The lineage as Dagster runs it: real jobs, a real lake and MLflow, on three weeks of flights and the loans."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.models import load_models
from definitions import build_defs
from pilotage.data import sample
from pilotage.data.lake import Lake
from pilotage.data.lineage import origin, validated_versions
from pilotage.errors import NotApproved, TrainingError
from pilotage.release.champions import champion, states
from pilotage.release.commands import approve
from pilotage.release.promote import promote
from pilotage.run_tags import CAUSE, RANGE_FIRST, RANGE_LAST
from pilotage.settings import Settings
from pilotage.training.config import TrainConfig
from pilotage.training.dataset import assemble

FIRST, LAST = date(2013, 1, 1), date(2013, 1, 21)

pytestmark = pytest.mark.slow


class House:
    """A home with its own Dagster instance, in which jobs run in this process."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.lake = Lake(self.settings.lake)
        from resources.platform_home import PlatformHome

        self.defs = build_defs({"platform": PlatformHome(home=str(home)), "io_manager": self._records(home)})

    @staticmethod
    def _records(home: Path) -> Any:
        from resources.platform_home import PlatformHome
        from resources.records import RecordIOManager

        return RecordIOManager(platform=PlatformHome(home=str(home)))

    def run(
        self,
        job: str,
        first: date | None = None,
        last: date | None = None,
        *,
        only: Sequence[str] = (),
        raises: bool = True,
        **training: Any,
    ) -> dg.ExecuteInProcessResult:
        tags = {CAUSE: "test"}
        if first is not None:
            tags |= {RANGE_FIRST: first.isoformat(), RANGE_LAST: (last or first).isoformat()}
        config = {"resources": {"training": {"config": training}}} if training else {}
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=tags,
            run_config=config,
            raise_on_error=raises,
            asset_selection=[dg.AssetKey.from_user_string(key) for key in only] or None,
        )

    def check(self, result: dg.ExecuteInProcessResult, asset: str, name: str) -> Any:
        return next(
            item
            for item in result.get_asset_check_evaluations()
            if item.asset_key.to_user_string() == asset and item.check_name == name
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        made = House(tmp_path_factory.mktemp("home"), instance)
        sample.publish_flights(made.settings.landing, first=FIRST, last=LAST)
        sample.publish_weather(made.settings.landing, first=FIRST, last=LAST)
        sample.publish_reference(made.settings.landing)
        sample.publish_loans(made.settings.loans)
        yield made


@pytest.fixture(scope="module")
def ingested(house: House) -> dict[str, dg.ExecuteInProcessResult]:
    return {"tables": house.run("ingest_tables"), "days": house.run("data_flight_delay", FIRST, LAST)}


@pytest.fixture(scope="module")
def trained(house: House, ingested: dict[str, dg.ExecuteInProcessResult]) -> dg.ExecuteInProcessResult:
    return house.run("train_loan_approval")


def test_one_run_takes_a_range_of_landed_days_to_features(
    house: House, ingested: dict[str, dg.ExecuteInProcessResult]
) -> None:
    for layer in ("raw", "validated"):
        for source in ("flights", "weather"):
            assert len(house.lake.days(f"{layer}/{source}")) == 21
    features = house.lake.scan("features/flight_delay").collect()
    assert features.height == house.lake.scan("validated/flights").collect().height
    made = house.instance.get_materialized_partitions(dg.AssetKey(["flight_delay", "features"]))
    assert len(made) == 21


def test_each_materialized_day_tells_its_rows_and_its_file(
    house: House, ingested: dict[str, dg.ExecuteInProcessResult]
) -> None:
    event = house.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["raw", "flights"]), asset_partitions=["2013-01-05"]), limit=1
    ).records[0]
    materialization = event.asset_materialization
    assert materialization is not None
    assert materialization.metadata["dagster/partition_row_count"].value == 720
    assert materialization.metadata["file"].value == "flights_2013-01-05.csv.gz"
    assert len(str(materialization.metadata["sha256"].value)) == 64


def test_features_are_traced_back_to_the_files_that_delivered_them(
    house: House, ingested: dict[str, dg.ExecuteInProcessResult]
) -> None:
    lake = house.lake
    made_from = validated_versions(lake, "features/flight_delay", lake.version("features/flight_delay"))
    assert made_from is not None
    assert set(made_from) == {f"validated/{name}" for name in ("flights", "weather", "planes", "airports")}
    found = origin(lake, "validated/flights", made_from["validated/flights"], last=date(2013, 1, 5))
    landed = sorted((house.settings.landing / "flights").glob("flights_2013-01-0[1-5].csv.gz"))
    assert [(file.name, file.sha256) for file in found.files] == [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in landed
    ]
    assert found.files[-1].rows == 720
    assert {file.first for file in found.files} == {date(2013, 1, day) for day in range(1, 6)}
    whole = origin(lake, "validated/planes", made_from["validated/planes"], last=date(2013, 1, 5))
    assert [(file.first, file.last, file.rows) for file in whole.files] == [(None, None, 3322)]


def test_the_contract_of_the_loans_keeps_the_sentinels_out_with_their_reasons(
    house: House, ingested: dict[str, dg.ExecuteInProcessResult]
) -> None:
    kept_out = house.lake.scan("quarantine/loans").collect()
    reasons = " ".join(reason for row in kept_out["reasons"].to_list() for reason in row)
    assert "666" in reasons
    assert "999999" in reasons
    check = house.check(ingested["tables"], "validated/loans", "contract")
    assert check.passed
    assert check.metadata["quarantined_share"].value == pytest.approx(kept_out.height / 1989)


def test_a_high_risk_model_is_registered_with_its_evidence_and_waits_for_a_person(
    house: House, trained: dg.ExecuteInProcessResult
) -> None:
    assert champion("loan_approval", settings=house.settings) is None
    version = trained.output_for_node("loan_approval__registered_version")
    assert version.version == 1
    metadata = house.instance.get_latest_materialization_event(
        dg.AssetKey(["loan_approval", "evaluation"])
    ).asset_materialization.metadata  # type: ignore[union-attr]
    assert 0.7 < metadata["auc"].value < 1
    assert metadata["plot: reliability"].value.startswith("![reliability](data:image/png;base64,")
    assert house.check(trained, "loan_approval/evaluation", "gate").passed


def test_a_refused_candidate_leaves_its_reasons_and_no_version_and_the_champion_stays(
    house: House, trained: dg.ExecuteInProcessResult
) -> None:
    by_ana: dict[str, Any] = {"settings": house.settings, "actor": "ana@example.com", "why": "first"}
    with pytest.raises(NotApproved, match="anybody but dagster"):
        promote("loan_approval", 1, **by_ana)
    approve("loan_approval", 1, **by_ana)
    first = promote("loan_approval", 1, **by_ana)
    result = house.run("train_loan_approval", evaluation={"at_least": {"auc": 0.999}})
    gate = house.check(result, "loan_approval/evaluation", "gate")
    assert not gate.passed
    assert gate.metadata["refusals"].value >= 1
    observations = [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]
    assert "0.999" in observations[0].asset_observation_data.asset_observation.description
    state = states(settings=house.settings)["loan_approval"]
    assert (len(state.versions), len(state.refused)) == (1, 1)
    assert champion("loan_approval", settings=house.settings) == first


def test_a_candidate_is_registered_by_its_own_evaluation_and_by_no_other(
    house: House, trained: dg.ExecuteInProcessResult
) -> None:
    made, model, shown = (f"loan_approval/{step}" for step in ("training_set", "trained_model", "evaluation"))
    before = states(settings=house.settings)
    house.run("train_loan_approval", only=[made, model, shown])
    # A step that somebody materializes alone, with another configuration.
    house.run("train_loan_approval", only=[model], rounds=1)
    refused = house.run("train_loan_approval", only=["loan_approval/registered_version"], raises=False)
    failure = next(event for event in refused.all_events if event.is_step_failure)
    assert "is not the one that the evaluation is about" in str(failure.step_failure_data.error)
    assert "Run train_loan_approval as a whole" in str(failure.step_failure_data.error)
    assert states(settings=house.settings) == before


def test_a_run_configuration_that_does_not_fit_names_the_field(
    house: House, trained: dg.ExecuteInProcessResult
) -> None:
    result = house.run("train_loan_approval", raises=False, data={"first": "yesterday"})
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "data.first" in str(failure.step_failure_data.error)


def test_a_corrected_day_that_fails_is_withdrawn_and_no_later_run_can_read_it(
    house: House, ingested: dict[str, dg.ExecuteInProcessResult]
) -> None:
    day = date(2013, 1, 21)
    landed = house.settings.landing / "flights" / f"flights_{day}.csv.gz"
    good = landed.read_bytes()
    rows = gzip.decompress(good).decode().splitlines()
    header, body = rows[0], rows[1:]
    spoilt = [line.replace(",EWR,", ",XXX,").replace(",JFK,", ",XXX,") for line in body]
    landed.write_bytes(gzip.compress("\n".join([header, *spoilt]).encode()))
    try:
        result = house.run("data_flight_delay", day, raises=False)
        check = house.check(result, "validated/flights", "contract")
        assert not check.passed
        assert check.severity is dg.AssetCheckSeverity.ERROR
        [failed] = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
        assert failed.step_failure_data.error is not None
        assert f"Failure: flights was refused. {day}: " in failed.step_failure_data.error.message
        assert day not in house.lake.days("validated/flights")
        config = TrainConfig(data={"first": day, "last": day})
        with pytest.raises(TrainingError, match="No row"):
            assemble(load_models()["flight_delay"], lake=house.lake, config=config, directory=house.settings.home)
        assert house.run("features_flight_delay", day).success
        assert house.lake.scan("features/flight_delay").filter(pl.col("day") == day).collect().height == 0
    finally:
        landed.write_bytes(good)
    assert house.run("data_flight_delay", day).success
    assert day in house.lake.days("validated/flights")
