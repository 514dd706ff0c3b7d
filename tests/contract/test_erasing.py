"""Rows are taken out of a table for good, in a folder and in an object store over HTTP: the bytes are searched."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from pilotage.data.erasing import erase, look
from pilotage.data.lake import Lake
from pilotage.errors import RowsErased
from tests.lakes import MONDAY, TUESDAY, WEDNESDAY
from tests.object_store import ObjectStore

NAME, AMOUNT = "Quirinius-Zebedee", 918_273.645
TABLE = "raw/people"
DAYS = [MONDAY, TUESDAY, WEDNESDAY]


@pytest.fixture(params=["folder", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty one."""
    if request.param == "folder":
        return Lake(str(tmp_path / "a lake"))
    store: ObjectStore = request.getfixturevalue("object_store")
    return Lake(f"{store.bucket()}/prefix")


def people(days: list[date], *, extra: float = 0.0) -> pl.DataFrame:
    """Two people a day; on Tuesday also the one who is to be erased, whose amount is the largest."""
    rows = [(day, name, amount + extra) for day in days for name, amount in (("Ada", 1.5), ("Zoe", 2.5))]
    rows += [(TUESDAY, NAME, AMOUNT)] if TUESDAY in days else []
    return pl.DataFrame(rows, schema={"day": pl.Date, "name": pl.String, "amount": pl.Float64}, orient="row")


def theirs(rows: pl.DataFrame) -> pl.Series:
    return rows["name"] == NAME


def contents(lake: Lake, table: str = TABLE) -> Iterator[tuple[str, bytes]]:
    """Every file of a table, as it is and, of a Parquet file, with every cell as text."""
    folder = lake.folder(table)
    for file in folder._list(""):
        content = folder.read(file.path)
        yield file.path, content
        if file.path.endswith(".parquet"):
            yield file.path, repr(pl.read_parquet(io.BytesIO(content)).to_dicts()).encode()


def told(lake: Lake, table: str = TABLE) -> list[str]:
    """The files that tell of them."""
    return [path for path, content in contents(lake, table) if NAME.encode() in content or b"918273.645" in content]


def test_every_byte_of_them_is_gone_from_every_version_the_log_and_its_checkpoints(lake: Lake) -> None:
    lake.replace_days(TABLE, people(DAYS), DAYS, note={})
    lake.replace_days(TABLE, people([MONDAY, TUESDAY], extra=1.0), [MONDAY, TUESDAY], note={})
    DeltaTable(f"{lake.uri}/{TABLE}").create_checkpoint()
    lake.replace_days(TABLE, people([WEDNESDAY], extra=2.0), [WEDNESDAY], note={})
    assert any("_delta_log" in path and "checkpoint" in path for path in told(lake))
    found = look(lake, TABLE, theirs)
    assert (found.rows, found.old_files) == (1, 1)

    assert not erase(lake, TABLE, theirs, note={"pilotage": "erasure"})

    assert told(lake) == []
    assert not look(lake, TABLE, theirs)
    left = lake.scan(TABLE).sort("day", "name").collect()
    assert left["name"].to_list() == ["Ada", "Zoe"] * 3
    assert left["amount"].to_list() == [2.5, 3.5, 2.5, 3.5, 3.5, 4.5]
    assert lake.history(TABLE, 1)[0]["pilotage"] == "erasure"


def test_only_what_was_made_of_their_files_can_not_be_read_any_more(lake: Lake) -> None:
    lake.replace_days(TABLE, people([MONDAY]), [MONDAY], note={})
    lake.replace_days(TABLE, people([TUESDAY]), [TUESDAY], note={})
    lake.replace_days(TABLE, people([WEDNESDAY]), [WEDNESDAY], note={})
    erase(lake, TABLE, theirs, note={})
    assert lake.scan(TABLE, version=0).collect().height == 2
    for version in (1, 2):
        with pytest.raises(RowsErased, match=f"Version {version} of {TABLE} can't be read any more: one of its files"):
            lake.scan(TABLE, version=version)
    assert lake.scan(TABLE, version=3).collect().height == 6


