"""Landed files are read whole, or refused with what is wrong with them."""

from __future__ import annotations

import io
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.readers import Offer, Rows
from pilotage.data.readers.files import FilesReader
from pilotage.data.source import Daily, Files
from pilotage.errors import PilotageError, SchemaChanged, UnreadableFile
from tests.unit.data.landing import HEADER, MONDAY, csv_of, gz, source, zipped

GOOD = csv_of(MONDAY, 5, 7)
NAME = "trips_2013-01-07.csv"


def read(folder: Path, data: bytes, name: str = NAME, **declared: object) -> Rows:
    spec = source(**declared)
    assert isinstance(spec.read, Files)
    (folder / name).write_bytes(data)
    return FilesReader(spec, spec.read, folder).fetch(Offer(name=name, day=MONDAY)).rows()


def refusal(folder: Path, data: bytes, name: str = NAME, **declared: object) -> PilotageError:
    with pytest.raises((UnreadableFile, SchemaChanged)) as refused:
        read(folder, data, name, **declared)
    assert refused.value.message.startswith(name)
    return refused.value


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (NAME, GOOD),
        (NAME + ".gz", gz(GOOD)),
        (NAME + ".zip", zipped(GOOD)),
        (NAME, gz(GOOD)),
        (NAME, b"\xef\xbb\xbf" + GOOD),
        (NAME, GOOD.replace(b"\n", b"\r\n")),
        (NAME, GOOD.rstrip(b"\n")),
        (NAME, GOOD + b"\n\n"),
    ],
    ids=["plain", "gz", "zip", "gz by its bytes", "byte-order mark", "Windows", "no newline at the end", "blank lines"],
)
def test_the_same_rows_come_out_of_every_packing(tmp_path: Path, name: str, data: bytes) -> None:
    rows = read(tmp_path, data, name)
    seen = datetime(2013, 1, 7, 10, tzinfo=UTC)
    assert rows.frame.rows() == [("2013-01-07", "UA", 5, 0.5, seen, []), ("2013-01-07", "UA", 7, 0.5, seen, [])]


def test_columns_are_found_by_name_not_by_place(tmp_path: Path) -> None:
    data = b"delay,seen_at,day,share,carrier\n5,2013-01-07T10:00:00Z,2013-01-07,0.5,UA\n"
    assert read(tmp_path, data).frame["delay"].to_list() == [5]


def test_quoted_separators_and_line_ends_belong_to_their_field(tmp_path: Path) -> None:
    data = f'{HEADER}\n2013-01-07,"U,A\nX",5,0.5,2013-01-07T10:00:00Z\n'.encode()
    assert read(tmp_path, data).frame["carrier"].to_list() == ["U,A\nX"]


def test_a_cell_that_is_no_number_keeps_its_row(tmp_path: Path) -> None:
    rows = read(tmp_path, csv_of(MONDAY, 5, "abc", "NaN", "NA"))
    assert rows.frame["delay"].to_list() == [5, None, None, None]
    assert rows.frame["unparsed"].to_list() == [[], ["delay=abc"], ["delay=NaN"], []]


