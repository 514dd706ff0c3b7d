"""What one ingest of one source goes by, whether its deliveries add to what the lake holds or replace it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pilotage.data.erased import Forgets
from pilotage.data.lake import Lake
from pilotage.data.source import SourceSpec


@dataclass(slots=True, kw_only=True)
class IngestRun:
    """One run of one source."""

    spec: SourceSpec
    lake: Lake
    run_id: str
    forget: Forgets
    """Leaves out the rows of who was erased."""
    progress: Callable[[str], None]

    @property
    def table(self) -> str:
        """Where its rows go."""
        return f"raw/{self.spec.name}"
