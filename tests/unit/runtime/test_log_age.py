"""How long the prediction log waits for the lake."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pilotage.runtime.log import oldest
from pilotage.runtime.log.segments import name_of

BEGAN = datetime(2026, 1, 5, 9, 12, 44, 102_938, tzinfo=UTC)


def test_the_oldest_segment_counts_whether_it_is_sealed_or_not_and_whoever_wrote_it(tmp_path: Path):
    assert oldest(tmp_path / "none") is None
    assert oldest(tmp_path) is None
    for worker, age, state in (("w-2", 1, "open"), ("w-10", 3, "sealed"), ("a", 2, "sealed"), ("b", 9, "torn")):
        (tmp_path / f"{name_of(worker, BEGAN - timedelta(hours=age), 1)}.{state}").touch()
    assert oldest(tmp_path) == BEGAN - timedelta(hours=3)


def test_a_file_of_somebody_elses_is_no_age(tmp_path: Path):
    (tmp_path / "notes.open").touch()
    assert oldest(tmp_path) is None
