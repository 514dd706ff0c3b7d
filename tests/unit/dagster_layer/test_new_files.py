"""The new-file sensor asks once for what landed, again when the run failed, and says why when it does not ask."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.models import load_models
from assets.sources import load_sources
from pilotage.data import sample
from pilotage.data.ingest import ingest
from pilotage.data.ingested import LandedFile
from pilotage.data.lake import Lake
from pilotage.data.validate import validate
from pilotage.run_tags import ATTEMPT, CAUSE, LANDING, RANGE_FIRST, RANGE_LAST
from pilotage.settings import Settings
from pilotage.spec import Window
from resources.platform_home import PlatformHome
from sensors.landings import MAX_ATTEMPTS, Memory, daily_landings
from sensors.new_files import new_files_sensor

DAYS = (date(2013, 1, 1), date(2013, 1, 3))


class Desk:
    """A home, an instance, and the sensor's cursor between ticks."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.settings = Settings.load().model_copy(update={"home": home})
        self.instance = instance
        self.sensor = new_files_sensor(load_sources(), load_models())
        self.cursor: str | None = None
        self.told: list[Any] = []

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"platform": PlatformHome(home=str(self.settings.home))},
        )
        result: Any = self.sensor(context)
        self.cursor = result.cursor
        self.told = list(result.asset_events or [])
        for request in result.run_requests or []:
            # As Dagster does it: a key of which there is a run is not launched again.
            key = {name: request.tags[name] for name in (LANDING, ATTEMPT)}
            if not self.instance.get_runs(dg.RunsFilter(tags=key)):
                self.finish(request, dg.DagsterRunStatus.NOT_STARTED)
        return list(result.run_requests or []), result.skip_reason.skip_message if result.skip_reason else ""

    def finish(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
        self.instance.add_run(dg.DagsterRun(job_name="__ASSET_JOB", status=status, tags=dict(request.tags)))

    def publish(self, first: date, last: date) -> None:
        sample.publish_flights(self.settings.landing, first=first, last=last)
        sample.publish_weather(self.settings.landing, first=first, last=last)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(tmp_path, instance)


def keys(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or []}


def test_an_empty_landing_folder_is_skipped_with_the_reason(desk: Desk) -> None:
    requests, reason = desk.tick()
    assert requests == []
    assert "No new or changed file" in reason
    assert str(desk.settings.landing) in reason


def test_landed_days_ask_for_one_run_over_their_range_up_to_features_and_online_state(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    assert request.tags[RANGE_FIRST] == "2013-01-01"
    assert request.tags[RANGE_LAST] == "2013-01-03"
    assert request.tags[CAUSE] == "new_data"
    expected = {f"{layer}/{name}" for layer in ("raw", "validated", "quarantine") for name in ("flights", "weather")}
    assert keys(request) == expected | {"flight_delay/features", "flight_delay/online_state"}
    assert desk.tick()[0] == []


def test_files_whose_run_somebody_deletes_are_asked_for_again(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    assert desk.tick()[0] == []
    for run in desk.instance.get_runs():
        desk.instance.delete_run(run.run_id)
    [again], _ = desk.tick()
    # Dagster launches a key again whose run is gone.
    assert (again.run_key, again.tags) == (request.run_key, request.tags)
    assert desk.tick()[0] == []
    desk.finish(again, dg.DagsterRunStatus.SUCCESS)
    assert "being worked on" not in desk.tick()[1]


def test_a_file_whose_name_fits_no_day_is_told_once_by_the_check_and_as_long_as_it_is_there_by_the_sensor(
    desk: Desk,
) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    desk.finish(request, dg.DagsterRunStatus.SUCCESS)
    stray = desk.settings.landing / "flights" / "flights-2013-01-04.csv.gz"
    stray.touch()
    requests, reason = desk.tick()
    assert requests == []
    assert "flights-2013-01-04.csv.gz: its name does not match" in reason
    [told] = desk.told
    assert (told.asset_key, told.check_name, told.passed) == (dg.AssetKey(["raw", "flights"]), "delivery", False)
    assert told.severity is dg.AssetCheckSeverity.WARN
    assert "flights-2013-01-04.csv.gz: its name does not match" in str(told.description)
    assert "flights-2013-01-04.csv.gz: its name does not match" in desk.tick()[1]
    assert desk.told == []
    stray.unlink()
    assert "does not match" not in desk.tick()[1]


@pytest.mark.parametrize("lost", ["all of it", "what came last"])
def test_files_whose_rows_a_restored_lake_no_longer_holds_are_taken_up_again(desk: Desk, lost: str) -> None:
    """The cursor is in Dagster's database, which remembers what the lake's backup does not have."""
    lake = Lake(desk.settings.lake)
    raw = desk.settings.home / "lake" / "raw" / "flights"

    def take_up(first: date, last: date) -> None:
        desk.publish(first, last)
        for request in desk.tick()[0]:
            for name in ("flights", "weather"):
                ingest(load_sources()[name], lake=lake, settings=desk.settings, days=None, run_id="run")
            desk.finish(request, dg.DagsterRunStatus.SUCCESS)
        assert desk.tick()[0] == []

    take_up(date(2013, 1, 1), date(2013, 1, 2))
    backup = desk.settings.home / "backup"
    shutil.copytree(raw, backup)
    take_up(date(2013, 1, 3), date(2013, 1, 3))
    shutil.rmtree(raw)
    if lost == "what came last":
        shutil.copytree(backup, raw)
    [request], _ = desk.tick()
    first = "2013-01-03" if lost == "what came last" else "2013-01-01"
    assert (request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) == (first, "2013-01-03")
    assert "raw/flights" in keys(request)
    assert "raw/weather" not in keys(request)
    assert desk.tick()[0] == []


def test_days_with_a_gap_ask_for_a_run_a_range(desk: Desk) -> None:
    desk.publish(date(2013, 1, 1), date(2013, 1, 2))
    desk.publish(date(2013, 1, 5), date(2013, 1, 5))
    ranges = {(request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) for request in desk.tick()[0]}
    assert ranges == {("2013-01-01", "2013-01-02"), ("2013-01-05", "2013-01-05")}


def test_a_reference_table_asks_for_a_run_without_days(desk: Desk) -> None:
    sample.publish_reference(desk.settings.landing)
    [request], _ = desk.tick()
    assert RANGE_FIRST not in request.tags
    assert keys(request) == {
        f"{layer}/{name}" for layer in ("raw", "validated", "quarantine") for name in ("airlines", "airports", "planes")
    }


def test_a_new_reference_table_brings_the_online_state_that_looks_into_it_up_to_date(desk: Desk) -> None:
    desk.publish(*DAYS)
    sample.publish_reference(desk.settings.landing)
    lake = Lake(desk.settings.lake)
    sources = load_sources()
    for name in load_models()["flight_delay"].sources:
        ingest(sources[name], lake=lake, settings=desk.settings, days=None, run_id="bootstrap")
        validate(sources[name], lake=lake, reports=desk.settings.reports, days=None, run_id="bootstrap")
    desk.tick()
    planes = next((desk.settings.landing / "planes").iterdir())
    later = planes.stat().st_mtime_ns + 10**9
    os.utime(planes, ns=(later, later))
    [request], _ = desk.tick()
    assert keys(request) == {"raw/planes", "validated/planes", "quarantine/planes", "flight_delay/online_state"}


def test_files_that_are_in_the_lake_already_are_not_asked_for_by_a_sensor_that_starts_anew(desk: Desk) -> None:
    desk.publish(*DAYS)
    lake = Lake(desk.settings.lake)
    for name in ("flights", "weather"):
        ingest(load_sources()[name], lake=lake, settings=desk.settings, days=None, run_id="bootstrap")
    assert desk.tick()[0] == []


def test_a_corrected_file_is_asked_for_with_the_days_whose_features_look_back_at_it(desk: Desk) -> None:
    desk.publish(date(2013, 1, 1), date(2013, 1, 6))
    lake = Lake(desk.settings.lake)
    for name in ("flights", "weather"):
        ingest(load_sources()[name], lake=lake, settings=desk.settings, days=None, run_id="bootstrap")
    desk.tick()
    corrected = desk.settings.landing / "flights" / "flights_2013-01-02.csv.gz"
    later = corrected.stat().st_mtime_ns + 10**9
    os.utime(corrected, ns=(later, later))
    [request], _ = desk.tick()
    assert (request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) == ("2013-01-02", "2013-01-06")
    assert "raw/weather" not in keys(request)


def test_a_correction_is_asked_for_with_the_days_that_came_to_know_of_it_later(desk: Desk) -> None:
    """A flight of 2 January that arrives on the 7th is in the features of the six hours after that."""
    recent = Window(
        name="n",
        source="flights",
        on={"carrier": "carrier"},
        known_at="arr_known_at",
        over=timedelta(hours=6),
        aggregate="count",
    )
    model = load_models()["flight_delay"].model_copy(update={"asof": (recent,), "features": ()})
    desk.sensor = new_files_sensor(load_sources(), {model.name: model})
    desk.publish(date(2013, 1, 1), date(2013, 1, 12))
    lake, flights = Lake(desk.settings.lake), load_sources()["flights"]
    ingest(flights, lake=lake, settings=desk.settings, days=None, run_id="bootstrap")
    validate(flights, lake=lake, reports=desk.settings.reports, days=None, run_id="bootstrap")
    second = lake.scan("validated/flights", first=date(2013, 1, 2), last=date(2013, 1, 2)).collect()
    late = second.with_columns(
        pl.lit(datetime(2013, 1, 7, 12, tzinfo=UTC)).cast(second.schema["arr_known_at"]).alias("arr_known_at")
    )
    lake.replace_days("validated/flights", late, [date(2013, 1, 2)], note={})
    desk.tick()
    corrected = desk.settings.landing / "flights" / "flights_2013-01-02.csv.gz"
    later = corrected.stat().st_mtime_ns + 10**9
    os.utime(corrected, ns=(later, later))
    [request], _ = desk.tick()
    assert (request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) == ("2013-01-02", "2013-01-08")


def test_a_correction_of_days_that_are_still_under_way_is_asked_for_with_the_days_that_look_back_at_it(
    desk: Desk,
) -> None:
    desk.publish(date(2013, 1, 1), date(2013, 1, 6))
    [under_way], _ = desk.tick()
    desk.finish(under_way, dg.DagsterRunStatus.STARTED)
    corrected = desk.settings.landing / "flights" / "flights_2013-01-02.csv.gz"
    later = corrected.stat().st_mtime_ns + 10**9
    os.utime(corrected, ns=(later, later))
    [request], _ = desk.tick()
    assert (request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) == ("2013-01-02", "2013-01-06")


def test_a_correction_older_than_the_last_ingest_is_asked_for_though_others_ingested_what_it_corrects(
    desk: Desk,
) -> None:
    desk.publish(*DAYS)
    lake = Lake(desk.settings.lake)
    for name in ("flights", "weather"):
        ingest(load_sources()[name], lake=lake, settings=desk.settings, days=None, run_id="bootstrap")
    desk.tick()
    corrected = desk.settings.landing / "flights" / "flights_2013-01-02.csv.gz"
    earlier = corrected.stat().st_mtime_ns - 10**9
    os.utime(corrected, ns=(earlier, earlier))
    [request], _ = desk.tick()
    assert (request.tags[RANGE_FIRST], request.tags[RANGE_LAST]) == ("2013-01-02", "2013-01-03")


def test_a_run_that_fails_is_asked_for_again_a_bounded_number_of_times(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    attempts = [request]
    for _ in range(MAX_ATTEMPTS + 2):
        desk.finish(attempts[-1], dg.DagsterRunStatus.FAILURE)
        again, _ = desk.tick()
        if not again:
            break
        attempts += again
    assert [attempt.tags[ATTEMPT] for attempt in attempts] == ["1", "2", "3"]
    assert len({attempt.run_key for attempt in attempts}) == MAX_ATTEMPTS
    assert len({attempt.tags[LANDING] for attempt in attempts}) == 1
    assert desk.tick()[0] == []


def test_a_delivery_that_comes_back_with_its_old_time_is_asked_for_under_a_key_that_no_run_has_used(desk: Desk) -> None:
    day = DAYS[0]
    desk.publish(day, day)
    asked = [request for request in desk.tick()[0] if not desk.finish(request, dg.DagsterRunStatus.SUCCESS)]
    [file] = (desk.settings.landing / "flights").iterdir()
    first, second = file.read_bytes(), file.read_bytes() + b"\n"
    for content, second_of in ((second, 1), (first, 2), (second, 1), (first, 2), (second, 1)):
        file.write_bytes(content)
        os.utime(file, ns=(second_of * 10**9, second_of * 10**9))
        [request], _ = desk.tick()
        desk.finish(request, dg.DagsterRunStatus.SUCCESS)
        asked.append(request)
        assert "being worked on" not in desk.tick()[1]
    assert len({request.run_key for request in asked}) == 6


def test_after_a_reset_of_its_cursor_the_sensor_tries_again_what_it_had_given_up(desk: Desk) -> None:
    desk.publish(*DAYS)
    keys_used = set()
    for _ in range(3):
        desk.cursor = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            [request], _ = desk.tick()
            assert request.tags[ATTEMPT] == str(attempt)
            keys_used.add(request.run_key)
            desk.finish(request, dg.DagsterRunStatus.FAILURE)
        assert desk.tick()[0] == []
    assert len(keys_used) == 3 * MAX_ATTEMPTS


def test_after_a_reset_of_its_cursor_the_sensor_goes_on_with_the_run_that_is_under_way(desk: Desk) -> None:
    desk.publish(*DAYS)
    [first], _ = desk.tick()
    desk.finish(first, dg.DagsterRunStatus.FAILURE)
    [second], _ = desk.tick()
    running = desk.instance.add_run(
        dg.DagsterRun(job_name="__ASSET_JOB", status=dg.DagsterRunStatus.STARTED, tags=dict(second.tags))
    )
    desk.cursor = None
    [same], _ = desk.tick()
    assert same.run_key == second.run_key
    desk.instance.report_run_failed(running)
    [third], _ = desk.tick()
    assert third.tags[ATTEMPT] == "3"


def test_a_landing_whose_source_is_not_declared_any_more_does_not_keep_others_waiting(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    desk.finish(request, dg.DagsterRunStatus.FAILURE)
    sources, models = load_sources(), load_models()
    without = {name: spec for name, spec in sources.items() if name != "weather"}
    desk.sensor = new_files_sensor(without, {"loan_approval": models["loan_approval"]})
    [again], _ = desk.tick()
    assert keys(again) == {"raw/flights", "validated/flights", "quarantine/flights"}
    desk.finish(again, dg.DagsterRunStatus.FAILURE)
    without.pop("flights")
    desk.sensor = new_files_sensor(without, {"loan_approval": models["loan_approval"]})
    assert desk.tick()[0] == []
    assert Memory.read(desk.cursor).open == {}


def test_while_a_run_is_under_way_the_sensor_waits_and_says_so(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    desk.finish(request, dg.DagsterRunStatus.STARTED)
    requests, reason = desk.tick()
    assert requests == []
    assert "1 landings are being worked on" in reason


def test_a_run_that_succeeded_is_forgotten(desk: Desk) -> None:
    desk.publish(*DAYS)
    [request], _ = desk.tick()
    desk.finish(request, dg.DagsterRunStatus.SUCCESS)
    _, reason = desk.tick()
    assert "being worked on" not in reason
    assert Memory.read(desk.cursor).open == {}


def landed(day: date) -> LandedFile:
    return LandedFile(name=f"f_{day}", day=day, size=1, modified_ns=1)


@given(
    offsets=st.sets(st.integers(0, 60), min_size=1),
    newest=st.none() | st.integers(0, 60),
    reach=st.integers(0, 40),
)
def test_every_pending_day_is_in_exactly_one_range_and_ranges_do_not_touch(
    offsets: set[int], newest: int | None, reach: int
) -> None:
    start = date(2013, 1, 1)
    days = {start + timedelta(days=offset) for offset in offsets}
    known = None if newest is None else start + timedelta(days=newest)
    made = daily_landings({"s": [landed(day) for day in sorted(days)]}, newest=known, reach=timedelta(days=reach))
    ranges = [(date.fromisoformat(item.first), date.fromisoformat(item.last)) for item in made]  # type: ignore[arg-type]
    for day in days:
        assert sum(first <= day <= last for first, last in ranges) == 1
    for (_, last), (first, _) in pairwise(ranges):
        assert first - last > timedelta(days=1)
    assert sum(item.files for item in made) == len(days)
    if known is None:
        assert sum((last - first).days + 1 for first, last in ranges) == len(days)


@given(data=st.data())
def test_the_key_of_a_landing_does_not_depend_on_the_order_of_its_files(data: st.DataObject) -> None:
    files = [landed(date(2013, 1, day)) for day in range(1, 6)]
    shuffled = data.draw(st.permutations(files))
    one, other = (daily_landings({"s": each}, newest=None, reach=timedelta(0)) for each in (files, shuffled))
    assert [item.key for item in one] == [item.key for item in other]
