"""From the service's own log to the lake, through Dagster: moved once, read at any time, checked and scored."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.predictions import log_assets
from assets.scoring import scoring_assets
from assets.skew import SkewSample, skew_assets
from assets.sources import load_sources
from pilotage.data.lake import Lake
from pilotage.data.source import Daily, SourceSpec
from pilotage.features.state import microseconds
from pilotage.monitoring.predictions import labelled, move_log, read_log, read_outcomes, read_shadows, read_states
from pilotage.monitoring.skew import check_skew
from pilotage.run_tags import RANGE_FIRST, RANGE_LAST
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.drafts import Drafted
from pilotage.runtime.log import PredictionLog, encode
from pilotage.runtime.log.segments import decode
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.testing.service import release_bundle
from resources.platform_home import PlatformHome
from sensors.heartbeat import dagster_watches
from tests.unit.monitoring.logs import outcome, prediction, shadow, state, write_segment
from tests.unit.monitoring.served_world import World
from tests.unit.runtime.world import World as RuntimeWorld


def now(offset: float = 0) -> int:
    return microseconds(datetime.now(UTC) + timedelta(seconds=offset))


class Writer:
    """A worker's log in this process."""

    def __init__(self, settings: Settings, *, worker: str = "w1", segment_bytes: int = 1 << 20) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = PredictionLog(
            settings.prediction_log, worker=worker, report=print, segment_bytes=segment_bytes, seal_after_s=3600
        )
        self.log.start(self.loop)

    def write(self, *records: Any) -> None:
        async def submit() -> None:
            await asyncio.gather(*(self.log.submit(encode(record)) for record in records))

        self.loop.run_until_complete(submit())

    def close(self) -> None:
        self.log.close(10)
        self.loop.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(Settings.load().model_copy(update={"home": tmp_path}))
    yield made
    if not made.loop.is_closed():
        made.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load().model_copy(update={"home": tmp_path})


def ids(frame: pl.DataFrame) -> list[str]:
    return frame["prediction_id"].to_list()


def test_an_answer_is_read_at_once_and_once_wherever_it_is(writer: Writer, settings: Settings) -> None:
    lake = Lake(settings.lake)

    def everything() -> tuple[list[str], ...]:
        return (
            ids(read_log(settings, "tiny", lake=lake)),
            ids(read_shadows(settings, "tiny", lake=lake)),
            read_outcomes(settings, "tiny", lake=lake)["outcome_id"].to_list(),
            read_states(settings, "tiny", lake=lake)["state"].to_list(),
            ids(labelled(settings, "tiny", lake=lake)),
        )

    assert everything() == ([], [], [], [], [])
    writer.write(state(), prediction(1), shadow(1), outcome(1), prediction(2), prediction(3, model="other"))
    expected = (["p00001", "p00002"], ["p00001"], ["o00001"], ["s1"], ["p00001"])
    assert everything() == expected
    assert move_log(settings, lake, quiet_s=0).segments == 0
    writer.close()
    assert everything() == expected
    assert move_log(settings, lake, quiet_s=0).segments == 1
    assert everything() == expected


def test_a_version_and_a_time_and_columns_can_be_asked_for(writer: Writer, settings: Settings) -> None:
    lake = Lake(settings.lake)
    old, recent = now(-86400 * 3), now(-60)
    writer.write(prediction(1, at=old), prediction(2, at=recent, version=2))
    writer.close()
    move_log(settings, lake, quiet_s=0)
    again = Writer(settings, worker="w2")
    again.write(prediction(3, at=now()), prediction(4, at=now(1), version=2))
    since = datetime.now(UTC) - timedelta(hours=1)
    assert ids(read_log(settings, "tiny", lake=lake, since=since)) == ["p00002", "p00003", "p00004"]
    assert ids(read_log(settings, "tiny", lake=lake, version=2)) == ["p00002", "p00004"]
    some = read_log(settings, "tiny", lake=lake, columns=["version", "probability"])
    assert some.columns == ["version", "probability"]
    assert some.height == 4
    again.close()


ROUNDS, BATCHES, ROWS = 6, 25, 3


def _write(home: str, turns: Any, done: Any, count: Any) -> None:
    """Child: a worker that answers, in small segments, as much as it is let."""
    settings = Settings.load().model_copy(update={"home": Path(home)})
    writer = Writer(settings, segment_bytes=8000)
    for number in range(0, ROUNDS * BATCHES * ROWS, ROWS):
        turns.acquire()
        writer.write(*(prediction(number + n, at=now()) for n in range(ROWS)))
        count.value = number + ROWS
        done.release()
    writer.close()


