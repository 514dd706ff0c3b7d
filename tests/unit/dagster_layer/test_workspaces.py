"""Where trainings work does not fill the disk, however many of them fail."""

from __future__ import annotations

import os
from pathlib import Path

from assets.lineage import KEPT, workspace
from pilotage.testing.bundles import tiny_spec
from resources.platform_home import PlatformHome


def test_the_work_of_old_trainings_goes_and_that_of_the_newest_stays(tmp_path: Path) -> None:
    platform, spec = PlatformHome(home=str(tmp_path)), tiny_spec("tiny")
    for number in range(KEPT + 5):
        folder = workspace(platform, spec, f"run-{number}")
        (folder / "training_set.parquet").touch()
        os.utime(folder, (number, number))
    assert workspace(platform, spec, "run-7") == tmp_path / "candidates" / "tiny" / "run-7"
    left = {each.name for each in (tmp_path / "candidates" / "tiny").iterdir()}
    assert left == {f"run-{number}" for number in range(5, KEPT + 5)}


def test_work_that_another_run_takes_away_meanwhile_stops_no_training(tmp_path: Path) -> None:
    platform, spec = PlatformHome(home=str(tmp_path)), tiny_spec("tiny")
    workspace(platform, spec, "run-1")
    # It is listed, and gone when it is looked at.
    (tmp_path / "candidates" / "tiny" / "run-0").symlink_to(tmp_path / "gone")
    assert workspace(platform, spec, "run-2").is_dir()
