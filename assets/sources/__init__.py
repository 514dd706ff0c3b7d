"""One file a dataset, each with a ``SOURCE``. No Dagster here: a source is a declaration."""

from pathlib import Path

from pilotage.data.source import SourceSpec
from pilotage.discovery import load_declarations


def load_sources() -> dict[str, SourceSpec]:
    """Name → spec of every file in this folder. Raises ``DeclarationError`` that names the file."""
    return load_declarations(__name__, "SOURCE", SourceSpec, folder=Path(__file__).parent)
