"""Point-in-time correctness on real flights: ingested, validated, built, looked up online, and perturbed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from assets.sources import airports, flights, planes, weather
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.sample import publish_flights, publish_reference, publish_weather
from pilotage.data.validate import validate
from pilotage.features.build import build_features
from pilotage.features.online import build_online
from pilotage.features.store import OnlineStore
from pilotage.features.view import FeatureView
from pilotage.settings import Settings

FIRST, LAST = date(2013, 2, 4), date(2013, 2, 11)
"""With the storm of 8 and 9 February in it."""
SOURCES = (flights.SOURCE, weather.SOURCE, planes.SOURCE, airports.SOURCE)
VIEW = FeatureView(MODEL)
COMPUTED = [*VIEW.state_types, *(name for name in VIEW.schema if name not in VIEW.state_types)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight real days, from landed files to the feature table."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home)
    publish_flights(settings.landing, first=FIRST, last=LAST)
    publish_weather(settings.landing, first=FIRST, last=LAST)
    publish_reference(settings.landing)
    lake = Lake(settings.lake)
    for source in SOURCES:
        ingest(source, lake=lake, settings=settings, days=None, run_id="run-1")
        # By its contract alone: whether a day as a whole is usual is not the point here, and takes half a minute.
        by_contract = source.model_copy(update={"expectations": ()})
        validate(by_contract, lake=lake, reports=settings.reports, days=None, run_id="run-1")
    build_features(MODEL, lake=lake, days=None, run_id="run-1")
    return home


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake(Settings(home=home).lake)


@pytest.fixture(scope="module")
def features(home: Path) -> pl.DataFrame:
    return Lake(Settings(home=home).lake).scan("features/flight_delay").sort("flight_id").collect()


def test_every_validated_flight_has_its_features(lake: Lake, features: pl.DataFrame) -> None:
    rows = lake.scan("validated/flights").select("flight_id", "late", "cancelled").sort("flight_id").collect()

    assert features.get_column("flight_id").equals(rows.get_column("flight_id"))
    assert features.get_column("label").equals(rows.get_column("late").alias("label"))
    assert features.filter(rows.get_column("cancelled")).get_column("label").null_count() == rows["cancelled"].sum()
    assert features.get_column("day").unique().sort().to_list() == [FIRST + timedelta(days=n) for n in range(8)]


def test_features_are_what_the_definition_says_of_the_real_facts(lake: Lake, features: pl.DataFrame) -> None:
    facts = lake.scan("validated/flights").collect()
    readings = lake.scan("validated/weather").collect()
    fleet = lake.scan("validated/planes").collect()
    for row in features.drop_nulls("tailnum").sample(60, seed=1).iter_rows(named=True):
        at = row["sched_dep_at"] - timedelta(hours=2)
        airport = facts.filter(pl.col("origin") == row["origin"], pl.col("dep_at") <= at)
        last3 = airport.filter(pl.col("dep_at") > at - timedelta(hours=3))
        assert row["airport_departures_3h"] == last3.height
        assert row["airport_delay_3h"] == last3["dep_delay"].mean()
        arrived = facts.filter(pl.col("arr_known_at") <= at, pl.col("carrier") == row["carrier"])["late"]
        assert row["carrier_late_28d"] == (arrived.sum() / len(arrived) if len(arrived) else None)
        legs = facts.filter(pl.col("tailnum") == row["tailnum"], pl.col("dep_at") <= at).sort("dep_at")
        assert row["last_leg_delay"] == (legs["dep_delay"][-1] if legs.height else None)
        known = readings.filter(pl.col("origin") == row["origin"], pl.col("known_at") <= at).sort("known_at")
        fresh = known.filter(pl.col("known_at") >= at - timedelta(hours=6))
        assert row["temp"] == (fresh["temp"][-1] if fresh.height else None)
        seats = fleet.filter(pl.col("tailnum") == row["tailnum"])["seats"]
        assert row["plane_seats"] == (seats[0] if len(seats) else None)


def test_whatever_is_known_later_could_be_different_without_moving_a_feature(
    lake: Lake, features: pl.DataFrame
) -> None:
    now = datetime(2013, 2, 9, 15, tzinfo=UTC)
    facts = lake.scan("validated/flights").collect()
    readings = lake.scan("validated/weather").collect()
    gone, late = pl.col("dep_at") > now, pl.col("arr_known_at") > now
    other = {
        "flights": facts.with_columns(
            # Flights that leave after that moment leave at another time, with another delay, in another aircraft.
            dep_delay=pl.when(gone).then(999).otherwise("dep_delay"),
            dep_at=pl.when(gone).then(pl.col("dep_at") + pl.duration(hours=9)).otherwise("dep_at"),
            late=pl.when(late).then(~pl.col("late")).otherwise("late"),
        ),
        "weather": readings.filter(pl.col("known_at") <= now),
        "planes": lake.scan("validated/planes").collect(),
        "airports": lake.scan("validated/airports").collect(),
    }
    before = features.filter(pl.col("sched_dep_at") - timedelta(hours=2) <= now)

    again = VIEW.offline(before.select(VIEW.request_types.keys()), lambda source, since, until: other[source].lazy())

    assert before.height > 4000
    assert again.select(COMPUTED).equals(before.select(COMPUTED))


def test_the_online_store_answers_with_the_bits_that_training_saw(
    lake: Lake, features: pl.DataFrame, tmp_path: Path
) -> None:
    report = build_online(MODEL, lake=lake, path=tmp_path / "flight_delay.db", run_id="run-1")
    last = features.filter(pl.col("day") == LAST)
    with OnlineStore.open(tmp_path / "flight_delay.db") as store:
        answers = VIEW.online(last.select(VIEW.request_types.keys()), store)
        single = [VIEW.online(last[row].select(VIEW.request_types.keys()), store) for row in range(0, last.height, 97)]

    assert answers.select(COMPUTED).equals(last.select(COMPUTED))
    assert pl.concat(single).select(COMPUTED).equals(last[::97].select(COMPUTED))
    assert report.meta.fingerprint == VIEW.fingerprint
    assert report.meta.newest["weather"] == datetime(2013, 2, 12, 4, 15, tzinfo=UTC)


def test_the_example_request_of_the_declaration_is_answered(lake: Lake, tmp_path: Path) -> None:
    build_online(MODEL, lake=lake, path=tmp_path / "flight_delay.db", run_id="run-1")
    example: dict[str, Any] = {field.name: field.example for field in MODEL.request}
    example["sched_dep_at"] = datetime.fromisoformat(example["sched_dep_at"])
    request = pl.DataFrame([example], schema=VIEW.request_types)
    with OnlineStore.open(tmp_path / "flight_delay.db") as store:
        answer = VIEW.online(request, store)

    # Seventeen days after the last fact nothing recent is known; that no flight left is a fact too.
    assert answer.select("temp", "airport_delay_3h", "airport_departures_3h").row(0) == (None, None, 0)
    assert 0 < answer.get_column("carrier_late_28d").item() < 1


def test_an_unknown_airline_aircraft_or_destination_leaves_every_other_feature_as_it_is(
    lake: Lake, tmp_path: Path
) -> None:
    build_online(MODEL, lake=lake, path=tmp_path / "flight_delay.db", run_id="run-1")
    known = lake.scan("features/flight_delay").filter(pl.col("day") == LAST).drop_nulls("plane_seats").collect()[:1]
    request = known.select(VIEW.request_types.keys())
    strangers = {
        "carrier": {"carrier", "carrier_delay_12h", "carrier_late_28d"},
        "tailnum": {"last_leg_delay", "since_last_leg", "plane_age", "plane_seats"},
        "dest": {"destination_lat", "destination_lon", "route_late_28d"},
    }
    with OnlineStore.open(tmp_path / "flight_delay.db") as store:
        for column, depend in strangers.items():
            stranger = request.with_columns(pl.lit("ZZZ").alias(column))
            answer = VIEW.online(stranger, store)
            moved = {name for name in VIEW.schema if not answer[name].equals(known[name], null_equal=True)}
            assert moved <= depend, column
            assert answer.select(name for name in depend if name != column).row(0) == (None,) * len(depend - {column})