def test_an_extra_column_is_ignored_and_named(tmp_path: Path) -> None:
    data = GOOD.replace(HEADER.encode(), HEADER.encode() + b",gate").replace(b"Z\n", b"Z,A1\n")
    rows = read(tmp_path, data)
    assert rows.frame.height == 2
    assert [str(change) for change in rows.extra] == ["gate is extra"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (NAME, b"", "is empty: 0 bytes"),
        (NAME, b"\n\n", "is empty: no header and no rows"),
        (NAME, HEADER.encode() + b"\n", "is empty: a header and no rows"),
        (NAME + ".gz", gz(GOOD)[:-9], "is truncated: the gzip stream ends after"),
        (NAME + ".gz", gz(GOOD)[:30] + b"\x00" * 20, "is a corrupt gzip file"),
        (NAME + ".gz", GOOD, "is no gzip file, though its name says so"),
        (NAME + ".zip", zipped(GOOD)[:-12], "is a truncated or corrupt zip file"),
        (NAME + ".zip", zipped(GOOD, "a.csv", "b.csv"), "holds 2 files (a.csv, b.csv) instead of one"),
        (NAME, GOOD[:-25], "ends in the middle of line 3: 4 of 5 fields"),
        (NAME, GOOD.replace(b"UA,5,0.5", b"UA,5"), "line 2 has 4 fields instead of 5"),
        (NAME, GOOD.replace(b"UA,5", b"U,A,5"), "line 2 has 6 fields instead of 5"),
        (NAME, GOOD.replace(b"UA", b'"UA', 1), "a quoted field is probably cut off"),
        (NAME, GOOD.replace(b",", b";"), "has its columns separated by semicolons, not by commas"),
        (NAME, GOOD.replace(b",", b"\t"), "has its columns separated by tabs, not by commas"),
        (NAME, GOOD.replace(b"UA", "Ü".encode("latin-1")), "is not UTF-8: byte 0xDC in line 2"),
        (NAME, GOOD.decode().encode("utf-16"), "looks like UTF-16"),
        (NAME, GOOD.replace(b"share", b"delay"), "has more than one column 'delay'"),
        (NAME, b"\x89PNG\r\n\x1a\n\x00\x00", "looks like UTF-16 or binary data"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_with_the_reason(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    error = refusal(tmp_path, data, name)
    assert message in error.message
    assert error.fix.endswith((".", "then"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"seen_at", b"seen_on", "seen_at is renamed, probably to seen_on"),
        (b"carrier", b"airline", "carrier is missing. (Also: airline is extra.)"),
        (b"delay", b"Delay", "delay is renamed, probably to Delay"),
    ],
)
def test_columns_that_changed_are_named(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    assert message in refusal(tmp_path, GOOD.replace(old, new)).message


def test_a_retyped_column_is_named_with_both_types(tmp_path: Path) -> None:
    error = refusal(tmp_path, csv_of(MONDAY, *(f"{number}.25" for number in range(12))))
    assert "delay is retyped from Int64 to Float64" in error.message


def test_an_optional_column_may_stay_away(tmp_path: Path) -> None:
    data = f"day,carrier,delay,seen_at\n{MONDAY},UA,5,{MONDAY}T10:00:00Z\n".encode()
    assert "share is missing" in refusal(tmp_path, data).message
    assert read(tmp_path, data, optional=("share",)).frame["share"].to_list() == [None]


def read_columns(changes: dict[str, list[object]]) -> pl.DataFrame:
    seen = datetime(2013, 1, 7, 10, tzinfo=UTC)
    columns: dict[str, list[object]] = {
        "day": ["2013-01-07"] * 2,
        "carrier": ["UA", "DL"],
        "delay": [5, 7],
        "share": [0.5, 0.5],
        "seen_at": [seen, seen],
    }
    return pl.DataFrame(columns | changes, strict=False)


PARQUET = Files(pattern=r"trips_(?P<day>[\d-]{10})\.parquet", format="parquet")
NDJSON = Files(pattern=r"trips_(?P<day>[\d-]{10})\.ndjson(\.gz)?", format="ndjson")


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_parquet_is_read_with_other_widths_of_its_types(tmp_path: Path) -> None:
    narrow = read_columns({}).with_columns(pl.col("delay").cast(pl.Int16), pl.col("seen_at").dt.cast_time_unit("ms"))
    rows = read(tmp_path, parquet(narrow), "trips_2013-01-07.parquet", read=PARQUET)
    assert rows.frame["delay"].to_list() == [5, 7]
    assert rows.frame.schema["seen_at"] == pl.Datetime("us", "UTC")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (parquet(read_columns({}))[:-30], "can't be read as Parquet"),
        (parquet(read_columns({}).head(0)), "is empty: it has no rows"),
        (parquet(read_columns({}).rename({"share": "shares"})), "share is renamed, probably to shares"),
        (parquet(pl.concat([read_columns({"carrier": [1, 2]})] * 5)), "carrier is retyped from String to Int64"),
    ],
)
def test_parquet_that_is_wrong_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refusal(tmp_path, data, "trips_2013-01-07.parquet", read=PARQUET).message


def test_json_lines_are_read_and_a_stray_text_is_kept(tmp_path: Path) -> None:
    line = '{"day":"2013-01-07","carrier":"UA","delay":%s,"share":0.5,"seen_at":"2013-01-07T10:00:00Z"}\n'
    data = "".join(line % value for value in ("5", '"abc"', "null")).encode()
    rows = read(tmp_path, gz(data), "trips_2013-01-07.ndjson.gz", read=NDJSON)
    assert rows.frame["delay"].to_list() == [5, None, None]
    assert rows.frame["unparsed"].to_list() == [[], ["delay=abc"], []]


def test_a_cut_json_line_is_named(tmp_path: Path) -> None:
    data = b'{"day":"2013-01-07","carrier":"UA","delay":5,"share":0.5,"seen_at":"x"}\n{"day":"2013'
    error = refusal(tmp_path, data, "trips_2013-01-07.ndjson", read=NDJSON)
    assert "line 2 is no JSON object" in error.message


LINE = b'{"day":"2013-01-07","carrier":"UA","delay":5,"share":0.5,"seen_at":"2013-01-07T10:00:00Z"}\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LINE.replace(b"UA", "Ü".encode("latin-1")), "is not UTF-8: byte 0xDC in line 1"),
        (LINE.decode().encode("utf-16"), "looks like UTF-16"),
        (b"\n\n", "is empty"),
    ],
)
def test_json_of_another_encoding_or_without_a_line_is_named_as_such(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refusal(tmp_path, data, "trips_2013-01-07.ndjson", read=NDJSON).message


def test_a_listing_opens_nothing_and_leaves_unfinished_files_alone(tmp_path: Path) -> None:
    for name in ("trips_2013-01-07.csv", ".trips_2013-01-08.csv.1.tmp", "trips_2013-01-08.csv.part", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "trips_2013-01-32.csv").touch()
    (tmp_path / "trips_2014-01-01.csv").touch()
    for name in ("folder", "trips_2013-01-09.csv"):
        (tmp_path / name).mkdir()
    spec = source()
    assert isinstance(spec.read, Files)
    offers, misfits = FilesReader(spec, spec.read, tmp_path).listing()
    assert [(offer.name, offer.day) for offer in offers] == [("trips_2013-01-07.csv", MONDAY)]
    assert {misfit.name: misfit.reason for misfit in misfits} == {
        "notes.txt": f"its name does not match {spec.read.pattern}",
        "trips_2013-01-09.csv": "it is no file",
        "trips_2013-01-32.csv": "2013-01-32 in its name is no day",
        "trips_2014-01-01.csv": "2014-01-01 is outside the days of the source, 2013-01-01 to 2013-12-31",
    }


def test_a_file_of_a_day_that_has_not_begun_anywhere_fits_no_day_of_a_source_that_goes_on(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    days = [today + timedelta(days=number) for number in (0, 1, 3)]
    for day in days:
        (tmp_path / f"trips_{day}.csv").touch()
    spec = source(daily=Daily(column="day", first=date(2013, 1, 1)))
    assert isinstance(spec.read, Files)
    offers, misfits = FilesReader(spec, spec.read, tmp_path).listing()
    assert [offer.day for offer in offers] == days[:2]
    [misfit] = misfits
    assert misfit.reason == f"{days[2]} is outside the days of the source, 2013-01-01 to today"


def test_a_file_that_is_gone_is_refused_not_empty(tmp_path: Path) -> None:
    spec = source()
    assert isinstance(spec.read, Files)
    with pytest.raises(UnreadableFile, match="No such file"):
        FilesReader(spec, spec.read, tmp_path).fetch(Offer(name=NAME, day=MONDAY))


def test_a_few_bytes_that_hold_more_than_there_is_memory_are_refused(tmp_path: Path) -> None:
    declared = {"read": Files(pattern=r"trips_(?P<day>\d{4}-\d{2}-\d{2})\..*", format="csv", largest=100_000)}
    zeros = GOOD + b"0" * 100_000
    for data, name in ((gz(zeros), f"{NAME}.gz"), (zipped(zeros), f"{NAME}.zip"), (zeros, NAME)):
        assert "holds more than 100,000 bytes" in refusal(tmp_path, data, name, **declared).message
    assert read(tmp_path, gz(GOOD + b"\n" * 1000), f"{NAME}.gz", **declared).frame.height == 2


def test_a_value_that_a_parquet_file_repeats_a_million_times_counts_as_often(tmp_path: Path) -> None:
    spec = source(read=Files(pattern=r"trips_(?P<day>\d{4}-\d{2}-\d{2})\..*", format="parquet", largest=1_000_000))
    pl.select(pl.repeat(1, 1_000_000).alias("delay")).write_parquet(tmp_path / "trips_2013-01-07.parquet")
    assert (tmp_path / "trips_2013-01-07.parquet").stat().st_size < 100_000
    assert isinstance(spec.read, Files)
    with pytest.raises(UnreadableFile, match="holds more than 1,000,000 bytes"):
        FilesReader(spec, spec.read, tmp_path).fetch(Offer(name="trips_2013-01-07.parquet", day=MONDAY)).rows()


def test_a_link_does_not_have_others_read_to_who_may_land_files(tmp_path: Path) -> None:
    (tmp_path / "ledger.key").write_bytes(GOOD)
    folder = tmp_path / "trips"
    folder.mkdir()
    (folder / "current").write_bytes(GOOD)
    (folder / "trips_2013-01-07.csv").symlink_to(tmp_path / "ledger.key")
    (folder / "trips_2013-01-08.csv").symlink_to("nowhere")
    (folder / "trips_2013-01-09.csv").symlink_to("current")
    os.mkfifo(folder / "trips_2013-01-10.csv")
    spec = source()
    assert isinstance(spec.read, Files)
    reader = FilesReader(spec, spec.read, folder)
    offers, misfits = reader.listing()
    assert [offer.name for offer in offers] == ["trips_2013-01-09.csv"]
    assert reader.fetch(offers[0]).rows().frame.height == 2
    told = {misfit.name: misfit.reason for misfit in misfits if misfit.name != "current"}
    assert told == {
        "trips_2013-01-07.csv": "it is a link to what is outside of its landing folder",
        "trips_2013-01-08.csv": "it is no file",
        "trips_2013-01-10.csv": "it is no file",
    }
    # It may have become one since the folder was listed.
    with pytest.raises(UnreadableFile, match="a link to what is outside"):
        reader.fetch(Offer(name="trips_2013-01-07.csv", day=MONDAY))
