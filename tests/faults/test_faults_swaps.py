"""A hundred swaps under load: no request fails, and every answer is of the version that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.bench_swaps import SWAPS, swap


@pytest.mark.timeout(1800)
def test_a_hundred_swaps_fail_no_request_and_mix_no_versions(tmp_path: Path, tell: Callable[[str], None]) -> None:
    swapped = swap(tmp_path, swaps=SWAPS, workers=2, tell=tell)
    tell(str(swapped))
    assert (swapped.failed, swapped.disagreeing) == (0, 0)
    assert len(swapped.first_answer_s) == SWAPS
