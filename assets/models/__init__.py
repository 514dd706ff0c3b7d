"""One file a model, each with a ``MODEL``. No Dagster here: the prediction service reads these files too."""

from pathlib import Path

from pilotage.discovery import load_declarations
from pilotage.spec import ModelSpec


def load_models() -> dict[str, ModelSpec]:
    """Name → spec of every file in this folder. Raises ``DeclarationError`` that names the file."""
    return load_declarations(__name__, "MODEL", ModelSpec, folder=Path(__file__).parent)
