"""History lands as it was known: what was still in the air has no arrival yet."""

import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.models.flight_delay import MODEL
from assets.models.loan_approval import MODEL as LOANS
from assets.sources import flights, load_sources, weather
from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.validate import validate
from pilotage.errors import ConfigError
from pilotage.replay.landing import Archive, archive_of
from pilotage.replay.nights import night
from pilotage.settings import Settings

DAY = date(2013, 3, 1)


@pytest.fixture(scope="module")
def archive() -> Archive:
    return archive_of(MODEL, load_sources())


def landed(folder: Path) -> list[dict[str, str]]:
    header, *lines = gzip.decompress((folder / "flights" / f"flights_{DAY}.csv.gz").read_bytes()).decode().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_what_lands_at_a_moment_holds_no_arrival_that_became_known_later(archive: Archive, tmp_path: Path) -> None:
    noon = datetime(2013, 3, 1, 17, tzinfo=UTC)
    assert archive.land(tmp_path, DAY, known_by=noon) == 2
    rows = landed(tmp_path)
    known = {(row["carrier"], row["flight"], row["origin"]): row for row in archive.events(DAY).to_dicts()}
    assert len(rows) == len(known)
    for row in rows:
        truth = known[row["carrier"], int(row["flight"]), row["origin"]]
        in_time = truth["arr_known_at"] is not None and truth["arr_known_at"] <= noon
        assert (row["air_time"] != "NA") == in_time
        left = truth["dep_at"] is not None and truth["dep_at"] <= noon
        assert (row["dep_delay"] != "NA") == left


def test_a_file_is_landed_again_only_when_more_is_known(archive: Archive, tmp_path: Path) -> None:
    evening = night(MODEL, DAY)
    assert archive.land(tmp_path, DAY, known_by=evening) == 2
    assert archive.land(tmp_path, DAY, known_by=evening) == 0
    later = evening + timedelta(days=2)
    assert archive.land(tmp_path, DAY, known_by=later) == 1
    assert archive.land(tmp_path, DAY, known_by=later + timedelta(days=1)) == 0


def test_the_platform_takes_up_what_is_not_complete_yet_and_its_correction(archive: Archive, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    lake = Lake(settings.lake)
    labels = []
    for known_by in (night(MODEL, DAY), night(MODEL, DAY) + timedelta(days=2)):
        archive.land(settings.landing, DAY, known_by=known_by)
        for source in (flights.SOURCE, weather.SOURCE):
            plain = source.model_copy(update={"expectations": ()})
            ingest(plain, lake=lake, settings=settings, days=None, run_id="test")
            validate(plain, lake=lake, reports=settings.reports, days=None, run_id="test")
        labels.append(lake.scan("validated/flights").select(pl.col("late").count()).collect().item())
    assert 0 < labels[0] < labels[1]
    complete = archive.events(DAY)
    validated = lake.scan("validated/flights").collect()
    assert validated.sort("flight_id")["late"].to_list() == complete.sort("flight_id")["late"].to_list()


def test_what_cannot_be_replayed_is_named(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loan_approval"):
        archive_of(LOANS, load_sources())
    with pytest.raises(ConfigError, match="2014-01-01"):
        archive.land(tmp_path, date(2014, 1, 1), known_by=night(MODEL, date(2014, 1, 1)))
    assert archive.events(date(2014, 1, 1)).is_empty()
