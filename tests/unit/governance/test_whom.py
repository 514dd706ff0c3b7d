"""Whom an erasure is about, and which rows are theirs, whatever type a file has the column in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.models.loan_approval import MODEL as LOANS
from pilotage.errors import ConfigError
from pilotage.governance.places import in_bundle, still_written
from pilotage.governance.whom import Person, as_delivered, as_logged, by_columns, in_sources
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings
from tests.unit.governance.erasure_world import sources, spec

PSEUDONYMS = Pseudonyms(b"a key of the tests")
SPEC = spec()


def test_a_person_is_named_by_the_entity_or_a_personal_field_and_typed_as_in_a_request() -> None:
    assert Person.of(LOANS, {"loan_id": "17"}, pseudonyms=PSEUDONYMS).key == {"loan_id": 17}
    assert dict(Person.of(SPEC, {"order_id": "17", "courier": "x=1"}, pseudonyms=PSEUDONYMS).key) == {
        "courier": "x=1",
        "order_id": "17",
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"amount": "1"}, r"'amount' identifies nobody to tiny.*order_id, courier"),
        ({}, "Nobody is named"),
    ],
)
def test_what_names_nobody_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Person.of(SPEC, given, pseudonyms=PSEUDONYMS)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="loan_id='seventeen' is no Int64"):
        Person.of(LOANS, {"loan_id": "seventeen"}, pseudonyms=PSEUDONYMS)


def test_a_persons_pseudonym_is_the_same_every_time_and_nobody_elses() -> None:
    names = [Person.of(LOANS, {"loan_id": text}, pseudonyms=PSEUDONYMS).pseudonym for text in ("17", "017", "18")]
    assert names[0] == names[1] != names[2]
    assert "17" not in names[0].removeprefix("pseudonym:")[:2]


@pytest.mark.parametrize(
    ("value", "column", "found"),
    [
        (7, pl.Series([7, 70, None], dtype=pl.Int64), [True, False, False]),
        (7, pl.Series([7.0, 7.5, None]), [True, False, False]),
        (7, pl.Series(["7", "7.0", "70"]), [True, True, False]),
        (2**60 + 1, pl.Series([2**60, 2**60 + 1, 0]), [False, True, False]),
        ("7", pl.Series([7, 70, None], dtype=pl.Int64), [True, False, False]),
        ("Ada", pl.Series(["Ada", "ada", None]), [True, False, False]),
        (True, pl.Series([True, False, None]), [True, False, False]),
        (1, pl.Series([True, False, True]), [False, False, False]),
        ("Ada", pl.Series([["Ada"], [], None], dtype=pl.List(pl.String)), [False, False, False]),
        ("Ada", pl.Series([None, None, None], dtype=pl.Null), [False, False, False]),
        (
            datetime(2024, 1, 1, 10, tzinfo=UTC),
            pl.Series(["2024-01-01T10:00:00Z", "2024-01-01T11:00:00Z", None]),
            [True, False, False],
        ),
    ],
)
def test_a_value_is_found_in_whatever_type_a_file_has_it(value: Any, column: pl.Series, found: list[bool]) -> None:
    rows = pl.DataFrame([column.alias("key")])
    assert by_columns({"key": value})(rows).to_list() == found
    assert by_columns({"other": value})(rows).to_list() == [False] * 3
    assert by_columns({"key": value, "other": value})(rows).to_list() == [False] * 3


def test_rows_as_delivered_are_found_by_what_prepare_makes_of_them_in_old_shapes_too() -> None:
    source = sources()["orders"]
    old = pl.DataFrame({"who": ["Ada", "Zoe"], "number": [17, 18], "ordered_at": [None, "2024-01-01"]})
    assert as_delivered(source, {"courier": "Ada"})(old).to_list() == [True, False]
    assert as_delivered(source, {"order_id": "18"})(old).to_list() == [False, True]


def test_what_was_logged_is_found_by_value_and_by_pseudonym_by_field_and_by_entity() -> None:
    hidden = PSEUDONYMS.apply("courier", "Ada")
    rows = pl.DataFrame(
        {
            "entity": ['{"order_id":"17"}', '{"courier":"Ada","order_id":"18"}', '{"order_id":"19"}', None],
            "request_courier": [hidden, None, None, None],
            "request_courier__string": [None, None, "Ada", None],
        }
    )
    logged = as_logged({"courier": "Ada"}, pseudonyms=PSEUDONYMS)
    assert logged(rows).to_list() == [True, True, True, False]
    assert as_logged({"order_id": "17"}, pseudonyms=PSEUDONYMS)(rows).to_list() == [True, False, False, False]
    both = as_logged({"order_id": "18", "courier": "Ada"}, pseudonyms=PSEUDONYMS)
    assert both(rows).to_list() == [False, True, False, False]


def test_sources_that_are_joined_by_other_columns_say_nothing_of_a_person() -> None:
    assert dict(in_sources(SPEC, ["courier"])) == {"orders": {"courier": "courier"}, "wallets": {"courier": "owner"}}
    assert dict(in_sources(SPEC, ["order_id"])) == {"orders": {"order_id": "order_id"}}


def test_rows_of_a_bundle_are_found_by_key_and_in_its_sample_by_their_features(tmp_path: Path) -> None:
    pl.DataFrame({"order_id": ["17", "18"], "expected": [0.1, 0.2]}).write_parquet(tmp_path / "golden.parquet")
    pl.DataFrame({"amount": [1.5, 2.5, None], "shop": ["n", "s", "s"]}).write_parquet(tmp_path / "reference.parquet")
    theirs = pl.DataFrame(
        {"order_id": ["17"], "amount": [None], "shop": ["s"]}, schema_overrides={"amount": pl.Float64}
    )
    assert in_bundle(tmp_path, {"order_id": "17"}, theirs) == 2
    assert in_bundle(tmp_path, {"order_id": "19"}, theirs.clear()) == 0
    assert in_bundle(tmp_path / "gone", {"order_id": "17"}, theirs) == 0


def test_the_home_is_searched_for_values_that_mean_something(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("order 9876543 of Quirinius")
    (tmp_path / "logs" / "b.log").write_text("0.987654321 is another number; so is 19876543")
    (tmp_path / "empty").touch()
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "c").write_text("9876543, which its tables are searched for")
    pl.DataFrame({"x": [9876543]}).write_parquet(tmp_path / "rows.parquet")
    settings = Settings(home=tmp_path)
    assert still_written(settings, {"order_id": 9876543}) == (["logs/a.log", "rows.parquet"], [])
    assert still_written(settings, {"courier": "Quirinius", "order_id": 17}) == (["logs/a.log"], ["order_id"])