def test_while_a_worker_writes_and_a_mover_moves_a_reader_sees_every_answer_once(settings: Settings) -> None:
    lake = Lake(settings.lake)
    spawn = multiprocessing.get_context("spawn")
    turns, done, count = spawn.Semaphore(0), spawn.Semaphore(0), spawn.Value("i", 0)
    worker = spawn.Process(target=_write, args=(str(settings.home), turns, done, count))
    worker.start()
    try:
        for _ in range(ROUNDS):
            for _ in range(BATCHES):
                turns.release()
            assert done.acquire(timeout=60)
            for _ in range(2):
                known = count.value  # What was on disk before the look; later ones may be seen or not.
                seen = ids(read_log(settings, "tiny", lake=lake, columns=["prediction_id"]))
                assert len(seen) == len(set(seen))
                assert {f"p{n:05d}" for n in range(known)} <= set(seen)
                move_log(settings, lake, quiet_s=0)
    finally:
        for _ in range(ROUNDS * BATCHES):
            turns.release()
        worker.join()
    assert worker.exitcode == 0
    move_log(settings, lake, quiet_s=0)
    expected = [f"p{n:05d}" for n in range(ROUNDS * BATCHES * ROWS)]
    assert sorted(ids(read_log(settings, "tiny", lake=lake))) == expected
    assert lake.scan("predictions/tiny").collect().height == len(expected)


