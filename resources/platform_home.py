"""The platform's state as a resource: settings and the lake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from pilotage.data.lake import Lake
    from pilotage.settings import Settings


class PlatformHome(dg.ConfigurableResource["PlatformHome"]):
    """Hands out ``Settings`` and the ``Lake``."""

    home: str = Field(default="", description="Folder that holds all state; empty for PILOTAGE_HOME or its default.")

    @property
    def settings(self) -> Settings:
        from pilotage.settings import Settings

        settings = Settings.load()
        return settings.model_copy(update={"home": Path(self.home).absolute()}) if self.home else settings

    @property
    def lake(self) -> Lake:
        from pilotage.data.lake import Lake

        return Lake(self.settings.lake)
