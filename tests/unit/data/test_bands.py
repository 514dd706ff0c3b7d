"""Bands that are learned from earlier days."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.bands import MINIMUM, RECENT, WINDOW, Band, Measured, learn
from pilotage.data.source import Expectation
from tests.unit.data.readings import FIRST

LEVEL = Expectation(name="level", sql="avg(x)", learned=3, severity="warn", why="")


def days(values: list[float], *, name: str = "level") -> list[Measured]:
    return [Measured(day=FIRST + timedelta(days=number), values={name: value}) for number, value in enumerate(values)]


def bands(values: list[float], expectation: Expectation = LEVEL) -> list[Band]:
    return [each[expectation.name] for each in learn([expectation], days(values, name=expectation.name))]


def test_with_fewer_than_seven_earlier_days_only_fixed_bounds_hold() -> None:
    fixed = LEVEL.model_copy(update={"low": 0.0})

    found = bands([1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0], fixed)

    assert [band.learned_from for band in found] == [0] * MINIMUM + [MINIMUM]
    assert found[6] == Band(low=0.0, high=None, learned_from=0)


def test_a_band_is_the_median_and_so_many_robust_deviations() -> None:
    values = [1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 0.0]

    band = bands(values)[-1]

    earlier = np.array(values[:-1])
    half = 3 * 1.4826 * np.median(np.abs(earlier - 7.0))
    assert (band.low, band.high) == (pytest.approx(7.0 - half), pytest.approx(7.0 + half))


def test_a_number_that_never_moves_still_gets_its_narrowest_band() -> None:
    narrow = LEVEL.model_copy(update={"narrowest": 0.5})

    band = bands([3.0] * 8, narrow)[-1]

    assert (band.low, band.high) == (2.5, 3.5)


def test_learned_and_fixed_bounds_both_hold() -> None:
    both = LEVEL.model_copy(update={"low": 2.9, "high": 100.0, "narrowest": 0.5})

    band = bands([3.0] * 8, both)[-1]

    assert (band.low, band.high) == (2.9, 3.5)


def test_a_storm_does_not_make_the_next_one_look_ordinary() -> None:
    calm = [float(number % 5) for number in range(20)]

    before, after = bands([*calm, 90.0, 95.0, 1.0])[-3], bands([*calm, 90.0, 95.0, 1.0])[-1]

    assert not before.holds(90.0)
    assert (after.low, after.high) == (before.low, before.high)


def test_a_world_that_changed_for_good_is_followed() -> None:
    values = [float(number % 3) for number in range(30)] + [50.0 + number % 3 for number in range(RECENT)]

    found = bands(values)

    verdicts = [band.holds(value) for band, value in zip(found, values, strict=True)][30:]
    assert not any(verdicts[: RECENT // 2 + 1])
    assert verdicts[-1]


BLOCKING = LEVEL.model_copy(update={"severity": "block"})


def test_a_world_that_changed_for_good_is_followed_by_a_band_that_refuses_days() -> None:
    values = [float(number % 3) for number in range(30)] + [50.0 + number % 3 for number in range(RECENT)]

    found = bands(values, BLOCKING)

    verdicts = [band.holds(value) for band, value in zip(found, values, strict=True)][30:]
    assert not any(verdicts[: RECENT // 2 + 1])
    assert verdicts[-1]


def test_days_that_something_else_refused_or_without_rows_change_no_world() -> None:
    rows = Expectation(name="rows", sql="count(*)", low=1, severity="block", why="")
    ordinary = [
        replace(each, values={**each.values, "rows": 9.0}) for each in days([number % 3.0 for number in range(40)])
    ]
    refused = [replace(each, values={"level": 50.0, "rows": 0.0}) for each in ordinary[20:34]]
    empty = [replace(each, values={"level": 0.0, "rows": 9.0}, empty=True) for each in ordinary[20:34]]
    calm = learn([BLOCKING, rows], [*ordinary[:20], *ordinary[34:]])[20]["level"]

    for odd in (refused, empty):
        after = learn([BLOCKING, rows], [*ordinary[:20], *odd, ordinary[34]])[-1]["level"]
        assert (after.low, after.high) == (calm.low, calm.high)


def test_only_the_last_two_months_count() -> None:
    found = bands([float(number) for number in range(200)])

    assert found[-1].learned_from <= WINDOW


def test_a_day_that_a_blocking_number_kept_out_teaches_nothing() -> None:
    blocking = Expectation(name="rows", sql="count(*)", low=1, severity="block", why="")
    batches = [
        Measured(day=each.day, values={**each.values, "rows": 0.0 if number == 3 else 9.0})
        for number, each in enumerate(days([1.0] * 9))
    ]

    found = learn([LEVEL, blocking], batches)

    assert found[-1]["level"].learned_from == 7


def test_a_day_that_did_not_pass_in_an_earlier_run_teaches_nothing() -> None:
    *history, today = days([1.0] * 9)
    history[0] = Measured(day=history[0].day, values=history[0].values, passed=False)

    (found,) = learn([LEVEL], [today], history=history)

    assert found["level"].learned_from == 7


def test_a_day_does_not_learn_from_a_later_one_that_was_judged_in_an_earlier_run() -> None:
    every = days([1.0] * 8 + [2.0] * 8)

    (found,) = learn([LEVEL], [every[8]], history=[*every[:8], *every[9:]])

    assert found["level"].learned_from == 8


def test_what_could_not_be_measured_lies_in_no_band() -> None:
    assert not Band(low=None, high=None, learned_from=0).holds(None)
    assert Band(low=None, high=None, learned_from=0).holds(1e9)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=80), st.data())
def test_a_band_never_depends_on_its_own_day_or_a_later_one(values: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    changed = values[:at] + [value + 1000 for value in values[at:]]

    assert bands(changed)[: at + 1] == bands(values)[: at + 1]


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.sampled_from([LEVEL, BLOCKING]), st.data())
def test_days_judged_in_two_runs_get_the_bands_of_one(
    values: list[float], level: Expectation, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(values)))
    every = days(values)
    whole = learn([level], every)
    met = [own["level"].holds(each.values["level"]) for each, own in zip(every, whole, strict=True)]
    judged = [
        replace(each, passed=good or level.severity == "warn", unmet=frozenset(() if good else ["level"]))
        for each, good in zip(every, met, strict=True)
    ]

    assert learn([level], every[cut:], history=judged[:cut]) == whole[cut:]
