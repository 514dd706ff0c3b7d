"""A sample that makes no sense is refused in our words, with the field and what fits."""

from __future__ import annotations

import pytest

from assets.skew import SkewSample
from pilotage.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample", 0), ("sample", -1), ("sample", 100_001), ("days", 0.0), ("days", 1e9), ("days", float("nan"))],
)
def test_a_number_out_of_range_is_named_with_the_fix(field: str, value: float) -> None:
    sample = SkewSample(**{field: value})
    with pytest.raises(ConfigError, match=rf"{field} is .* Fill in more than 0, and [0-9,]+ at most") as refused:
        sample.require_sense()
    assert refused.value.details["field"] == field


def test_what_is_not_filled_in_makes_sense() -> None:
    SkewSample().require_sense()
