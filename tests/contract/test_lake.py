"""The lake keeps what was written, replaces days atomically, and says who is to blame when it can't: in a folder, and
in an object store over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from pilotage.data.lake import Lake
from pilotage.data.lake_commits import CONFIGURATION
from pilotage.data.query import query
from pilotage.errors import CommitConflict, LakeError, UnpublishedData
from tests.lakes import MONDAY, TUESDAY, WEDNESDAY, counts, rows
from tests.object_store import ObjectStore


@pytest.fixture(params=["folder", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty one."""
    if request.param == "folder":
        return Lake(str(tmp_path / "lake"))
    store: ObjectStore = request.getfixturevalue("object_store")
    return Lake(f"{store.bucket()}/prefix")


def test_what_is_read_is_what_was_written(lake: Lake) -> None:
    frame = pl.DataFrame(
        {
            "day": [MONDAY],
            "at": [datetime(2013, 1, 7, 5, 17, 0, 1, tzinfo=UTC)],
            "text": ['ü,\n"quoted"'],
            "flag": [None],
            "many": [["a", "b"]],
            "x": [1.5],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "flag": pl.Boolean},
    )
    lake.replace_days("raw/flights", frame, [MONDAY], note={})
    assert_frame_equal(lake.scan("raw/flights").collect(), frame, check_column_order=False)


def test_replacing_a_day_leaves_the_others_and_empties_a_day_without_rows(lake: Lake) -> None:
    lake.replace_days("raw/flights", rows(monday=2, tuesday=3, wednesday=4), [MONDAY, TUESDAY, WEDNESDAY], note={})
    commit = lake.replace_days("raw/flights", rows(monday=7), [MONDAY, WEDNESDAY], note={})
    assert counts(lake) == {MONDAY: 7, TUESDAY: 3}
    assert (commit.version, commit.rows, commit.days) == (1, 7, [MONDAY, WEDNESDAY])
    assert lake.days("raw/flights") == [MONDAY, TUESDAY]


def test_days_are_read_inclusively(lake: Lake) -> None:
    lake.replace_days("raw/flights", rows(monday=1, tuesday=2, wednesday=3), [MONDAY, TUESDAY, WEDNESDAY], note={})
    read = lake.scan("raw/flights", first=MONDAY, last=TUESDAY).collect()
    assert read["day"].unique().sort().to_list() == [MONDAY, TUESDAY]
    assert len(lake.file_uris("raw/flights", first=TUESDAY)) == 2


def test_an_older_version_stays_readable(lake: Lake) -> None:
    lake.replace_days("raw/flights", rows(monday=1), [MONDAY], note={})
    lake.replace_days("raw/flights", rows(monday=9), [MONDAY], note={})
    assert lake.scan("raw/flights", version=0).collect().height == 1
    assert lake.scan("raw/flights").collect().height == 9
    assert lake.versions(["raw/flights"]) == {"raw/flights": 1}


def test_a_table_that_does_not_exist_is_named_with_what_makes_it(lake: Lake) -> None:
    with pytest.raises(UnpublishedData, match=r"no validated/flights .* Fix: Materialise .* validated/flights"):
        lake.scan("validated/flights")
    with pytest.raises(UnpublishedData, match=r"no features/tiny .* Fix: Materialise the asset tiny/features"):
        lake.scan("features/tiny")
    assert not lake.exists("validated/flights")
    assert lake.days("validated/flights") == []


def test_a_version_that_does_not_exist_is_named(lake: Lake) -> None:
    lake.replace("raw/planes", pl.DataFrame({"x": [1]}), note={})
    with pytest.raises(UnpublishedData, match=r"no version 7 of raw/planes .* Fix: Its newest version is \d"):
        lake.scan("raw/planes", version=7)


@pytest.mark.parametrize("table", ["../escape", "raw", "raw/Flights", "raw/../../etc"])
def test_a_name_that_leaves_the_lake_is_refused(lake: Lake, table: str) -> None:
    with pytest.raises(LakeError, match="no name of a table"):
        lake.exists(table)


def test_rows_of_a_day_that_is_not_replaced_are_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="rows of 2013-01-08 are among those of 2013-01-07"):
        lake.replace_days("raw/flights", rows(monday=1, tuesday=1), [MONDAY], note={})
    assert not lake.exists("raw/flights")


