"""One request at a time: the answers that frames give, errors that name their row, a person where it is close."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.lake import Lake
from pilotage.errors import BundleCorrupt, InvalidRequest, ModelNotReady, PilotageError, StateUnavailable
from pilotage.features.columns import Column
from pilotage.features.online import build_online
from pilotage.runtime.bundle import Bundle, read_bundle
from pilotage.runtime.matrix import MatrixEncoder
from pilotage.runtime.predictor import Predictor
from pilotage.runtime.prepared import Scored
from pilotage.runtime.row import RowPath, to_micros, verify_rows
from pilotage.runtime.scorer import Calibrator, RowEncoder, encode
from pilotage.runtime.state import OnlineState
from pilotage.spec import Fallback, Serving
from pilotage.testing.bundles import START, make_bundle, tiny_rows, tiny_spec

SPEC = tiny_spec(with_state=True)
PLAIN = tiny_spec(serving=Serving(refer_between=(0.2, 0.4)))


class Stock:
    """A lake that knows the stock of one shop."""

    def versions(self, tables: list[str]) -> dict[str, int]:
        return dict.fromkeys(tables, 3)

    def days(self, table: str) -> list[Any]:
        return []

    def exists(self, table: str) -> bool:
        return table == "validated/stock"

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        return pl.LazyFrame(
            {"shop": ["north", "north"], "known_at": [START, START.replace(day=2)], "level": [4, 40]},
            schema_overrides={"known_at": pl.Datetime("us", "UTC")},
        )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder, spec=SPEC)
    return read_bundle(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "plain"
    make_bundle(folder, spec=PLAIN)
    return read_bundle(folder)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineState]:
    path = tmp_path_factory.mktemp("online") / "tiny.db"
    build_online(SPEC, lake=cast(Lake, Stock()), path=path, run_id="run-1")
    state = OnlineState(path)
    yield state
    state.close()


def requests(rows: int, *, seed: int = 5) -> list[dict[str, Any]]:
    found = tiny_rows(SPEC, rows, seed=seed).select(SPEC.request_types().keys()).to_dicts()
    return [{**row, "ordered_at": row["ordered_at"].isoformat()} for row in found]


def test_one_request_many_and_a_frame_get_the_same_bits(bundle: Bundle, state: OnlineState) -> None:
    predictor = Predictor(bundle, 3)
    asked = requests(80)
    frames = predictor.predict(asked, state)
    features = bundle.compute(state.attach(predictor.contract.frame(asked), bundle)).to_dicts()
    alone = [predictor.score_one(request, state) for request in asked]
    together = [each for each in predictor.score_many(asked, state) if isinstance(each, Scored)]

    assert [each.probability for each in alone] == [each.probability for each in frames]
    assert [each.prepared.features for each in alone] == features
    assert [each.decision for each in alone] == [each.decision for each in frames]
    assert alone == together
    for few in (1, 3, 7, 20):
        assert list(predictor.score_many(asked[:few], state)) == alone[:few]
    assert {each.prepared.features["stock_level"] for each in alone} == {4, 40, None}


def test_what_was_scored_says_what_it_was_made_of(bundle: Bundle, state: OnlineState) -> None:
    request = {**requests(1)[0], "shop": "north", "ordered_at": "2024-01-01T10:00:00Z"}
    scored = Predictor(bundle, 3).score_one(request, state)

    assert scored.prepared.request == {**request, "ordered_at": datetime(2024, 1, 1, 10, tzinfo=UTC)}
    assert list(scored.prepared.request) == [field.name for field in SPEC.request]
    assert list(scored.prepared.features) == [feature.name for feature in SPEC.features]
    assert scored.prepared.moment == to_micros(datetime(2024, 1, 1, 10, tzinfo=UTC))
    assert scored.prepared.features["hour"] == 10
    assert (scored.prepared.state, scored.prepared.state_through) == (state.state_id, START.replace(day=2))
    assert scored.referred is False


def test_the_key_is_what_the_model_reads_and_nothing_else(bundle: Bundle, state: OnlineState) -> None:
    predictor = Predictor(bundle, 3)
    request = requests(1)[0]
    key = predictor.prepare(request, state).key
    assert predictor.prepare({**request, "order_id": "another"}, state).key == key
    assert predictor.prepare({**request, "courier": "unheard of"}, state).key == (
        predictor.prepare({**request, "courier": None}, state).key
    )
    assert predictor.prepare({**request, "amount": 1.0}, state).key != key


def test_a_known_probability_is_decided_without_the_model(bundle: Bundle, state: OnlineState) -> None:
    predictor = Predictor(bundle, 3)
    prepared = predictor.prepare(requests(1)[0], state)
    assert predictor.decided(prepared, predictor.decide(prepared).probability) == predictor.decide(prepared)
    with pytest.raises(BundleCorrupt, match="no probability"):
        predictor.decided(prepared, float("nan"))


def test_each_of_many_rows_has_its_own_result_or_error(bundle: Bundle, state: OnlineState) -> None:
    good, other = requests(2)
    answers = Predictor(bundle, 3).score_many([good, {**good, "amount": -1.0}, {}, other], state)

    assert [type(answer).__name__ for answer in answers] == ["Scored", "InvalidRequest", "InvalidRequest", "Scored"]
    assert isinstance(answers[1], PilotageError)
    assert answers[1].details["field"] == "amount"
    assert len(Predictor(bundle, 3).score_many([], state)) == 0


@pytest.mark.parametrize("rows", [2, 30])
def test_a_moment_out_of_reach_is_the_error_of_its_row_alone(bundle: Bundle, state: OnlineState, rows: int) -> None:
    early, *good = requests(rows)
    answers = Predictor(bundle, 3).score_many([{**early, "ordered_at": "1999-01-01T00:00:00Z"}, *good], state)
    assert [type(answer).__name__ for answer in answers] == ["StateUnavailable", *["Scored"] * (rows - 1)]


def test_a_model_with_history_is_not_prepared_without_it(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelNotReady, match="no online state"):
        Predictor(bundle, 3).prepare(requests(1)[0], None)
    with pytest.raises(StateUnavailable):
        Predictor(bundle, 3).prepare(requests(1)[0], OnlineState(tmp_path / "none.db"))


def test_a_probability_in_the_band_is_referred_to_a_person(plain: Bundle) -> None:
    predictor = Predictor(plain, 1)
    prepared = predictor.prepare(requests(1)[0], None)
    seen = {p: predictor.decided(prepared, p) for p in (0.1999, 0.2, 0.3999, 0.4)}
    threshold = plain.threshold

    assert {p: scored.referred for p, scored in seen.items()} == {0.1999: False, 0.2: True, 0.3999: True, 0.4: False}
    assert {p: scored.decision for p, scored in seen.items()} == {
        0.1999: threshold <= 0.1999, 0.2: None, 0.3999: None, 0.4: True,
    }  # fmt: skip


def test_the_rule_answers_with_and_without_state(bundle: Bundle, state: OnlineState, tmp_path: Path) -> None:
    predictor = Predictor(bundle, 3)
    small, large = {**requests(1)[0], "amount": 10.0}, {**requests(1)[0], "amount": 900.0}
    for known in (state, None, OnlineState(tmp_path / "none.db")):
        assert [predictor.rule(small, known), predictor.rule(large, known)] == [0.2, 0.6]
    assert predictor.rule(predictor.prepare(large, state)) == 0.6
    with pytest.raises(InvalidRequest):
        predictor.rule({}, state)


@pytest.mark.parametrize("rule", [pl.col("amount"), pl.lit(None, pl.Float64), pl.lit(0.0) / pl.lit(0.0)], ids=str)
def test_a_rule_that_gives_no_probability_is_not_answered(tmp_path: Path, rule: pl.Expr) -> None:
    make_bundle(tmp_path / "odd", spec=tiny_spec(fallback=Fallback(rule=rule, reason="Odd.")))
    predictor = Predictor(read_bundle(tmp_path / "odd"), 1)
    with pytest.raises(BundleCorrupt, match="fallback rule of tiny gives"):
        predictor.rule({**requests(1)[0], "amount": 7.0})


def test_threads_each_get_the_bits_of_one(bundle: Bundle, state: OnlineState) -> None:
    predictor = Predictor(bundle, 3)
    asked = requests(200)
    wanted = [predictor.score_one(request, state).probability for request in asked]
    got: dict[int, list[float]] = {}

    def work(number: int) -> None:
        got[number] = [predictor.score_one(request, state).probability for request in asked]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[number] for number in range(4)] == [wanted] * 4


def test_everything_of_these_models_is_compiled(bundle: Bundle, plain: Bundle) -> None:
    assert Predictor(bundle, 1).path.left_to_polars == ()
    assert Predictor(plain, 1).path.left_to_polars == ()


def test_a_version_that_computes_a_row_alone_differently_is_refused(bundle: Bundle) -> None:
    path = RowPath(bundle)
    verify_rows(bundle, path)
    skewed = SimpleNamespace(features=lambda row: [*path.features(row)[:-1], 49])
    with pytest.raises(BundleCorrupt, match=r"tiny computes stock_level 49\.0 for golden row 0 by itself, 30\.0"):
        verify_rows(bundle, cast(RowPath, skewed))


def test_a_version_that_computes_a_batch_differently_is_refused(bundle: Bundle) -> None:
    class Skewed:
        def __call__(self, row: Any) -> list[Any]:
            return path.features(row)

        def many(self, columns: Any) -> list[Column]:
            return [*path.features.many(columns)[:-1], Column([49] * len(columns[0]))]

    path = RowPath(bundle)
    with pytest.raises(BundleCorrupt, match=r"tiny computes stock_level 49\.0 for golden row 0 in a batch, 30\.0"):
        verify_rows(bundle, cast(RowPath, SimpleNamespace(features=Skewed())))


def test_a_version_that_scores_a_row_alone_differently_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle.scorer, "score_row", lambda row: 0.5)
    with pytest.raises(BundleCorrupt, match=r"tiny answers .* for golden row 0 by itself"):
        verify_rows(bundle, RowPath(bundle))


@settings(deadline=None)
@given(p=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 5e-324, 1e-12, 1 - 1e-12])), data=st.data())
def test_one_probability_is_calibrated_to_the_bits_of_many(p: float, data: Any) -> None:
    small = st.floats(0, 1)
    knots = data.draw(st.lists(st.tuples(small, small), min_size=1, max_size=6))
    x, y = (sorted(values) for values in zip(*knots, strict=True))
    slope, intercept = data.draw(st.floats(-900, 900)), data.draw(st.floats(-900, 900))
    many = np.array([0.3, p, 0.7, *np.linspace(0, 1, 29)])
    for calibrator in (Calibrator("sigmoid", [slope], [intercept]), Calibrator("isotonic", x, y), Calibrator("none")):
        assert calibrator.apply_one(p) == calibrator.apply(many)[1]


cells = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.one_of(st.none(), st.floats()), cells, st.sampled_from([None, "c1", "c2", "c9", ""]),
                  st.sampled_from([True, False, None])),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_a_row_is_encoded_to_the_doubles_of_a_frame(rows: list[tuple[Any, ...]]) -> None:
    columns, categories = ["x", "n", "c", "yes"], {"c": ["c1", "c2"]}
    encode_row = RowEncoder(columns, categories)
    schema = {"x": pl.Float64, "n": pl.Int64, "c": pl.String, "yes": pl.Boolean}
    together = encode(pl.DataFrame(rows, schema=schema, orient="row"), columns, categories)
    by_columns = MatrixEncoder(columns, categories)([Column(list(column)) for column in zip(*rows, strict=True)])
    assert by_columns.flags.c_contiguous
    assert np.array_equal(by_columns, together, equal_nan=True)
    assert (np.signbit(by_columns) == np.signbit(together))[~np.isnan(together)].all()
    for row, wanted in zip(rows, together, strict=True):
        got = np.frombuffer(encode_row(row))
        assert np.array_equal(got, wanted, equal_nan=True)
        assert (np.signbit(got) == np.signbit(wanted))[~np.isnan(wanted)].all()


@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31)))
def test_moments_are_kept_to_the_microsecond(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC)
    assert to_micros(moment) == pl.Series([moment]).dt.epoch("us").item()