def test_what_only_older_versions_hold_is_erased_without_a_new_one(lake: Lake) -> None:
    lake.replace("raw/all", people(DAYS).drop("day"), note={})
    lake.replace("raw/all", people([MONDAY]).drop("day"), note={})
    assert not erase(lake, "raw/all", theirs, note={})
    assert told(lake, "raw/all") == []
    assert lake.version("raw/all") == 1


def test_a_table_of_nobody_else_is_empty_and_keeps_its_columns_and_its_place(lake: Lake) -> None:
    only = people([TUESDAY]).filter(pl.col("name") == NAME).drop("day")
    lake.append("raw/all", only, note={}, app_id="ingest/all", sequence=7)
    erase(lake, "raw/all", theirs, note={})
    assert lake.scan("raw/all").collect().schema == only.schema
    assert lake.scan("raw/all").collect().is_empty()
    assert lake.sequence("raw/all", "ingest/all") == 7
    assert told(lake, "raw/all") == []


class Killed(Exception):
    """The process ended here."""


@pytest.mark.parametrize("at", range(6))
def test_an_erasure_that_was_killed_is_finished_by_the_next_one(lake: Lake, at: int) -> None:
    lake.replace_days(TABLE, people(DAYS), DAYS, note={})
    lake.replace_days(TABLE, people([TUESDAY], extra=1.0), [TUESDAY], note={})
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == at + 1:
            raise Killed

    try:
        erase(lake, TABLE, theirs, note={}, step=step)
    except Killed:
        assert at < 5
        if steps[-1] != "deleted" or at == 3:
            assert look(lake, TABLE, theirs), "what is left must be seen"
    assert not erase(lake, TABLE, theirs, note={})
    assert told(lake) == []
    assert lake.scan(TABLE).collect().height == 6


def test_a_file_that_a_writer_may_be_at_is_left_and_told(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.replace_days(TABLE, people([MONDAY]), [MONDAY], note={})
    stray = Path(lake.uri) / TABLE / "day=2013-01-08" / "part-00000-being-written.parquet"
    stray.parent.mkdir()
    people([TUESDAY]).drop("day").write_parquet(stray)
    assert [each.file.name for each in erase(lake, TABLE, theirs, note={}).files] == [stray.name]
    assert stray.exists()
    long_ago = datetime(2013, 1, 8).timestamp()
    os.utime(stray, (long_ago, long_ago))
    assert not erase(lake, TABLE, theirs, note={})
    assert not stray.exists()


def test_rows_that_others_write_meanwhile_are_erased_too_and_theirs_are_kept(lake: Lake) -> None:
    lake.replace_days(TABLE, people(DAYS), DAYS, note={})
    written: list[int] = []

    def step(name: str) -> None:
        if name == "rewritten" and not written:
            written.append(lake.replace_days(TABLE, people([TUESDAY], extra=5.0), [TUESDAY], note={}).version)

    assert not erase(lake, TABLE, theirs, note={}, step=step)
    assert written
    assert told(lake) == []
    assert sorted(lake.scan(TABLE, first=TUESDAY, last=TUESDAY).collect()["amount"]) == [6.5, 7.5]


@pytest.mark.parametrize("by_day", [True, False], ids=["daily", "undated"])
def test_rows_that_are_appended_while_it_reads_are_kept(lake: Lake, by_day: bool) -> None:
    days = people(DAYS) if by_day else people(DAYS).drop("day")
    lake.append(TABLE, days, note={}, app_id="a", sequence=1, by_day=by_day)
    more = days.filter(pl.col("name") == "Ada").with_columns(name=pl.lit("Late"))
    appended: list[int] = []

    def meanwhile(rows: pl.DataFrame) -> pl.Series:
        if not appended and rows.height > 1:
            appended.append(lake.append(TABLE, more, note={}, app_id="a", sequence=2).rows)
        return theirs(rows)

    look(lake, TABLE, theirs)
    lake.rewrite(TABLE, lambda rows: rows.filter(~meanwhile(rows)), days=[TUESDAY] if by_day else [], note={})
    assert appended == [3]
    assert sorted(lake.scan(TABLE).collect()["name"]) == ["Ada"] * 3 + ["Late"] * 3 + ["Zoe"] * 3
    assert lake.sequence(TABLE, "a") == 2