@pytest.mark.parametrize(
    ("column", "fix"),
    [
        (pl.Series("x", ["a"], dtype=pl.Enum(["a"])), "pl.String"),
        (pl.Series("x", ["a"], dtype=pl.Categorical), "pl.String"),
        (pl.Series("x", [None]), "the type that it would have with values"),
        (pl.Series("x", [timedelta(1)]), "microseconds"),
        (pl.Series("x", [datetime(2013, 1, 1)], dtype=pl.Datetime("ns")), 'pl.Datetime("us", "UTC")'),
        (pl.Series("x", [[None]]), "the type that it would have with values"),
    ],
)
def test_a_type_that_delta_would_lose_is_refused_by_name(lake: Lake, column: pl.Series, fix: str) -> None:
    with pytest.raises(LakeError) as refused:
        lake.replace("raw/planes", column.to_frame(), note={})
    assert "raw/planes: column x is" in refused.value.message
    assert fix in refused.value.fix
    assert not lake.exists("raw/planes")


def test_unsigned_numbers_become_signed_without_loss(lake: Lake) -> None:
    lake.replace("raw/planes", pl.DataFrame({"x": pl.Series([2**32 - 1], dtype=pl.UInt32)}), note={})
    assert lake.scan("raw/planes").collect()["x"].to_list() == [2**32 - 1]
    assert lake.schema("raw/planes") == pl.Schema({"x": pl.Int64()})


def test_a_column_of_another_type_is_refused_instead_of_cast(lake: Lake) -> None:
    lake.replace_days("raw/flights", rows(monday=1), [MONDAY], note={})
    with pytest.raises(LakeError, match="x is String, and Int64 in the table"):
        lake.replace_days("raw/flights", rows(monday=1).cast({"x": pl.String}), [MONDAY], note={})
    assert counts(lake) == {MONDAY: 1}


def test_a_new_column_is_null_in_the_days_before_it(lake: Lake) -> None:
    lake.replace_days("raw/flights", rows(monday=1, tuesday=1), [MONDAY, TUESDAY], note={})
    lake.replace_days("raw/flights", rows(tuesday=1).with_columns(y=pl.lit(2.0)), [TUESDAY], note={})
    lake.replace_days("raw/flights", rows(wednesday=1), [WEDNESDAY], note={})
    assert lake.scan("raw/flights").sort("day").collect()["y"].to_list() == [None, 2.0, None]


def test_replacing_a_whole_table_replaces_its_columns(lake: Lake) -> None:
    lake.replace("raw/planes", pl.DataFrame({"x": [1, 2]}), note={})
    lake.replace("raw/planes", pl.DataFrame({"y": ["a"]}), note={})
    assert lake.scan("raw/planes").collect().to_dict(as_series=False) == {"y": ["a"]}


def test_the_note_is_in_the_history(lake: Lake) -> None:
    files = json.dumps([{"name": "a.csv", "sha256": "0" * 64}])
    lake.replace_days("raw/flights", rows(monday=1), [MONDAY], note={"run_id": "r1", "files": files})
    newest = lake.history("raw/flights")[0]
    assert (newest["version"], newest["run_id"], json.loads(newest["files"])[0]["name"]) == (0, "r1", "a.csv")


def test_an_append_happens_once(lake: Lake) -> None:
    for _ in range(2):
        lake.append("raw/loans", pl.DataFrame({"id": [1, 2]}), note={}, app_id="ingest", sequence=2)
    again = lake.append("raw/loans", pl.DataFrame({"id": [1]}), note={}, app_id="ingest", sequence=1)
    assert again.rows == 0
    lake.append("raw/loans", pl.DataFrame({"id": [3]}), note={}, app_id="ingest", sequence=3)
    lake.append("raw/loans", pl.DataFrame({"id": [9]}), note={}, app_id="other", sequence=1)
    assert lake.scan("raw/loans").collect()["id"].sort().to_list() == [1, 2, 3, 9]
    assert lake.sequence("raw/loans", "ingest") == 3


