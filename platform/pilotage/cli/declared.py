"""The project's declarations, for commands that need them.

The engine lies below ``assets/`` and must not import it; the command line is started by a person who stands above both,
so it looks the packages up by name when it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from pilotage.errors import ConfigError

if TYPE_CHECKING:
    from pilotage.data.source import SourceSpec
    from pilotage.spec import ModelSpec


def models() -> dict[str, ModelSpec]:
    """Every declared model by name. Raises ``DeclarationError`` that names the file."""
    return cast("dict[str, ModelSpec]", _package("assets.models").load_models())


def sources() -> dict[str, SourceSpec]:
    """Every declared source by name. Raises ``DeclarationError`` that names the file."""
    return cast("dict[str, SourceSpec]", _package("assets.sources").load_sources())


def model(name: str) -> ModelSpec:
    """One model.

    Raises:
        ConfigError: There is no such model.
    """
    known = models()
    if name not in known:
        raise ConfigError(f"There is no model {name!r}.", fix=f"Use one of: {', '.join(sorted(known))}.", model=name)
    return known[name]


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
