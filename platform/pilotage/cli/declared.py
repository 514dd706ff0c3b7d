"""The project's declarations, for commands that need them.

The engine lies below ``assets/`` and must not import it; the command line is started by a person who stands above both,
so it looks the packages up by name when it runs.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pilotage.errors import ConfigError, DeclarationError

if TYPE_CHECKING:
    from pilotage.data.source import SourceSpec
    from pilotage.release.audit import Known
    from pilotage.settings import Settings
    from pilotage.spec import ModelSpec

_MODELS = "assets.models"


def models() -> dict[str, ModelSpec]:
    """Every declared model by name. Raises ``DeclarationError`` that names the file."""
    return cast("dict[str, ModelSpec]", _package(_MODELS).load_models())


def sources() -> dict[str, SourceSpec]:
    """Every declared source by name. Raises ``DeclarationError`` that names the file."""
    return cast("dict[str, SourceSpec]", _package("assets.sources").load_sources())


def noted_heads(settings: Settings) -> list[Known]:
    """Heads of the ledger that runs of this home's Dagster noted; none where Dagster never ran. Takes seconds.

    Raises:
        ConfigError: What a run noted is no head.
    """
    folder = settings.dagster_home
    if not (folder / "dagster.yaml").exists():
        return []
    # Its configuration names the folder by this variable.
    os.environ["DAGSTER_HOME"] = str(folder)
    return cast("list[Known]", _package("assets.ledger").heads_noted_in(folder))


def model(name: str) -> ModelSpec:
    """One model; what is in the files of others does not matter.

    Raises:
        ConfigError: There is no such model.
        DeclarationError: Its file can't be loaded.
    """
    from pilotage.discovery import load_declaration
    from pilotage.spec import ModelSpec

    files = _model_files()
    if name not in files:
        raise ConfigError(f"There is no model {name!r}.", fix=f"Use one of: {', '.join(files)}.", model=name)
    return load_declaration(_MODELS, "MODEL", ModelSpec, path=files[name])


def names() -> list[str]:
    """Every declared model, whether or not its file loads."""
    return list(_model_files())


def each_model() -> tuple[dict[str, ModelSpec], dict[str, DeclarationError]]:
    """Every model whose file loads, and what is wrong with the other files, by name."""
    specs: dict[str, ModelSpec] = {}
    wrong: dict[str, DeclarationError] = {}
    for name in _model_files():
        try:
            specs[name] = model(name)
        except DeclarationError as error:
            wrong[name] = error
    return specs, wrong


def _model_files() -> dict[str, Path]:
    folder = Path(_package(_MODELS).__file__).parent
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        raise ConfigError(
            f"The project's package {name} can't be found.",
            fix="Install the checkout: scripts/install, or pip install -e .",
        ) from error
