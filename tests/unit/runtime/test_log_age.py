"""How long the prediction log waits for the lake."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pilotage.runtime.log import oldest
from tests.unit.monitoring.logs import prediction, write_segment

NOW = datetime(2026, 1, 5, 9, 12, 44, tzinfo=UTC)


def written(path: Path, *, hours_ago: int) -> Path:
    then = (NOW - timedelta(hours=hours_ago)).timestamp()
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("sealed", [True, False])
def test_the_oldest_segment_counts_whether_it_is_sealed_or_not_and_whoever_wrote_it(tmp_path: Path, sealed: bool):
    assert oldest(tmp_path / "none") is None
    assert oldest(tmp_path) is None
    for worker, hours in (("w-2", 1), ("w-10", 3), ("a", 2)):
        written(write_segment(tmp_path, [prediction(1)], worker=worker, sealed=sealed), hours_ago=hours)
    torn = write_segment(tmp_path, [prediction(1)], worker="b")
    written(torn.rename(torn.with_suffix(".torn")), hours_ago=9)
    assert oldest(tmp_path) == NOW - timedelta(hours=3)


def test_an_idle_workers_segment_has_no_age_until_something_is_written_into_it(tmp_path: Path):
    idle = written(write_segment(tmp_path, [], sealed=False), hours_ago=10)
    assert oldest(tmp_path) is None
    # It began two years ago, by its name.
    written(write_segment(tmp_path, [prediction(1)], sealed=False), hours_ago=0)
    assert oldest(tmp_path) == NOW
    idle.rename(idle.with_suffix(".sealed"))
    assert oldest(tmp_path) == NOW


def test_a_file_of_somebody_elses_is_no_age(tmp_path: Path):
    (tmp_path / "notes.open").touch()
    assert oldest(tmp_path) is None
