"""What a home lacks is read from its landing folder, its lake and its ledger, so an interrupted start goes on."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from pilotage.cli import missing, sample
from pilotage.data.lake import Lake
from pilotage.settings import Settings
from tests.unit.cli.ledgers import promoted, registered

DAYS = [sample.FIRST + timedelta(days=offset) for offset in range((sample.LAST - sample.FIRST).days + 1)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake(settings.lake)


def put(lake: Lake, table: str, days: list[date]) -> None:
    lake.replace_days(table, pl.DataFrame({"day": days, "rows": [1] * len(days)}), days, note={})


def land(settings: Settings, days: list[date]) -> None:
    for name in sample.DAILY:
        folder = settings.landing / name
        folder.mkdir(parents=True, exist_ok=True)
        for day in days:
            (folder / f"{name}_{day}.csv").write_text("x\n")


def test_an_empty_home_lacks_everything(settings: Settings) -> None:
    found = missing.find(settings)
    assert found.models == ["flight_delay", "loan_approval"]
    assert found.land
    assert found.tables
    assert found.ingest is None
    assert list(settings.home.iterdir()) == []


def test_days_that_landed_and_were_not_judged_are_to_be_ingested(settings: Settings, lake: Lake) -> None:
    land(settings, DAYS)
    put(lake, "verdict/flights", DAYS[:50])
    put(lake, "verdict/weather", DAYS)
    found = missing.find(settings)
    assert not found.land
    assert found.ingest == [DAYS[50].isoformat(), DAYS[-1].isoformat()]


def test_a_day_that_was_judged_and_refused_is_not_asked_for_again(settings: Settings, lake: Lake) -> None:
    land(settings, DAYS)
    for name in sample.DAILY:
        put(lake, f"verdict/{name}", DAYS)
        put(lake, f"validated/{name}", DAYS[:-1])
    found = missing.find(settings)
    assert found.ingest is None
    assert found.features == [DAYS[0].isoformat(), DAYS[-2].isoformat()]


def test_features_that_are_there_are_not_made_again(settings: Settings, lake: Lake) -> None:
    land(settings, DAYS)
    for table in ("verdict/flights", "verdict/weather", "validated/flights", "validated/weather"):
        put(lake, table, DAYS)
    put(lake, "features/flight_delay", DAYS)
    for name in ("planes", "airports", "loans"):
        lake.replace(f"validated/{name}", pl.DataFrame({"x": [1]}), note={})
    found = missing.find(settings)
    assert (found.ingest, found.features, found.tables) == (None, None, False)
    assert found.models == ["flight_delay", "loan_approval"]


def test_a_part_of_the_sample_that_did_not_land_is_to_be_landed(settings: Settings) -> None:
    land(settings, DAYS[:-1])
    assert missing.find(settings).land


def test_a_version_that_passed_but_was_not_promoted_is_releasable(settings: Settings) -> None:
    registered(settings, "loan_approval")
    found = missing.find(settings)
    assert found.releasable == ["loan_approval"]
    assert found.champions == []


def test_with_every_champion_in_place_nothing_is_looked_for(settings: Settings) -> None:
    for model in ("loan_approval", "flight_delay"):
        registered(settings, model)
        promoted(settings, model)
    found = missing.find(settings)
    assert found.models == []
    assert not found.land
    assert [(entry["model"], entry["version"]) for entry in found.champions] == [
        ("loan_approval", 1),
        ("flight_delay", 1),
    ]
    assert found.champions[0]["detail"].endswith("10 rows from 2013-01-01 to 2013-02-28")


def test_nobody_waits_for_the_champion_of_a_model_whose_file_is_gone(settings: Settings) -> None:
    for model in ("loan_approval", "old_model"):
        registered(settings, model)
        promoted(settings, model)
    assert [entry["model"] for entry in missing.find(settings).champions] == ["loan_approval"]
