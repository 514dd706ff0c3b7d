"""The lake ends up holding the newest readable delivery of every day, however and how often it is asked to."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.ingest import IngestReport, SetAside, ingest, landed, unmatched
from pilotage.data.readers.files import FilesReader
from pilotage.data.source import Files, SourceSpec
from pilotage.errors import DeclarationError, StorageFull
from tests.unit.data.landing import MONDAY, TUESDAY, WEDNESDAY, Landing, csv_of, gz, source


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def run(landing: Landing, *days: date, spec: SourceSpec | None = None, run_id: str = "run-1") -> IngestReport:
    return ingest(
        spec or source(), lake=landing.lake, settings=landing.settings, days=list(days) or None, run_id=run_id
    )


def test_each_file_becomes_its_day_with_its_origin(landing: Landing) -> None:
    data = gz(csv_of(MONDAY, 5, 7))
    landing.land("trips_2013-01-07.csv.gz", data)
    landing.land("trips_2013-01-08.csv", csv_of(TUESDAY, 9))
    report = run(landing)
    assert landing.delays() == {MONDAY: [5, 7], TUESDAY: [9]}
    assert (report.rows, report.days, report.version, report.missing_days) == (3, [MONDAY, TUESDAY], 0, [])
    sha = hashlib.sha256(data).hexdigest()
    row = landing.lake.scan("raw/trips", first=MONDAY, last=MONDAY).collect().row(0, named=True)
    assert (row["source_file"], row["source_sha256"], row["delivered_day"]) == (
        "trips_2013-01-07.csv.gz",
        sha,
        "2013-01-07",
    )
    note = landing.lake.history("raw/trips")[0]
    assert note["run_id"] == "run-1"
    assert json.loads(note["files"])[0] == {
        "name": "trips_2013-01-07.csv.gz",
        "sha256": sha,
        "day": "2013-01-07",
        "rows": 2,
    }


def test_the_same_file_twice_changes_nothing(landing: Landing) -> None:
    path = landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    run(landing)
    path.touch()
    report = run(landing, run_id="run-2")
    assert (report.rows, report.files, report.unchanged, report.version) == (0, [], ["trips_2013-01-07.csv"], 0)
    assert landing.lake.version("raw/trips") == 0


def test_a_corrected_file_replaces_its_day_only(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    landing.land("trips_2013-01-08.csv", csv_of(TUESDAY, 6))
    run(landing)
    landing.land("trips_2013-01-07_v2.csv", csv_of(MONDAY, 1, 2))
    report = run(landing)
    assert landing.delays() == {MONDAY: [1, 2], TUESDAY: [6]}
    assert [file.name for file in report.corrections] == ["trips_2013-01-07_v2.csv"]
    assert report.superseded == [
        SetAside(name="trips_2013-01-07.csv", day=MONDAY, by="trips_2013-01-07_v2.csv", same=False)
    ]
    assert report.unchanged == ["trips_2013-01-08.csv"]


def test_a_file_that_is_overwritten_in_place_replaces_its_day(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    run(landing)
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 6))
    assert run(landing).days == [MONDAY]
    assert landing.delays() == {MONDAY: [6]}


def test_a_duplicate_under_another_name_is_noticed(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    landing.land("trips_2013-01-07_copy.csv", csv_of(MONDAY, 5))
    report = run(landing)
    assert landing.delays() == {MONDAY: [5]}
    assert [(file.name, file.by) for file in report.duplicates] == [
        ("trips_2013-01-07.csv", "trips_2013-01-07_copy.csv")
    ]


def test_a_duplicate_under_the_name_of_another_day_is_rejected_and_named(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    landing.land("trips_2013-01-08.csv", csv_of(MONDAY, 5))
    report = run(landing)
    assert landing.delays() == {MONDAY: [5]}
    assert report.rejected[0].reason == (
        "trips_2013-01-08.csv holds 1 of 1 rows of 2013-01-07, not of 2013-01-08. "
        "It has the same bytes as trips_2013-01-07.csv."
    )


def test_one_row_of_another_day_rejects_its_file(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5) + csv_of(WEDNESDAY, 6).split(b"\n", 1)[1])
    report = run(landing)
    assert "1 of 2 rows of 2013-01-09, not of 2013-01-07" in report.rejected[0].reason
    assert landing.delays() == {}
    assert report.version is None


def test_a_day_that_can_not_be_read_is_left_to_the_contract(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5).replace(b"2013-01-07,", b"yesterday,"))
    assert run(landing).days == [MONDAY]
    assert landing.delays() == {MONDAY: [5]}


def test_late_files_and_any_order_end_in_the_same(landing: Landing) -> None:
    landing.land("trips_2013-01-09.csv", csv_of(WEDNESDAY, 9))
    run(landing)
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 7))
    report = run(landing)
    assert landing.delays() == {MONDAY: [7], WEDNESDAY: [9]}
    assert report.missing_days == [TUESDAY]


def test_only_the_days_asked_for_are_touched(landing: Landing) -> None:
    for day in (MONDAY, TUESDAY):
        landing.land(f"trips_{day}.csv", csv_of(day, 5))
    report = run(landing, TUESDAY, WEDNESDAY)
    assert landing.delays() == {TUESDAY: [5]}
    assert report.missing_days == [WEDNESDAY]


def test_a_day_that_the_lake_holds_is_not_missing_when_its_file_is_gone(landing: Landing) -> None:
    path = landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    run(landing)
    path.unlink()
    assert run(landing, MONDAY).missing_days == []
    assert landing.delays() == {MONDAY: [5]}


def test_a_broken_correction_leaves_the_older_file_in_place(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    broken = landing.land("trips_2013-01-07_v2.csv.gz", gz(csv_of(MONDAY, 6))[:-9])
    report = run(landing)
    assert landing.delays() == {MONDAY: [5]}
    assert [file.name for file in report.rejected] == ["trips_2013-01-07_v2.csv.gz"]
    assert broken.exists()
    broken.unlink()
    landing.land("trips_2013-01-07_v2.csv.gz", gz(csv_of(MONDAY, 6)))
    run(landing)
    assert landing.delays() == {MONDAY: [6]}


def test_an_unusable_file_does_not_stop_the_others(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", b"")
    landing.land("trips_2013-01-08.csv", csv_of(TUESDAY, 5))
    landing.land("notes.txt", b"hello")
    report = run(landing)
    assert landing.delays() == {TUESDAY: [5]}
    assert {file.name for file in report.rejected} == {"trips_2013-01-07.csv", "notes.txt"}
    assert all(file.reason and file.fix for file in report.rejected)
    assert report.missing_days == []


def test_cells_that_can_not_be_read_are_counted(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5, "abc"))
    assert [file.unparsed for file in run(landing).files] == [1]


def test_a_file_that_changes_while_it_is_ingested_is_ingested_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    fetch = FilesReader.fetch

    def corrected_after_reading(self: FilesReader, offer: object, *, position: int | None = None) -> object:
        parcel = fetch(self, offer, position=position)  # type: ignore[arg-type]
        if landing.delays() == {}:
            landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 6))
        return parcel

    monkeypatch.setattr(FilesReader, "fetch", corrected_after_reading)
    report = run(landing)
    assert landing.delays() == {MONDAY: [6]}
    assert [file.rows for file in report.files] == [1]


def test_nothing_is_reported_as_done_when_the_commit_fails(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))

    def full(*_arguments: object, **_options: object) -> None:
        raise StorageFull("No room.", fix="Free space.")

    with monkeypatch.context() as patched:
        patched.setattr(landing.lake, "replace_days", full)
        with pytest.raises(StorageFull):
            run(landing)
    assert landing.delays() == {}
    assert run(landing).days == [MONDAY]


def test_the_newest_file_of_a_source_without_days_is_the_table(landing: Landing) -> None:
    spec = source(
        read=Files(pattern=r"trips.*\.csv", format="csv"), daily=None, prepare=lambda raw: raw, columns={"x": pl.Int64}
    )
    landing.land("trips_1.csv", b"x\n1\n2\n")
    assert run(landing, spec=spec).rows == 2
    landing.land("trips_2.csv", b"x\n3\n")
    report = run(landing, spec=spec)
    assert landing.lake.scan("raw/trips").collect()["x"].to_list() == [3]
    assert [(file.name, file.by) for file in report.superseded] == [("trips_1.csv", "trips_2.csv")]
    assert (report.days, report.missing_days) == ([], [])
    assert run(landing, spec=spec).unchanged == ["trips_2.csv"]


def test_a_prepare_that_drops_rows_is_a_wrong_declaration(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5, 6))
    spec = source(prepare=lambda raw: source().prepare(raw).filter(pl.col("delay") > 5))
    with pytest.raises(DeclarationError, match=r"prepare makes 1 values of day .* out of 2 rows"):
        run(landing, spec=spec)


def test_a_prepare_that_fails_names_the_source(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    with pytest.raises(DeclarationError, match=r"'trips'.*prepare fails on rows of trips_2013-01-07.csv"):
        run(landing, spec=source(prepare=lambda raw: raw.select(pl.col("nonsense"))))


def test_what_has_landed_is_listed_without_reading(landing: Landing) -> None:
    path = landing.land("trips_2013-01-07.csv", b"unreadable \xff")
    landing.land("notes.txt", b"")
    listed = landed(source(), landing.settings)
    assert [(file.name, file.day, file.size, file.modified_ns) for file in listed] == [
        (path.name, MONDAY, 12, path.stat().st_mtime_ns)
    ]
    assert [misfit.name for misfit in unmatched(source(), landing.settings)] == ["notes.txt"]


def test_progress_is_told_in_sentences(landing: Landing) -> None:
    landing.land("trips_2013-01-07.csv", csv_of(MONDAY, 5))
    said: list[str] = []
    ingest(source(), lake=landing.lake, settings=landing.settings, days=None, run_id="r", progress=said.append)
    assert said == [
        "Reading 1 delivery of trips.",
        "Wrote 1 rows of 1 delivery to raw/trips, version 0.",
    ]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["", "_b"]), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_whenever_it_runs_the_lake_holds_the_newest_file_of_every_day(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[tuple[int, str, int, bool]]
) -> None:
    landing = Landing(tmp_path_factory.mktemp("home"))
    newest: dict[date, list[int]] = {}
    for offset, suffix, delay, runs in deliveries:
        day = MONDAY + timedelta(days=offset)
        landing.land(f"trips_{day}{suffix}.csv", csv_of(day, delay))
        newest[day] = [delay]
        if runs:
            run(landing)
    run(landing)
    assert landing.delays() == newest
    assert run(landing).rows == 0


@pytest.mark.parametrize(
    ("format_", "bad", "reason"),
    [
        ("csv", b"day,carrier\r2013-01-07,UA\r", "its header can't be read"),
        ("parquet", pl.DataFrame({"carrier": [b"\xff\xfe"], "day": [None]}), "can't be read as declared"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_and_the_others_go_on(
    landing: Landing, format_: str, bad: bytes | pl.DataFrame, reason: str
) -> None:
    columns = {"day": pl.String, "carrier": pl.String}
    good = pl.DataFrame({"day": [str(TUESDAY)], "carrier": ["UA"]})
    write = {"csv": good.write_csv, "parquet": good.write_parquet}[format_]
    file = Files(pattern=r"trips_(?P<day>\d{4}-\d{2}-\d{2})", format=format_)
    landing.land(f"trips_{MONDAY}", bad if isinstance(bad, bytes) else parquet(bad))
    write(landing.land(f"trips_{TUESDAY}", b""))

    report = run(landing, spec=source(read=file, columns=columns))

    assert report.days == [TUESDAY]
    (rejected,) = report.rejected
    assert rejected.name == f"trips_{MONDAY}"
    assert rejected.reason.startswith(f"trips_{MONDAY}")
    assert reason in rejected.reason


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_a_cell_of_any_length_is_read(landing: Landing) -> None:
    text = "x" * 200_000
    landing.land(f"trips_{MONDAY}.csv", f'day,carrier\n{MONDAY},"{text}"\n'.encode())

    report = run(landing, spec=source(columns={"day": pl.String, "carrier": pl.String}))

    assert (report.rows, report.rejected) == (1, [])
    assert landing.lake.scan("raw/trips").collect()["carrier"].to_list() == [text]