class House:
    """The assets of the tiny model in an instance of their own."""

    def __init__(self, world: World, instance: dg.DagsterInstance) -> None:
        self.world = world
        self.instance = instance
        self.resources = {"platform": PlatformHome(home=str(world.settings.home))}

    def materialize(self, assets: list[dg.AssetsDefinition], **options: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(assets, instance=self.instance, resources=self.resources, **options)

    def check(self, result: dg.ExecuteInProcessResult, name: str) -> Any:
        return next(item for item in result.get_asset_check_evaluations() if item.check_name == name)

    def metadata(self, result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
        [event] = [e for e in result.get_asset_materialization_events() if e.asset_key.to_user_string() == key]
        return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(World(tmp_path), instance)


def test_the_run_tells_what_it_moved_and_materializes_only_what_got_rows(house: House) -> None:
    world = house.world
    world.serve(range(5))
    writer = Writer(world.settings, worker="w2")
    writer.write(
        prediction(50, at=now(-60)),
        prediction(51, at=now(-60), answered_by="rule", version=None, features=None),
        outcome(50, known_at=now(), received_at=now()),
        outcome(51, prediction_id="p00050", label=False, known_at=now(5), received_at=now(5)),
    )
    writer.close()
    result = house.materialize(log_assets({"tiny": world.spec}))
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert made == {"prediction_log", "tiny/predictions", "tiny/outcomes"}
    log = house.metadata(result, "prediction_log")
    assert (log["segments"], log["records"], log["waiting"], log["log_lag_s"]) == (2, 10, 0, 0.0)
    predictions = house.metadata(result, "tiny/predictions")
    assert (predictions["moved"], predictions["dagster/row_count"]) == (7, 7)
    assert (predictions["answers_24h"], predictions["by_model_24h"]) == (2, 0.5)
    outcomes = house.metadata(result, "tiny/outcomes")
    assert (outcomes["counts"], outcomes["conflicting"], outcomes["unknown"]) == (1, 1, 0)
    assert outcomes["conflicts"].records[0].data["against"] == "o00050"
    assert house.check(result, "undamaged").passed
    again = house.materialize(log_assets({"tiny": world.spec}))
    assert [e.asset_key.to_user_string() for e in again.get_asset_materialization_events()] == ["prediction_log"]


def test_a_damaged_segment_fails_the_check_with_what_it_is(house: House) -> None:
    house.world.serve(range(3))
    [path] = house.world.settings.prediction_log.glob("*.sealed")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"prediction_id":"p00001"', b'"prediction_id":"p99999"'))
    result = house.materialize(log_assets({"tiny": house.world.spec}))
    check = house.check(result, "undamaged")
    assert not check.passed
    assert check.metadata["problems"].value == 1
    assert path.name in check.metadata["what"].value.records[0].data["problem"]
    assert house.metadata(result, "tiny/predictions")["moved"] == 2


def released(house: House) -> None:
    world = house.world
    release_bundle(world.settings, "tiny", world.settings.home / "bundle", world.bundle.sha256, version=1)


def test_skew_fails_the_check_with_the_features_name_and_examples(house: House) -> None:
    released(house)
    world = house.world
    world.serve(range(20), segment=1)
    config = dg.RunConfig(ops={"tiny__serving_skew": SkewSample(days=365.0 * 100)})
    clean = house.materialize(skew_assets(world.spec), run_config=config)
    assert house.check(clean, "no_skew").passed
    assert house.check(clean, "same_probabilities").metadata["compared"].value == 20
    assert house.metadata(clean, "tiny/serving_skew")["values_compared"] == 20 * len(world.spec.features)
    world.serve(range(20, 23), segment=2, per_item=7.5)
    skewed = house.materialize(skew_assets(world.spec), run_config=config)
    check = house.check(skewed, "no_skew")
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.metadata["skewed_features"].value == "per_item"
    example = check.metadata["examples"].value.records[0].data
    assert (example["prediction_id"], example["feature"], example["served"]) == ("p00020", "per_item", "7.5")
    rows = house.metadata(skewed, "tiny/serving_skew")["features"].records
    assert rows[0].data == {"feature": "per_item", "compared": 23, "different": 3, "not_comparable": 0}
    watches = dagster_watches(house.instance, ["tiny"], world.settings, now=datetime.now(UTC))
    [alert] = next(watch for watch in watches if "skew" in watch.kinds).look().alerts
    assert (alert.kind, alert.model) == ("skew", "tiny")
    assert alert.summary == "Served differently from what the lake gives: per_item."


def test_with_nothing_answered_the_skew_check_passes_and_says_so_and_with_nothing_comparable_it_warns(
    house: House,
) -> None:
    config = dg.RunConfig(ops={"tiny__serving_skew": SkewSample(days=365.0 * 100)})
    idle = house.check(house.materialize(skew_assets(house.world.spec), run_config=config), "no_skew")
    assert idle.passed
    assert "nothing to compare" in idle.description
    house.world.serve(range(3))
    # No version of the model is in the ledger.
    blind = house.check(house.materialize(skew_assets(house.world.spec), run_config=config), "no_skew")
    assert not blind.passed
    assert blind.severity is dg.AssetCheckSeverity.WARN
    assert "has no version 1" in blind.description


def test_the_champion_scores_a_table_in_a_run_and_its_numbers_are_the_services(
    house: House, orders: SourceSpec
) -> None:
    released(house)
    served = {each.prepared.request["order_id"]: each.probability for each in house.world.serve(range(60))}
    result = house.materialize(scoring_assets(house.world.spec, {"orders": orders}))
    told = house.metadata(result, "tiny/scores")
    assert (told["rows"], told["scored"], told["champion"], told["days"]) == (60, 60, 1, "none")
    scores = house.world.lake.scan("scores/tiny").collect()
    assert dict(scores.select("order_id", "probability").iter_rows()) == served


def test_a_range_of_days_is_scored_in_one_run_and_tells_each_days_rows(house: House) -> None:
    released(house)
    world = house.world
    world.orders = world.orders.with_columns(pl.col("ordered_at").dt.date().alias("day"))
    days = world.orders["day"].unique().sort().to_list()
    world.lake.replace_days("validated/daily", world.orders, days, note={})
    spec = world.spec.model_copy(update={"source": "daily"})
    daily = Daily(column="ordered_at", first=days[0], last=days[-1])
    source = load_sources()["flights"].model_copy(update={"daily": daily})
    tags = {RANGE_FIRST: str(days[0]), RANGE_LAST: str(days[-1])}
    result = house.materialize(scoring_assets(spec, {"daily": source}), tags=tags)
    events = result.get_asset_materialization_events()
    rows = {e.partition: e.materialization.metadata["dagster/partition_row_count"].value for e in events}
    assert rows == {str(day): (world.orders["day"] == day).sum() for day in days}
    assert events[0].materialization.metadata["scored"].value == 60


@pytest.mark.parametrize("personal", [(), ("shop", "courier"), ("order_id",)])
def test_what_the_responder_itself_logs_is_computed_again_to_the_same_bits(
    tmp_path: Path, personal: tuple[str, ...]
) -> None:
    world = World(tmp_path, personal=personal)
    served = Served(tmp_path, world.spec)
    world.settings.pseudonym_key.write_bytes(b"0123456789abcdef")
    served.release("tiny", 7)
    try:
        for order in world.orders.iter_rows(named=True):
            served.answer("tiny", {**order, "ordered_at": f"{order['ordered_at']:%Y-%m-%dT%H:%M:%SZ}"})
        drafted = served.answer("tiny", {**world.orders.row(3, named=True), "ordered_at": "2024-01-02T10:00:00Z"})
        records = [decode(payload) for payload in served.payloads]
    finally:
        served.close()
    assert drafted.answer.answered_by == "model"
    write_segment(world.settings.prediction_log, [*served.kept.values(), *records])
    move_log(world.settings, world.lake, models=served.specs, quiet_s=0)
    report = check_skew(
        world.spec,
        settings=world.settings,
        lake=world.lake,
        bundles=lambda version: read_bundle(tmp_path / "registry" / "tiny" / str(version)),
    )
    assert report.sampled == 61
    assert (report.skewed, report.other_probabilities, report.not_comparable) == ([], (), {})
    assert report.compared == 61 * len(world.spec.features)
    assert report.probabilities == 61


class Served(RuntimeWorld):
    """A responder, with what it would log."""

    def __init__(self, home: Path, spec: ModelSpec) -> None:
        super().__init__(home, spec)
        self.payloads: list[bytes] = []

    def answer(self, model: str, request: Any = None, **changes: Any) -> Drafted:
        drafted = super().answer(model, request, **changes)
        self.payloads.append(drafted.payload)
        return drafted

    def close(self) -> None:
        self.follower.stop()


@pytest.fixture
def orders() -> SourceSpec:
    """A source without days."""
    return load_sources()["loans"]
