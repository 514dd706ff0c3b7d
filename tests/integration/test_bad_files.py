"""What can go wrong with landed files, on real flights: each is named with its fix, and nothing is lost."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.sources.flights import SOURCE as FLIGHTS
from pilotage.data.ingest import IngestReport, ingest
from pilotage.data.lake import Lake
from pilotage.data.sample import publish_flights
from pilotage.errors import StorageFull
from pilotage.settings import Settings

FIRST = date(2013, 2, 1)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A week of flights as the airlines deliver them."""
    landing = tmp_path_factory.mktemp("delivered")
    publish_flights(landing, first=FIRST, last=FIRST + timedelta(days=6))
    return landing / "flights"


@pytest.fixture
def settings(delivered: Path, tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    shutil.copytree(delivered, settings.landing / "flights")
    return settings


def name(offset: int) -> str:
    return f"flights_{FIRST + timedelta(days=offset)}.csv.gz"


def run(settings: Settings) -> IngestReport:
    return ingest(FLIGHTS, lake=Lake(settings.lake), settings=settings, days=None, run_id="run")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def text(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_every_bad_file_is_named_and_the_good_days_go_on(settings: Settings) -> None:
    folder = settings.landing / "flights"
    good = folder / name(0)
    (folder / name(1)).write_bytes((folder / name(1)).read_bytes()[:5000])  # truncated
    (folder / name(2)).write_bytes(gzip.compress(text(folder / name(2)).replace(b",", b";")))  # wrong separator
    (folder / name(3)).write_bytes(gzip.compress(text(folder / name(3)).decode().encode("utf-16")))  # wrong encoding
    (folder / name(4)).write_bytes(b"")  # empty
    (folder / name(5)).write_bytes(good.read_bytes())  # another date, and a duplicate under another name
    (folder / name(6)).unlink()
    half = folder / name(6).removesuffix(".gz")
    half.write_bytes(text(folder / name(0)).replace(b"2013,2,1,", b"2013,2,7,")[:-40])  # half a row
    with zipfile.ZipFile(folder / "flights_2013-02-08.csv.zip", "w") as archive:
        archive.writestr("flights.csv", text(good))
    archived = folder / "flights_2013-02-08.csv.zip"
    archived.write_bytes(archived.read_bytes()[:-100])  # truncated zip
    (folder / "readme.txt").write_text("hello")
    before = contents(folder)

    report = run(settings)

    reasons = {file.name: file.reason for file in report.rejected}
    assert "is truncated: the gzip stream ends after 5000 bytes" in reasons[name(1)]
    assert "separated by semicolons, not by commas" in reasons[name(2)]
    assert "looks like UTF-16" in reasons[name(3)]
    assert "is empty: 0 bytes" in reasons[name(4)]
    assert "of 2013-02-01, not of 2013-02-06. It has the same bytes as flights_2013-02-01.csv.gz" in reasons[name(5)]
    assert "ends in the middle of line" in reasons[half.name]
    assert "truncated or corrupt zip file" in reasons[archived.name]
    assert "does not match" in reasons["readme.txt"]
    assert len(reasons) == 8
    assert all(file.fix for file in report.rejected)
    assert report.days == [FIRST]
    assert Lake(settings.lake).scan("raw/flights").select(pl.len()).collect().item() == text(good).count(b"\n") - 1
    assert contents(folder) == before


def test_a_file_that_is_corrected_after_its_rejection_is_taken(settings: Settings, delivered: Path) -> None:
    path = settings.landing / "flights" / name(3)
    path.write_bytes(path.read_bytes()[:-1])
    assert [file.name for file in run(settings).rejected] == [name(3)]
    shutil.copy(delivered / name(3), path)
    report = run(settings)
    assert (report.days, report.rejected) == ([FIRST + timedelta(days=3)], [])
    assert len(report.unchanged) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda data: data.replace(b"dep_delay", b"departure_delay"),
            "dep_delay is renamed, probably to departure_delay",
        ),
        (lambda data: data.replace(b"tailnum", b"aircraft"), "tailnum is missing. (Also: aircraft is extra.)"),
        (lambda data: data.replace(b",UA,", b",UA,x"), "flight is retyped from Int64 to String"),
    ],
    ids=["renamed", "missing", "retyped"],
)
def test_a_changed_schema_is_named(
    settings: Settings, delivered: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    path = settings.landing / "flights" / name(2)
    rows = text(path).splitlines(keepends=True)
    united = [rows[0], *(row for row in rows[1:] if b",UA," in row)]
    path.write_bytes(gzip.compress(change(b"".join(united))))
    report = run(settings)
    assert [reason in file.reason for file in report.rejected] == [True]
    assert len(report.days) == 6


def test_a_text_where_a_number_must_be_loses_no_row(settings: Settings) -> None:
    path = settings.landing / "flights" / name(2)
    rows = text(path)
    path.write_bytes(gzip.compress(rows.replace(b",UA,", b",UA,NaN#", 1)))
    report = run(settings)
    assert report.rejected == []
    day = FIRST + timedelta(days=2)
    stored = Lake(settings.lake).scan("raw/flights", first=day, last=day).collect()
    assert stored.height == rows.count(b"\n") - 1
    assert stored.filter(pl.col("unparsed").list.len() > 0)["unparsed"].to_list()[0][0].startswith("flight=NaN#")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        disk = tmp_path / f"disk_{kib}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can't be mounted: it needs root and the right to mount a tmpfs")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kib", [40, 64, 100, 160])
def test_a_full_disk_loses_nothing_and_leaves_nothing_half_written(
    settings: Settings, small_disk: Callable[[int], Path], kib: int
) -> None:
    disk = small_disk(kib)
    lake = Lake(str(disk / "lake"))
    folder = settings.landing / "flights"
    before = contents(folder)
    first = ingest(FLIGHTS, lake=lake, settings=settings, days=[FIRST], run_id="fits") if kib > 64 else None
    with pytest.raises(StorageFull, match="No room is left to write raw/flights; nothing was committed"):
        ingest(FLIGHTS, lake=lake, settings=settings, days=None, run_id="does not fit")
    assert lake.days("raw/flights") == ([FIRST] if first else [])
    assert contents(folder) == before
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = ingest(FLIGHTS, lake=lake, settings=settings, days=None, run_id="fits now")
    assert len(again.days) == (6 if first else 7)
    assert lake.scan("raw/flights").select(pl.len()).collect().item() == sum(
        text(path).count(b"\n") - 1 for path in folder.iterdir()
    )
