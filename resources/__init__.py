"""Thin Dagster resources: each hands out a plain engine object and adds configuration, nothing else."""

from typing import Any

from resources.platform_home import PlatformHome
from resources.records import RecordIOManager
from resources.training_run import TrainingRun


def default_resources() -> dict[str, Any]:
    """The resources of a real deployment, by the key that assets ask for."""
    platform = PlatformHome.configure_at_launch()
    return {
        "platform": platform,
        "io_manager": RecordIOManager(platform=platform),
        "training": TrainingRun.configure_at_launch(),
    }
