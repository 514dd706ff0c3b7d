"""SQL over the lake reads its newest version, and can reach nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from pilotage.data.lake import Lake
from pilotage.data.query import query
from pilotage.errors import ConfigError

MONDAY, TUESDAY = date(2013, 1, 7), date(2013, 1, 8)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "it's a lake"))
    at = datetime(2013, 1, 7, 5, tzinfo=UTC)
    flights = pl.DataFrame(
        {"day": [MONDAY, MONDAY, TUESDAY], "delay": [5, None, 7], "left_at": [at] * 3},
        schema_overrides={"left_at": pl.Datetime("us", "UTC")},
    )
    lake.replace_days("raw/flights", flights, [MONDAY, TUESDAY], note={})
    lake.replace("raw/planes", pl.DataFrame({"tailnum": ["N1"]}), note={})
    return lake


def test_days_are_dates_and_times_are_utc(lake: Lake) -> None:
    answer = query(
        lake, "SELECT day, avg(delay) AS delay, max(left_at) AS newest FROM raw.flights GROUP BY day ORDER BY day"
    )
    assert answer.rows() == [
        (MONDAY, 5.0, datetime(2013, 1, 7, 5, tzinfo=UTC)),
        (TUESDAY, 7.0, datetime(2013, 1, 7, 5, tzinfo=UTC)),
    ]
    assert answer.schema["newest"] == pl.Datetime("us", "UTC")


def test_rows_that_were_replaced_are_not_seen(lake: Lake) -> None:
    lake.replace_days(
        "raw/flights", lake.scan("raw/flights", first=MONDAY, last=MONDAY).head(0).collect(), [MONDAY], note={}
    )
    assert query(lake, "SELECT count(*) FROM raw.flights").item() == 1


def test_a_column_that_came_later_is_null_before(lake: Lake) -> None:
    later = lake.scan("raw/flights", first=TUESDAY).collect().with_columns(gate=pl.lit("A1"))
    lake.replace_days("raw/flights", later, [TUESDAY], note={})
    assert query(lake, "SELECT gate FROM raw.flights ORDER BY day, delay").to_series().to_list() == [None, None, "A1"]


def test_an_empty_table_has_columns_and_no_rows(lake: Lake) -> None:
    lake.replace("raw/planes", pl.DataFrame(schema={"tailnum": pl.String}), note={})
    answer = query(lake, "SELECT * FROM raw.planes")
    assert (answer.height, answer.columns) == (0, ["tailnum"])


def test_tables_can_be_joined_pivoted_described_and_listed(lake: Lake) -> None:
    assert query(lake, "SELECT count(*) FROM raw.flights, raw.planes").item() == 3
    assert query(lake, "PIVOT raw.planes ON tailnum USING count(*)").columns[-1] == "N1"
    assert "tailnum" in query(lake, "DESCRIBE raw.planes")["column_name"].to_list()
    assert query(lake, "SHOW ALL TABLES")["name"].sort().to_list() == ["flights", "planes"]
    assert query(lake, "EXPLAIN SELECT * FROM raw.planes").height >= 1


def test_an_unknown_table_is_answered_with_those_that_exist(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="nope") as refused:
        query(lake, "SELECT * FROM raw.nope")
    assert refused.value.fix == "The tables of the lake are: raw.flights, raw.planes."


def test_an_empty_lake_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none yet"):
        query(Lake(str(tmp_path)), "SELECT * FROM raw.flights")


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/stolen.csv'",
        "CREATE TABLE mine AS SELECT 1",
        "DROP VIEW raw.flights",
        "SELECT 1; SELECT 2",
        "ATTACH '{folder}/other.db'",
        "SET enable_external_access = true",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
        "INSTALL httpfs",
        "",
        "-- nothing",
    ],
)
def test_only_one_reading_statement_is_taken(lake: Lake, tmp_path: Path, sql: str) -> None:
    file = lake.file_uris("raw/flights")[0]
    before = Path(file).read_bytes()
    with pytest.raises(ConfigError, match="read with one SELECT at a time"):
        query(lake, sql.format(folder=tmp_path, file=file.replace("'", "''")))
    assert Path(file).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it's a lake"]


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM read_text('{secret}')", "SELECT * FROM '{secret}'", "FROM glob('{folder}/*')"]
)
def test_files_outside_the_lake_can_not_be_read(lake: Lake, tmp_path: Path, sql: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("password\nhunter2\n")
    with pytest.raises(ConfigError, match="disabled by configuration") as refused:
        query(lake, sql.format(secret=secret, folder=tmp_path))
    assert "hunter2" not in str(refused.value)


def test_a_wrong_column_is_answered_with_what_is_there(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="tailnummer") as refused:
        query(lake, "SELECT tailnummer FROM raw.planes")
    assert "tailnum" in refused.value.fix


def test_a_syntax_error_is_shown(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="syntax error") as refused:
        query(lake, "SELEC 1")
    assert "SELEC 1" in refused.value.fix
    with pytest.raises(ConfigError, match="without selection list") as refused:
        query(lake, "SELECT")
    assert refused.value.fix == "Correct the statement."


def test_columns_of_one_name_are_numbered(lake: Lake) -> None:
    assert query(lake, "select 1 as a, 2 as a, 3 as a_1, 4 as A").rows(named=True) == [
        {"a": 1, "a_2": 2, "a_1": 3, "A_3": 4}
    ]


def test_a_type_that_polars_lacks_is_text(lake: Lake) -> None:
    answer = query(lake, "select interval 36 hour as span, [interval 1 day] as spans, union_value(k := 1) as either")
    assert answer.rows() == [("36:00:00", "[1 day]", "1")]
