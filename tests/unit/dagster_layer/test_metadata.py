"""What the UI is told of days and tables."""

from __future__ import annotations

from datetime import date

import pytest

from assets.metadata import span


@pytest.mark.parametrize(
    ("days", "told"),
    [
        ([], "none"),
        ([4], "2013-03-04"),
        ([2, 1, 3], "2013-03-01 … 2013-03-03 (3)"),
        ([13, 16], "2013-03-13, 2013-03-16 (2)"),
        ([12, 14, 15], "2013-03-12, 2013-03-14 … 2013-03-15 (3)"),
        (
            range(1, 20, 2),
            "2013-03-01, 2013-03-03, 2013-03-05, 2013-03-07, …, 2013-03-19 (10)",
        ),
    ],
)
def test_days_with_a_gap_are_not_told_as_if_there_were_none(days: list[int], told: str) -> None:
    assert span([date(2013, 3, day) for day in days]) == told
