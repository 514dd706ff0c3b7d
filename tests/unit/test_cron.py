"""A schedule that is declared is one that Dagster has: another would keep all models from being loaded."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

import pytest
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_schedule
from hypothesis import example, given
from hypothesis import strategies as st

from pilotage.cron import read_cron
from pilotage.errors import ConfigError, DeclarationError
from pilotage.spec import Retraining

YEAR = [date(2013, 1, 1) + timedelta(days=day) for day in range(365)]


def field(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a schedule, right or nearly right."""
    number = st.integers(low - 1 if low else 0, high + 1).map(str)
    span = st.one_of(st.just("*"), number, st.tuples(number, number).map("-".join))
    part = st.one_of(span, st.tuples(span, st.integers(0, high).map(str)).map("/".join))
    return st.lists(part, min_size=1, max_size=2).map(",".join)


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)).map(" ".join)


@given(EXPRESSIONS)
def test_what_is_read_is_a_schedule_of_dagster_s(text: str) -> None:
    try:
        read_cron(text)
    except ConfigError:
        return
    assert is_valid_cron_schedule(text)


@example("0 4 1 * 0-6")
@example("0 4 1 * *,3")
@example("0 4 * * 0-0")
@example("0 4 * * 1/1")
@example("0 4 * 12/1 *")
@given(st.tuples(st.just("0 4"), field(1, 31), field(1, 12), field(0, 7)).map(" ".join))
def test_it_is_due_on_the_days_that_dagster_gives_it(text: str) -> None:
    compared(text)


@pytest.mark.parametrize("first", range(8))
def test_a_step_over_a_single_day_of_the_week_ends_where_dagster_has_it_end(first: int) -> None:
    for step in range(1, 8):
        compared(f"0 4 * * {first}/{step}")


def compared(text: str) -> None:
    """Holds what a schedule is read as to Dagster's reading of it, if it is one here."""
    try:
        cron = read_cron(text)
    except ConfigError:
        return
    ticks = cron_string_iterator(datetime(2013, 1, 1, tzinfo=UTC).timestamp(), text, "UTC")
    theirs = [tick.date() for tick in takewhile(lambda tick: tick.year == 2013, ticks)]
    assert [day for day in YEAR if cron.due(day)] == theirs


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "nightly",
        "0 25 * * *",
        "0 0 4 * * *",
        "0 0 31 2 *",
        "0 0 30,31 2 *",
        "0 4 * * 8",
        "٣ 4 * * *",
        "0 4 * 12/1 *",
        "0 4 * * 7/2",
    ],
)
def test_a_schedule_that_there_is_not_is_refused_where_it_is_declared(schedule: str) -> None:
    with pytest.raises(DeclarationError, match="schedule"):
        Retraining(schedule=schedule)
