"""The index itself: rules that hold for all inputs, and the cases in which the usual one is wrong."""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import DataError
from pilotage.monitoring.psi import noise, psi

numbers = st.lists(st.one_of(st.none(), st.integers(-4, 4), st.integers(-1000, 1000)), min_size=1, max_size=80)
levels = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "dd", ""])), min_size=1, max_size=300)


def brute_force(reference: list, current: list) -> float:
    """The definition, value by value: deciles of the reference, a heavy value on its own, null on its own."""
    known = sorted(value for value in reference if value is not None)
    deciles = [known[math.ceil(len(known) * part / 10) - 1] for part in range(1, 10)] if known else []

    def bin_of(value):
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


def ints(values: list) -> pl.Series:
    return pl.Series("x", values, dtype=pl.Int64)


@given(reference=numbers, current=numbers)
def test_it_equals_the_definition_applied_value_by_value(reference, current):
    assert psi(ints(reference), ints(current)).value == pytest.approx(brute_force(reference, current), abs=1e-12)


@given(reference=numbers, current=numbers, seed=st.integers(0, 2**16))
@settings(max_examples=50)
def test_the_order_of_rows_and_the_width_of_numbers_change_nothing(reference, current, seed):
    plain = psi(ints(reference), ints(current))
    shuffled = psi(ints(reference).sample(fraction=1, shuffle=True, seed=seed), ints(current).reverse())
    as_floats = psi(ints(reference).cast(pl.Float64), ints(current).cast(pl.Int32))
    assert plain == shuffled == as_floats


@given(reference=levels, current=levels)
def test_text_is_measured_by_level_and_never_below_zero(reference, current):
    measured = psi(pl.Series("c", reference, dtype=pl.String), pl.Series("c", current, dtype=pl.String))
    assert measured.value >= 0
    assert (measured.value == 0) == (Counter(reference) == Counter(current)) or len(reference) != len(current)


@given(values=st.one_of(numbers.map(ints), levels.map(lambda values: pl.Series("c", values, dtype=pl.String))))
def test_a_sample_has_not_moved_from_itself(values):
    assert psi(values, values).value == 0


def test_two_samples_of_one_distribution_stay_below_the_noise():
    random = np.random.default_rng(7)
    exceeded = 0
    for _ in range(200):
        measured = psi(pl.Series("x", random.normal(size=1000)), pl.Series("x", random.normal(size=300)))
        exceeded += measured.value > noise(measured.bins, 1000, 300)
    assert exceeded <= 2


def test_one_outlier_of_a_million_does_not_hide_a_shift():
    random = np.random.default_rng(0)
    reference = pl.Series("x", random.normal(0, 1, 10_000))
    current = pl.Series("x", np.append(random.normal(1, 1, 9_999), 1e6))
    assert psi(reference, current).value > 0.8


def test_nulls_and_nans_are_a_bin_of_their_own():
    reference = pl.Series("x", [float(value) for value in range(1000)])
    gone = pl.Series("x", [None if value % 10 < 7 else float(value) for value in range(1000)])
    assert psi(reference, gone).value > 2
    assert psi(reference, gone) == psi(reference, gone.fill_null(float("nan")))


def test_a_column_without_a_single_value_has_an_answer():
    full, empty = ints(list(range(100))), ints([None] * 100)
    assert psi(empty, empty).value == 0
    assert psi(empty, full).value > 5
    assert psi(full, empty).value > 5
    assert psi(full, pl.Series("x", [None] * 100)).value == psi(full, empty).value


@pytest.mark.parametrize("usual", [0, 1])
def test_a_flag_that_hardly_ever_changed_can_drift_in_either_direction(usual):
    reference = ints([usual] * 97 + [1 - usual] * 3)
    current = ints([usual] * 50 + [1 - usual] * 50)
    assert psi(reference, current).value > 0.25
    booleans = psi(reference.cast(pl.Boolean), current.cast(pl.Boolean))
    assert booleans == psi(reference, current)


def test_a_level_never_seen_before_is_noticed():
    reference = pl.Series("carrier", ["UA", "B6"] * 500)
    assert psi(reference, pl.Series("carrier", ["UA", "XX"] * 100)).value > 1


def test_a_hundred_rare_levels_do_not_add_up_to_drift():
    random = np.random.default_rng(1)
    reference = pl.Series("dest", [f"D{value}" for value in random.integers(0, 150, 2000)])
    current = pl.Series("dest", [f"D{value}" for value in random.integers(0, 150, 500)])
    measured = psi(reference, current)
    assert measured.value < max(0.1, noise(measured.bins, 2000, 500))


def test_times_are_numbers():
    days = pl.datetime_range(pl.datetime(2013, 1, 1), pl.datetime(2013, 4, 10), eager=True)
    assert psi(days, days).value == 0
    assert psi(days, days.dt.offset_by("60d")).value > 1


def test_infinite_values_fall_into_the_outer_bins():
    reference = pl.Series("x", [float(value) for value in range(100)])
    outer = psi(reference, pl.Series("x", [-1.0, 1e9]))
    assert psi(reference, pl.Series("x", [-math.inf, math.inf])) == outer


def test_a_sample_without_rows_is_an_error_and_not_a_zero():
    with pytest.raises(DataError, match="The current sample of x has no rows"):
        psi(ints([1]), ints([]))
    with pytest.raises(DataError, match="The reference sample of x has no rows"):
        psi(ints([]), ints([1]))


def test_text_is_not_compared_with_numbers():
    with pytest.raises(DataError, match="carrier is Int64 now, and String in the reference"):
        psi(pl.Series("carrier", ["UA"]), pl.Series("carrier", [7]))


def test_noise_follows_the_chi_square_distribution():
    from scipy.stats import chi2

    for bins in (2, 5, 11, 40):
        exact = (1 / 1000 + 1 / 400) * chi2.ppf(0.999, bins - 1)
        assert noise(bins, 1000, 400) == pytest.approx(exact, rel=0.05)
    assert noise(1, 10, 10) == 0