def test_an_append_that_follows_what_is_no_longer_the_end_is_a_conflict(lake: Lake) -> None:
    lake.append("raw/loans", pl.DataFrame({"id": [1, 2]}), note={}, app_id="ingest", sequence=2)
    with pytest.raises(CommitConflict, match="ingest is at 2, not at 0"):
        lake.append("raw/loans", pl.DataFrame({"id": [1, 2, 3]}), note={}, app_id="ingest", sequence=3, after=0)
    assert lake.scan("raw/loans").collect().height == 2


def test_all_tables_are_listed(lake: Lake) -> None:
    assert lake.tables() == []
    lake.replace("raw/planes", pl.DataFrame({"x": [1]}), note={})
    lake.replace_days("validated/flights", rows(monday=1), [MONDAY], note={})
    assert lake.tables() == ["raw/planes", "validated/flights"]


def test_a_table_whose_types_change_keeps_its_days_its_log_and_what_was_appended(lake: Lake) -> None:
    first = pl.DataFrame({"day": [MONDAY, TUESDAY], "x": [1, 2]})
    lake.append("raw/flights", first, note={}, app_id="a", sequence=7, by_day=True)

    later = pl.DataFrame({"day": [TUESDAY], "x": [2.5], "y": ["new"]})
    lake.replace_days("raw/flights", later, [TUESDAY], note={"run_id": "r"}, retypes=True)

    held = lake.scan("raw/flights").sort("day").select("day", "x", "y").collect()
    assert held.rows() == [(MONDAY, 1.0, None), (TUESDAY, 2.5, "new")]
    assert lake.days("raw/flights") == [MONDAY, TUESDAY]
    assert lake.sequence("raw/flights", "a") == 7
    table = DeltaTable(f"{lake.uri}/raw/flights")
    assert table.metadata().partition_columns == ["day"]
    assert table.metadata().configuration == CONFIGURATION


def test_writers_at_once_lose_nothing_and_repeat_nothing(lake: Lake) -> None:
    def write(writer: int) -> None:
        other = Lake(lake.uri)
        for sequence in range(4):
            frame = pl.DataFrame({"day": [MONDAY], "writer": [writer], "sequence": [sequence]})
            other.append("raw/loans", frame, note={}, app_id=f"w{writer}", sequence=sequence, by_day=True)
            other.replace_days("raw/flights", rows(monday=writer + 1), [MONDAY], note={})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    held = lake.scan("raw/loans").select("writer", "sequence").collect()
    assert sorted(held.rows()) == [(writer, sequence) for writer in range(3) for sequence in range(4)]
    assert counts(lake)[MONDAY] in (1, 2, 3)
    assert lake.version("raw/flights") == 11


def test_it_is_queried(lake: Lake) -> None:
    lake.replace_days("validated/flights", rows(monday=2, tuesday=3), [MONDAY, TUESDAY], note={})
    lake.replace("raw/planes", pl.DataFrame({"x": [1], "name": ["a"]}), note={})
    found = query(lake, "SELECT p.name, count(*) AS n FROM validated.flights JOIN raw.planes AS p USING (x) GROUP BY 1")
    assert found.rows() == [("a", 2)]


def test_a_store_that_does_not_answer_is_named_in_a_line_and_without_its_secret(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = object_store.bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    lake = Lake(uri)

    def refused(ask: Callable[[], object]) -> LakeError:
        with pytest.raises(LakeError, match=f"can't be .* {uri}: .*127.0.0.1") as caught:
            ask()
        return caught.value

    asks = (
        lake.tables,
        lambda: lake.exists("raw/flights"),
        lambda: lake.days("raw/flights"),
        lambda: lake.scan("raw/flights", version=3),
        lambda: lake.sequence("raw/flights", "ingest"),
        lambda: lake.replace("raw/flights", pl.DataFrame({"x": [1]}), note={}),
    )
    # All at once: each tries for seconds.
    with ThreadPoolExecutor(len(asks)) as pool:
        for error in pool.map(refused, asks):
            assert object_store.secret not in str(error)
            assert error.message.isprintable(), error.message


def test_a_bucket_that_is_not_there_is_named(object_store: ObjectStore) -> None:
    with pytest.raises(LakeError, match=r"s3://no-such-bucket.*NoSuchBucket"):
        Lake("s3://no-such-bucket").replace("raw/flights", pl.DataFrame({"x": [1]}), note={})
