from datetime import timedelta

import pytest

from pilotage.durations import in_words


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(days=14), "14 days"),
        (timedelta(days=2, hours=12), "2.5 days"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(minutes=135), "2.25 hours"),
        (timedelta(hours=1), "60 minutes"),
        (timedelta(minutes=10), "10 minutes"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(milliseconds=250), "0.25 seconds"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_people_are_told_a_length_in_a_unit_of_which_there_are_two(span: timedelta, said: str) -> None:
    assert in_words(span) == said
