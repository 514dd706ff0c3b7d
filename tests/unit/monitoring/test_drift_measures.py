"""Bins, counts and effect sizes: rules that hold for all inputs, and the cases in which the usual ones are wrong."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import DataError
from pilotage.monitoring.drift import count, fit_bins, measures
from pilotage.monitoring.drift.bins import Bins, concept_bins
from pilotage.monitoring.drift.measures import noise

numbers = st.lists(st.one_of(st.none(), st.integers(-4, 4), st.integers(-1000, 1000)), min_size=1, max_size=80)
levels = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "dd", ""])), min_size=1, max_size=200)


def compare(reference: pl.Series, current: pl.Series) -> dict[str, float]:
    bins = fit_bins(reference.alias("x").to_frame().lazy(), {"x": "input"})
    before, now = (count(series.alias("x").to_frame(), bins)["x"] for series in (reference, current))
    return {name: float(value) for name, value in measures(bins[0], before, now).items()}


def ints(values: list[int | None]) -> pl.Series:
    return pl.Series("x", values, dtype=pl.Int64)


def by_definition(reference: list[Any], current: list[Any]) -> float:
    """PSI value by value: deciles of the reference, a heavy value on its own, null on its own."""
    known = sorted(value for value in reference if value is not None)
    deciles = [known[math.ceil(len(known) * part / 10) - 1] for part in range(1, 10)] if known else []

    def bin_of(value: Any) -> Any:
        if value is None:
            return "null"
        heavy = [edge for edge in deciles if deciles.count(edge) > 1]
        if value in heavy:
            return ("exactly", value)
        lower = max((edge for edge in deciles if edge < value), default=None)
        upper = min((edge for edge in deciles if edge >= value), default=None)
        return ("between", lower, upper)

    before, now = Counter(map(bin_of, reference)), Counter(map(bin_of, current))
    bins = before.keys() | now.keys()
    total = 0.0
    for one in bins:
        p = (before[one] + 0.5) / (len(reference) + len(bins) / 2)
        q = (now[one] + 0.5) / (len(current) + len(bins) / 2)
        total += (q - p) * math.log(q / p)
    return total


@given(reference=numbers, current=numbers)
def test_psi_equals_its_definition_applied_value_by_value(reference: list[Any], current: list[Any]) -> None:
    assert compare(ints(reference), ints(current))["psi"] == pytest.approx(by_definition(reference, current), abs=1e-12)


@given(reference=numbers, current=numbers)
def test_ks_is_the_largest_difference_of_the_distributions_at_the_cuts_and_never_above_the_true_one(
    reference: list[Any], current: list[Any]
) -> None:
    before, now = ([value for value in values if value is not None] for values in (reference, current))
    ks = compare(ints(reference), ints(current))["ks"]
    if not before or not now:
        assert math.isnan(ks)
        return
    apart = [
        abs(sum(v <= at for v in before) / len(before) - sum(v <= at for v in now) / len(now)) for at in {*before, *now}
    ]
    assert ks <= max(apart) + 1e-12


def test_ks_and_wasserstein_are_those_of_scipy_but_for_the_width_of_a_bin() -> None:
    from scipy.stats import ks_2samp, wasserstein_distance

    random = np.random.default_rng(0)
    for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (3.0, 0.5)):
        before, now = random.normal(size=20_000), random.normal(shift, scale, 20_000)
        found = compare(pl.Series(before), pl.Series(now))
        assert found["ks"] == pytest.approx(ks_2samp(before, now).statistic, abs=0.02)
        sigma = np.subtract(*np.quantile(before, [0.75, 0.25])) / 1.349
        assert found["wasserstein"] == pytest.approx(wasserstein_distance(before, now) / sigma, rel=0.03, abs=0.03)


@given(
    rows=st.integers(1, 200),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["float", "int", "bool", "time", "text", "null"]),
)
@settings(max_examples=60)
def test_streaming_and_in_place_counts_are_the_same_and_lose_no_row(rows: int, seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "float": np.where(
            random.random(rows) < 0.2, random.choice([np.nan, np.inf, -np.inf, 0.0], rows), random.normal(size=rows)
        ),
        "int": random.integers(-3, 3, rows),
        "bool": random.random(rows) < 0.1,
        "time": np.datetime64("2024-01-01", "us") + random.integers(0, 10**12, rows).astype("timedelta64[us]"),
        "text": random.choice(["a", "b", "c"], rows),
        "null": [None] * rows,
    }
    frame = pl.DataFrame({"x": pl.Series(made[kind])}).with_columns(
        pl.when(pl.Series(random.random(rows) < 0.9)).then(pl.col("x")).alias("x")
    )
    bins = fit_bins(frame.head(max(1, rows // 2)).lazy(), {"x": "input"})
    in_place, streamed = count(frame, bins)["x"], count(frame.lazy(), bins)["x"]
    assert in_place.tolist() == streamed.tolist()
    assert in_place.sum() == rows
    assert (in_place >= 0).all()


@given(values=st.one_of(numbers.map(ints), levels.map(lambda values: pl.Series("x", values, dtype=pl.String))))
def test_a_sample_has_not_moved_from_itself(values: pl.Series) -> None:
    found = compare(values, values)
    assert all(value == pytest.approx(0, abs=1e-12) or math.isnan(value) for value in found.values())


@given(reference=levels, current=levels, seed=st.integers(0, 100))
@settings(max_examples=50)
def test_the_order_of_rows_changes_nothing(reference: list[Any], current: list[Any], seed: int) -> None:
    before, now = (pl.Series("x", values, dtype=pl.String) for values in (reference, current))
    mixed = compare(before.sample(fraction=1, shuffle=True, seed=seed), now.reverse())
    assert mixed == compare(before, now)


def test_one_outlier_of_a_million_neither_hides_a_shift_nor_is_one() -> None:
    random = np.random.default_rng(0)
    reference = pl.Series(random.normal(0, 1, 10_000))
    moved = compare(reference, pl.Series(np.append(random.normal(1, 1, 9_999), 1e6)))
    same = compare(reference, pl.Series(np.append(random.normal(0, 1, 9_999), 1e6)))
    assert moved["psi"] > 0.8
    assert moved["wasserstein"] == pytest.approx(1, abs=0.1)
    assert same["psi"] < 0.01
    assert same["wasserstein"] < 0.05


def test_an_outlier_in_the_reference_does_not_stretch_its_scale() -> None:
    random = np.random.default_rng(0)
    reference = pl.Series(np.append(random.normal(0, 1, 9_999), 1e6))
    assert compare(reference, pl.Series(random.normal(1, 1, 10_000)))["wasserstein"] == pytest.approx(1, abs=0.1)


def test_a_column_that_turns_null_is_seen_in_its_rate_and_its_psi_and_what_is_left_is_compared() -> None:
    values = [float(value) for value in range(1000)]
    reference = pl.Series(values)
    gone = pl.Series([None if place % 10 < 7 else value for place, value in enumerate(values)])
    found = compare(reference, gone)
    assert found["nulls"] == pytest.approx(0.7)
    assert found["psi"] > 2
    assert found["ks"] < 0.02
    assert compare(reference, gone.fill_null(float("nan"))) == found
    empty = compare(reference, pl.Series([None] * 100, dtype=pl.Float64))
    assert empty["nulls"] == 1
    assert math.isnan(empty["ks"])


def test_a_constant_column_has_answers_and_no_scale_to_measure_by() -> None:
    reference = pl.Series([7.0] * 100)
    found = compare(reference, pl.Series([7.0] * 50 + [8.0] * 50))
    assert found["psi"] > 1
    assert found["ks"] == pytest.approx(0.5)
    assert "wasserstein" not in found


def test_mostly_one_value_is_measured_by_what_the_others_spread() -> None:
    random = np.random.default_rng(0)
    rain = pl.Series(np.where(random.random(5000) < 0.9, 0.0, random.exponential(1.0, 5000)))
    more = pl.Series(np.where(random.random(5000) < 0.5, 0.0, random.exponential(1.0, 5000)))
    found = compare(rain, more)
    assert found["ks"] == pytest.approx(0.4, abs=0.03)
    assert found["wasserstein"] > 0.5


def test_a_level_never_seen_has_its_share_and_rare_ones_do_not_add_up_to_drift() -> None:
    reference = pl.Series(["UA", "B6"] * 500)
    found = compare(reference, pl.Series(["UA", "XX"] * 100))
    assert found["unseen"] == pytest.approx(0.5)
    assert found["psi"] > 1
    random = np.random.default_rng(1)
    many = [pl.Series([f"D{value}" for value in random.integers(0, 150, rows)]) for rows in (2000, 500)]
    assert compare(*many)["psi"] < 0.1
    assert compare(*many)["unseen"] < 0.05


@pytest.mark.parametrize("usual", [0, 1])
def test_a_flag_that_hardly_ever_changed_can_drift_in_either_direction(usual: int) -> None:
    reference, current = ints([usual] * 97 + [1 - usual] * 3), ints([usual] * 50 + [1 - usual] * 50)
    found = compare(reference, current)
    assert found["psi"] > 0.25
    assert found["ks"] == pytest.approx(0.47)
    assert compare(reference.cast(pl.Boolean), current.cast(pl.Boolean)) == found


def test_what_became_true_is_compared_where_the_model_said_the_same() -> None:
    """Twice as many high predictions are no change of the truth; the same predictions with other labels are."""
    bins = concept_bins("c")
    before = np.array([90, 10, 80, 20, 60, 40, 30, 70, 10, 90, 0, 0, 0])
    higher = np.array([9, 1, 8, 2, 6, 4, 60, 140, 20, 180, 0, 0, 0])
    turned = np.array([70, 30, 60, 40, 60, 40, 50, 50, 30, 70, 0, 0, 0])
    assert measures(bins, before, higher)["truth"] < 0.03
    assert measures(bins, before, turned)["truth"] == pytest.approx(0.16, abs=0.01)


def test_a_missing_column_an_empty_reference_and_another_type_are_errors_that_name_it() -> None:
    frame = pl.DataFrame({"x": ["a", "b"]})
    bins = fit_bins(frame.lazy(), {"x": "input"})
    with pytest.raises(DataError, match="There is no column x now"):
        count(pl.DataFrame({"y": [1]}), bins)
    with pytest.raises(DataError, match="x is Int64 now, and text in the reference"):
        count(pl.DataFrame({"x": [1]}), bins)
    with pytest.raises(DataError, match="The reference has no rows"):
        fit_bins(frame.clear().lazy(), {"x": "input"})
    with pytest.raises(DataError, match="The reference has no column z"):
        fit_bins(frame.lazy(), {"z": "input"})


def test_a_reference_without_any_value_takes_what_comes_as_values() -> None:
    reference = pl.Series([None] * 50)
    assert compare(reference, pl.Series([None] * 50))["psi"] == 0
    assert compare(reference, pl.Series([1.5] * 50))["psi"] > 5
    assert compare(reference, pl.Series(["a"] * 50))["psi"] > 5


def test_two_samples_of_one_distribution_stay_below_the_noise_of_their_rows() -> None:
    random = np.random.default_rng(7)
    beyond = Counter()
    for _ in range(200):
        before, now = pl.Series("x", random.normal(size=1000)), pl.Series("x", random.normal(size=300))
        bins: list[Bins] = fit_bins(before.to_frame().lazy(), {"x": "input"})
        for name, value in compare(before, now).items():
            if name in ("psi", "ks", "wasserstein"):
                beyond[name] += value > noise(bins[0], name, 1000, 300)
    assert max(beyond.values()) <= 2
