"""As-of features at their edges: exactly when a fact counts, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from pilotage.errors import DataError, DeclarationError, SchemaChanged
from pilotage.features.definition import Definition
from pilotage.features.view import FeatureView
from pilotage.spec import AsOf, Latest, Window
from tests.unit.features.worlds import MOMENT, PLACES, READINGS, VIEW, World, moment

LAST = Latest(name="last", source="readings", on={"sensor": "sensor"}, known_at="known_at", columns={"value": pl.Int64})
FRESH = LAST.model_copy(update={"max_age": timedelta(minutes=5)})
COUNT = Window(
    name="n", source="readings", on={"sensor": "sensor"}, known_at="known_at", over=timedelta(minutes=5),
    aggregate="count",
)  # fmt: skip


def view(*asof: AsOf, request: dict[str, pl.DataType] | None = None) -> FeatureView:
    types = request or {"sensor": pl.String(), "at": MOMENT}
    return FeatureView(Definition(request=types, predicts_at=pl.col("at"), asof=asof, features={}))


def readings(*facts: tuple[Any, ...]) -> dict[str, pl.DataFrame]:
    """Facts of sensor a: minute at which it was known, and value."""
    rows = [{"sensor": "a", "known_at": None if at is None else moment(at), "value": value} for at, value in facts]
    return {"readings": pl.DataFrame(rows, schema={name: READINGS[name] for name in ("sensor", "known_at", "value")})}


def asked(declared: AsOf, frames: dict[str, pl.DataFrame], at: int = 0, sensor: str | None = "a") -> Any:
    """The one as-of column of one request."""
    request = pl.DataFrame({"sensor": [sensor], "at": [moment(at)]}, schema={"sensor": pl.String, "at": MOMENT})
    answer = view(declared).offline(request, lambda source, since, until: frames[source].lazy())
    return answer.get_column(next(iter(declared.outputs()))).item()


def test_a_fact_counts_from_the_moment_it_became_known() -> None:
    assert asked(LAST, readings((0, 7))) == 7
    assert asked(LAST, readings((1, 7))) is None
    assert asked(COUNT, readings((0, 7))) == 1
    assert asked(COUNT, readings((1, 7))) == 0


def test_a_window_is_open_at_its_beginning() -> None:
    assert asked(COUNT, readings((-5, 7))) == 0
    assert asked(COUNT, readings((-4, 7))) == 1


def test_a_fact_as_old_as_max_age_still_counts() -> None:
    assert asked(FRESH, readings((-5, 7))) == 7
    assert asked(FRESH, readings((-6, 7))) is None


def test_an_old_value_does_not_stand_in_for_a_newer_null() -> None:
    assert asked(LAST, readings((-2, 7), (-1, None))) is None


def test_a_fact_that_never_became_known_counts_for_nothing() -> None:
    assert asked(LAST, readings((None, 7))) is None
    assert asked(COUNT, readings((None, 7))) == 0


def test_the_greatest_of_rows_known_at_the_same_moment_wins_in_any_order() -> None:
    assert asked(LAST, readings((-1, 2), (-1, 9), (-1, None))) == 9
    assert asked(LAST, readings((-1, None), (-1, 9), (-1, 2))) == 9


def test_without_events_a_count_and_a_sum_are_zero_and_a_mean_is_null() -> None:
    total = COUNT.model_copy(update={"aggregate": "sum", "value": pl.col("value")})
    mean = total.model_copy(update={"aggregate": "mean"})

    assert asked(COUNT, readings()) == 0
    assert asked(total, readings((-1, None))) == 0
    assert asked(mean, readings((-1, None))) is None


def test_a_null_key_matches_nothing_not_even_a_null() -> None:
    frames = {"readings": readings((-1, 7))["readings"].with_columns(sensor=pl.lit(None, pl.String))}

    assert asked(LAST, frames, sensor=None) is None
    assert asked(COUNT, frames, sensor=None) == 0


def test_windows_that_share_source_key_value_and_filter_share_one_timeline() -> None:
    longer = COUNT.model_copy(update={"name": "longer", "over": timedelta(hours=1)})
    other = COUNT.model_copy(update={"name": "other", "where": pl.col("value") > 0})

    assert len(view(COUNT, longer).timelines) == 1
    assert len(view(COUNT, other).timelines) == 2


def test_no_row_is_read_that_can_not_matter() -> None:
    spans = []
    requests = pl.DataFrame(
        {"sensor": ["a", "a"], "at": [moment(0), moment(9)]}, schema={"sensor": pl.String, "at": MOMENT}
    )

    def read(source: str, since: Any, until: Any) -> pl.LazyFrame:
        spans.append((since, until))
        return readings()[source].lazy()

    view(COUNT, FRESH.model_copy(update={"max_age": timedelta(minutes=30)})).offline(requests, read)
    view(COUNT, LAST).offline(requests, read)

    assert spans == [(moment(-30), moment(9)), (None, moment(9))]


def test_an_empty_population_gets_every_column_and_reads_nothing() -> None:
    empty = World([], [], [])

    def read(source: str, since: Any, until: Any) -> pl.LazyFrame:
        raise AssertionError("nothing is to be read")

    schema = VIEW.offline(empty.population, read).schema
    assert schema == World([], [], [{"sensor": "a", "lane": 1, "at": moment(0)}]).offline().schema


def test_an_age_limit_on_reference_data_is_refused_since_it_has_no_age() -> None:
    with pytest.raises(DeclarationError, match="max_age is given, but no age"):
        Latest(name="x", source="places", on={"a": "b"}, columns={"c": pl.Int64}, max_age=timedelta(days=1))


def test_a_float_key_is_refused() -> None:
    by_level = Latest(name="x", source="readings", on={"level": "level"}, columns={"value": pl.Int64})

    with pytest.raises(DeclarationError, match="x is keyed by level, a Float64"):
        view(by_level, request={"level": pl.Float64(), "at": MOMENT})


def test_a_column_type_that_no_store_keeps_exactly_is_refused() -> None:
    with pytest.raises(DeclarationError, match="keeps value as List"):
        view(LAST.model_copy(update={"columns": {"value": pl.List(pl.Int64)}}))


def test_a_window_over_floats_is_refused_since_their_sums_are_not_exact() -> None:
    by_level = COUNT.model_copy(update={"aggregate": "mean", "value": pl.col("value") / 2})

    with pytest.raises(DeclarationError, match="whose sums are not exact"):
        asked(by_level, readings((-1, 7)))


@pytest.mark.parametrize("sign", [1, -1])
def test_running_sums_beyond_64_bits_are_refused_and_not_wrapped(sign: int) -> None:
    declared = Window(
        name="w", source="readings", on={"sensor": "sensor"}, known_at="known_at", over=timedelta(minutes=1),
        aggregate="sum", value=pl.col("value"),
    )  # fmt: skip
    view = FeatureView(Definition(request=VIEW.request_types, predicts_at=pl.col("at"), asof=(declared,), features={}))
    [timeline] = view.timelines.values()
    fact = {"sensor": "a", "lane": 0, "good": None, "level": None, "seen_on": None}
    readings = [{**fact, "known_at": moment(n), "value": sign * 2**61} for n in range(5)]
    rows = pl.DataFrame(readings, schema=READINGS)
    assert timeline.build(rows.head(3))["p1"].to_list() == [sign * n * 2**61 for n in (1, 2, 3)]
    with pytest.raises(DataError, match="running sums of a window over readings are beyond 64 bits"):
        timeline.build(rows)


def test_a_window_whose_value_looks_at_other_rows_is_refused() -> None:
    with pytest.raises(DeclarationError, match="as-of feature n looks at other rows"):
        view(COUNT.model_copy(update={"value": pl.col("value") - pl.col("value").mean()}))
    with pytest.raises(DeclarationError, match="as-of feature n looks at other rows"):
        view(COUNT.model_copy(update={"where": pl.col("value") == pl.col("value").max()}))


def test_a_source_that_lacks_a_column_or_tells_no_utc_is_named() -> None:
    frame = readings((-1, 7))["readings"]

    with pytest.raises(DataError, match="Source readings has no column value"):
        asked(LAST, {"readings": frame.drop("value")})
    with pytest.raises(DataError, match=r"readings\.known_at is Datetime"):
        asked(LAST, {"readings": frame.with_columns(pl.col("known_at").dt.replace_time_zone(None))})


def test_a_source_with_values_of_another_type_is_named() -> None:
    frame = readings((-1, 7))["readings"].with_columns(value=pl.lit("seven"))

    with pytest.raises(DataError, match="as-of features of source readings can't be computed"):
        asked(LAST, {"readings": frame})


def test_a_request_column_of_another_type_is_named() -> None:
    population = pl.DataFrame({"sensor": [1], "at": [moment(0)]}, schema={"sensor": pl.Int64, "at": MOMENT})

    with pytest.raises(SchemaChanged, match="Request column sensor is Int64, not String"):
        view(LAST).offline(population, lambda source, since, until: readings()[source].lazy())


def test_the_prediction_moment_of_a_row_is_the_same_alone_and_among_others() -> None:
    # 49 / 49 is below 1 where Polars multiplies by 1 / 49.
    late = pl.duration(seconds=(pl.col("n") / 49).floor().cast(pl.Int64))
    request = {"n": pl.Float64(), "at": pl.Datetime("us", "UTC")}
    view = FeatureView(Definition(request=request, predicts_at=pl.col("at") + late, asof=(), features={}))
    frame = pl.DataFrame({"n": [49.0, 98.0, 50.0], "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 3}, schema=request)
    together = view.moments(frame)
    assert together is not None
    assert [view.moments(frame[n]).item() for n in range(3)] == together.to_list()  # type: ignore[union-attr]


def test_a_prediction_moment_that_is_not_utc_is_refused() -> None:
    local = Definition(
        request={"at": MOMENT}, predicts_at=pl.col("at").dt.convert_time_zone("America/New_York"), asof=(), features={}
    )

    with pytest.raises(DeclarationError, match=r"predicts_at is Datetime.*America/New_York"):
        FeatureView(local)


def test_payloads_keep_their_declared_types() -> None:
    row = {"sensor": "a", "height": 1.5, "built": moment(-9), "tall": True}
    world = World([], [row], [{"sensor": "a", "lane": None, "at": moment(0)}])
    answer = world.offline().select("place_height", "place_built", "place_tall")

    assert answer.schema == {"place_height": pl.Float64(), "place_built": MOMENT, "place_tall": pl.Boolean()}
    assert answer.row(0) == (1.5, moment(-9), True)
    assert PLACES["built"] == MOMENT
