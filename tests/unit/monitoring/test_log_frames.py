"""Log records become rows without a value lost or guessed, whatever versions of a model logged."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pilotage.monitoring.log_frames import FIXED, column_as, declared_types, entity_key, feature_column, frame_of
from pilotage.monitoring.log_frames import request_column as request
from pilotage.monitoring.log_lines import read_lines
from pilotage.runtime.answer import BatchRecord, BatchRow, PredictionRecord, StateRecord
from pilotage.runtime.log import encode, read_segment
from pilotage.runtime.log.framing import frame
from pilotage.testing.bundles import tiny_spec
from tests.unit.monitoring.logs import prediction, state, write_segment

values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.sampled_from(["2024-01-01T10:00:00Z", "pseudonym:ab12"]),
)  # fmt: skip
types = st.sampled_from([None, pl.String(), pl.Int64(), pl.Float64(), pl.Boolean(), pl.Datetime("us", "UTC")])


def logged(record: PredictionRecord) -> PredictionRecord:
    """As it comes back from the log."""
    return msgspec.json.decode(encode(record), type=PredictionRecord)


@pytest.mark.parametrize("kind", list(FIXED))
def test_every_field_of_a_record_has_a_column_or_is_spread_over_some(kind: type) -> None:
    spread = {"request", "features"} if kind is PredictionRecord else set()
    assert set(FIXED[kind]) == set(kind.__struct_fields__) - spread


def test_a_prediction_becomes_a_row_of_the_utc_day_it_was_answered_on() -> None:
    frame = frame_of(PredictionRecord, [prediction(0), prediction(2, reasons=("a", "b"))], types={})
    assert frame["at"].to_list()[0] == datetime(2024, 3, 1, 23, 59, tzinfo=UTC)
    assert [str(day) for day in frame["day"]] == ["2024-03-01", "2024-03-02"]
    assert frame["reasons"].to_list() == [[], ["a", "b"]]
    assert frame["entity"].to_list() == ['{"order_id":"A-0"}', '{"order_id":"A-2"}']
    assert frame["feature_amount"].to_list() == [10.0, 12.0]


def test_declared_types_hold_for_times_and_for_columns_without_a_value_and_a_personal_field_is_text() -> None:
    spec = tiny_spec()
    fields = tuple(f.model_copy(update={"personal": True}) if f.name == "items" else f for f in spec.request)
    types = declared_types(spec.model_copy(update={"request": fields}))
    frame = frame_of(PredictionRecord, [prediction(0)], types=types)
    assert frame["request_ordered_at"].to_list() == [datetime(2024, 1, 1, 10, tzinfo=UTC)]
    assert frame.schema["feature_courier"] == pl.String
    assert types["request_items"] == pl.String


def test_a_column_without_a_value_and_without_a_type_waits_for_one() -> None:
    assert "feature_courier" not in frame_of(PredictionRecord, [prediction(0)]).columns


def test_a_field_called_id_does_not_take_the_place_of_the_request_id() -> None:
    frame = frame_of(PredictionRecord, [prediction(0, request={"id": 7})])
    assert frame["request_id"].to_list() == ["r00000"]
    assert frame[request("id")].to_list() == [7]


def test_records_without_features_are_rows_without_them() -> None:
    frame = frame_of(PredictionRecord, [prediction(0, features=None), prediction(1)])
    assert frame["feature_amount"].to_list() == [None, 11.0]


def test_values_of_another_type_get_a_column_of_their_own() -> None:
    records = [prediction(0, features={"seats": 4}), prediction(1, features={"seats": "four"})]
    frame = frame_of(PredictionRecord, records, types={"feature_seats": pl.Int64()})
    assert frame["feature_seats"].to_list() == [4, None]
    assert frame["feature_seats__string"].to_list() == [None, "four"]


def test_whole_numbers_in_a_column_of_numbers_stay_there_if_they_are_exact() -> None:
    records = [prediction(0, features={"x": 3}), prediction(1, features={"x": 0.5})]
    assert frame_of(PredictionRecord, records)["feature_x"].to_list() == [3.0, 0.5]
    records[0] = prediction(0, features={"x": 2**53 + 1})
    frame = frame_of(PredictionRecord, records)
    assert frame["feature_x__integer"].to_list() == [2**53 + 1, None]


@given(st.lists(values, min_size=1, max_size=8), types)
def test_no_value_is_lost_or_changed_whatever_type_its_column_has(given: list, dtype: pl.DataType | None) -> None:
    records = [logged(prediction(n, features={"x": value})) for n, value in enumerate(given)]
    known = {} if dtype is None else {"feature_x": dtype}
    frame = frame_of(PredictionRecord, records, types=known)
    columns = [name for name in frame.columns if name.startswith("feature_x")]
    if dtype is not None:
        assert frame.schema["feature_x"] == dtype
    for n, value in enumerate(given):
        there = [frame[name][n] for name in columns if frame[name][n] is not None]
        if value is None:
            assert there == []
        else:
            [kept] = there
            moment = isinstance(kept, datetime)
            assert (f"{kept:%Y-%m-%dT%H:%M:%SZ}" if moment else kept) == value
            assert moment or isinstance(value, bool) == isinstance(kept, bool)


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1, max_size=5))
def test_a_feature_is_found_again_in_its_own_type_wherever_it_went(given: list[float | None]) -> None:
    records = [prediction(n, features={"x": value}) for n, value in enumerate(given)]
    frame = frame_of(PredictionRecord, records, types={"feature_x": pl.String()})
    assert column_as(frame, feature_column("x"), pl.Float64()).to_list() == given


def test_equal_entities_are_equal_texts() -> None:
    assert entity_key({"b": 1, "a": "x"}) == entity_key({"a": "x", "b": 1}) == '{"a":"x","b":1}'


def test_a_state_says_which_version_of_each_table_it_was_made_of() -> None:
    [row] = frame_of(StateRecord, [state(versions={"validated/b": 2, "validated/a": 1})]).to_dicts()
    assert row["versions"] == [{"table": "validated/a", "version": 1}, {"table": "validated/b", "version": 2}]


names = st.sampled_from(["amount", "items", "class", "day part", "2nd"])
answers = st.lists(
    st.tuples(st.dictionaries(names, values, max_size=3), st.none() | st.dictionaries(names, values, max_size=3)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(answers, st.booleans())
def test_lines_give_the_rows_that_whole_records_give_whatever_several_versions_logged(told: list, alike: bool) -> None:
    if alike:
        # As one version logs: the same names in the same order.
        told = [(told[0][0], told[0][1]), *((told[0][0], row and told[0][1]) for _, row in told[1:])]
    records = [prediction(place, request=asked, features=seen) for place, (asked, seen) in enumerate(told)]
    with tempfile.TemporaryDirectory() as folder:
        path = write_segment(Path(folder), [state(), *records, prediction(9, model="other")])
        lines = read_lines(path)
    assert {(kind, model): len(rows) for (kind, model), rows in lines.items()} == {
        (StateRecord, "tiny"): 1, (PredictionRecord, "tiny"): len(records), (PredictionRecord, "other"): 1,
    }  # fmt: skip
    expected = frame_of(PredictionRecord, [logged(record) for record in records])
    found = frame_of(PredictionRecord, lines[PredictionRecord, "tiny"])
    assert_frame_equal(found, expected, check_exact=True)


def batch(rows: list[BatchRow], **changes: Any) -> BatchRecord:
    told = {"request_names": ("amount", "class"), "feature_names": ("2nd",), "entity_names": ("class",), **changes}
    return BatchRecord(
        request_id="r",
        model="tiny",
        at=1_709_337_600_000_000,
        version=1,
        stage="champion",
        answered_by="model",
        latency_us=3,
        caller="k",
        state="s",
        rows=rows,
        **told,
    )


@given(st.lists(st.tuples(values, values, values, st.booleans()), min_size=1, max_size=4), st.booleans())
def test_a_batch_gives_the_rows_that_its_predictions_would_give_alone(told: list, among_others: bool) -> None:
    rows = [
        BatchRow(f"p{place}", place, 0.5, None if refer else True, refer, ("band",) * refer, [amount, kind], [feature])
        for place, (amount, kind, feature, refer) in enumerate(told)
    ]
    one = batch(rows)
    others = [prediction(9, request={"amount": 1, "class": "x"}, features={"2nd": 2})] * among_others
    with tempfile.TemporaryDirectory() as folder:
        lines = read_lines(write_segment(Path(folder), [*others, one, *others]))
        alone = [logged(each) for each in [*others, *one.records(), *others]]
    found = frame_of(PredictionRecord, lines[PredictionRecord, "tiny"])
    assert_frame_equal(found, frame_of(PredictionRecord, alone), check_exact=True)


def test_a_row_of_a_batch_that_lacks_a_value_is_refused(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [batch([BatchRow("p", 0, 0.5, True, False, (), [1, "x"], [])])])
    with pytest.raises(msgspec.ValidationError, match="p has not"):
        read_lines(path)
    with pytest.raises(msgspec.ValidationError, match="p has not"):
        list(read_segment(path))


def test_a_line_that_is_no_prediction_is_refused_though_its_checksum_holds(tmp_path: Path) -> None:
    line = encode(prediction(0, features={"amount": 1})).replace(b'"features":{"amount":1}', b'"features":[1]')
    path = write_segment(tmp_path, [prediction(0)])
    with path.open("ab") as file:
        file.write(frame([[line]]))
    with pytest.raises(msgspec.ValidationError):
        read_lines(path)
