"""The clock of a replay: which day a prediction belongs to, and which nights a schedule has."""

from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

import polars as pl
import pytest
from dagster._utils.schedules import cron_string_iterator
from hypothesis import given
from hypothesis import strategies as st

from assets.models.flight_delay import MODEL
from pilotage.errors import ConfigError
from pilotage.replay.nights import days, night, replay_day, scheduled

MOMENTS = st.datetimes(datetime(2013, 1, 2), datetime(2013, 12, 30), timezones=st.just(UTC))


def day_of(*moments: datetime) -> list[date]:
    frame = pl.DataFrame({"at": pl.Series(moments, dtype=pl.Datetime("us", "UTC"))})
    return frame.select(replay_day(MODEL, pl.col("at"))).to_series().to_list()


@given(MOMENTS)
def test_a_prediction_is_made_after_the_night_before_its_day_and_before_its_own(moment: datetime) -> None:
    (day,) = day_of(moment)
    assert night(MODEL, day - timedelta(days=1)) <= moment < night(MODEL, day)


def test_a_night_is_three_in_the_morning_in_winter_and_in_summer() -> None:
    assert night(MODEL, date(2013, 3, 8)) == datetime(2013, 3, 9, 8, tzinfo=UTC)
    # The clock was put forward on 10 March at 2:00.
    assert night(MODEL, date(2013, 3, 9)) == datetime(2013, 3, 10, 7, tzinfo=UTC)
    assert night(MODEL, date(2013, 11, 2)) == datetime(2013, 11, 3, 8, tzinfo=UTC)


def test_days_are_given_from_the_first_to_the_last() -> None:
    assert list(days(date(2013, 2, 27), date(2013, 3, 1))) == [date(2013, 2, 27), date(2013, 2, 28), date(2013, 3, 1)]
    with pytest.raises(ConfigError, match="is after the last"):
        list(days(date(2013, 3, 2), date(2013, 3, 1)))


@pytest.mark.parametrize(
    ("cron", "mornings"),
    [
        ("0 4 * * *", {3, 4, 5, 6, 7, 8, 9}),
        ("0 4 * * 1", {4}),
        ("0 4 * * 0", {3}),
        ("0 4 * * 7", {3}),
        ("0 4 * * 1,4-5", {4, 7, 8}),
        ("0 4 5 * *", {5}),
        # Cron takes either, if both are given.
        ("0 4 5 * 1", {4, 5}),
        ("0 4 */5 * *", {6}),
        ("0 4 3-9/2 * *", {3, 5, 7, 9}),
        ("0 4 * 4 *", set()),
        (None, set()),
    ],
)
def test_a_schedule_has_the_nights_that_cron_says(cron: str | None, mornings: set[int]) -> None:
    # 3 March 2013 was a Sunday.
    assert {day for day in range(3, 10) if scheduled(cron, date(2013, 3, day))} == mornings


@pytest.mark.parametrize(
    "cron",
    ["0 4 */5 * *", "0 4 1,15 * 1", "0 4 1-10/3 * *", "0 4 */5 * 1", "0 4 1 * */2", "0 4 2/2 * *", "0 4 * mar MON-fri"],
)
def test_a_schedule_has_the_nights_of_a_year_that_dagster_gives_it(cron: str) -> None:
    ticks = cron_string_iterator(datetime(2013, 1, 1, tzinfo=UTC).timestamp(), cron, "UTC")
    theirs = {tick.date() for tick in takewhile(lambda tick: tick.year == 2013, ticks)}
    assert {day for day in days(date(2013, 1, 1), date(2013, 12, 31)) if scheduled(cron, day)} == theirs


@pytest.mark.parametrize("cron", ["@daily", "0 4 * *", "0 4 * * MONDAY", "0 4 9-2 * *", "0 4 */x * *"])
def test_a_schedule_of_another_form_is_refused_rather_than_guessed(cron: str) -> None:
    with pytest.raises(ConfigError):
        scheduled(cron, date(2013, 3, 4))
