"""The configuration of one training run as a resource, so that every step of the run reads the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from pilotage.training.config import TrainConfig
from resources.launchpad import launchpad_config

if TYPE_CHECKING:
    _Fields = dg.Config
else:
    _Fields = launchpad_config(TrainConfig)


class TrainingRun(dg.ConfigurableResource["TrainingRun"], _Fields):
    """What one training run tries: data, rounds, parameters, tuning, evaluation. Empty means what the spec says."""

    @property
    def config(self) -> TrainConfig:
        """Checked. Raises ``ConfigError`` that names the field."""
        return TrainConfig.from_values(self.model_dump(exclude_defaults=True))
