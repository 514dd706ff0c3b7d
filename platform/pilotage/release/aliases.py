"""What MLflow shows of the ledger: aliases, and tags of stages. A projection for people and tools; nothing reads it
back but the search for what somebody changed by hand.

What was projected last is noted in a tag beside the aliases, so that an alias which lags (MLflow was down when the
ledger decided) is not taken for one that somebody changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import RegistryUnavailable
from pilotage.release import mlflow_store
from pilotage.release.stages import ModelState
from pilotage.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOG = logging.getLogger(__name__)

CHAMPION = "champion"
CHALLENGER = "challenger"
ALIASES = (CHAMPION, CHALLENGER)

PROJECTED = "pilotage.aliases"
"""Tag of a registered model: the aliases that were projected last, as JSON."""
KILLED = "pilotage.killed"
"""Tag of a registered model that is killed: why."""
STAGE = "stage"
"""Tag of a version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What MLflow shows of a model."""

    aliases: Mapping[str, int] = field(default_factory=dict)
    projected: Mapping[str, int] = field(default_factory=dict)
    """The aliases that the platform set last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An alias that somebody changed in MLflow by hand."""

    model: str
    alias: str
    expected: int | None
    """Version by the ledger; ``None`` for no such alias."""
    found: int | None
    """Version in MLflow; ``None`` if it was removed."""


def aliases_of(state: ModelState) -> dict[str, int]:
    """The aliases that a model has by the ledger: the champion, and the version that is furthest on its way."""
    found = {CHAMPION: state.champion.version} if state.champion else {}
    if state.challenger is not None:
        found[CHALLENGER] = state.challenger.version
    elif state.shadows:
        found[CHALLENGER] = state.shadows[-1].version
    return found


def project(state: ModelState, *, settings: Settings) -> None:
    """Sets a model's aliases and tags in MLflow to what the ledger says.

    Raises:
        RegistryUnavailable: MLflow can't be reached, or does not know the model.
    """
    with mlflow_store.session(settings) as client:
        model, wanted = client.get_registered_model(state.model), aliases_of(state)
        there = {alias: int(version) for alias, version in model.aliases.items()}
        for alias in ALIASES:
            if alias in wanted and there.get(alias) != wanted[alias]:
                client.set_registered_model_alias(state.model, alias, str(wanted[alias]))
            elif alias in there and alias not in wanted:
                client.delete_registered_model_alias(state.model, alias)
        _tag(client, state, model.tags)
        # Last: broken off before it, the aliases are right or lag, and nobody is blamed.
        if _projected(model.tags) != wanted:
            client.set_registered_model_tag(state.model, PROJECTED, json.dumps(wanted))


def _tag(client: MlflowClient, state: ModelState, tags: Mapping[str, str]) -> None:
    if state.killed is not None and tags.get(KILLED) != state.killed.why:
        client.set_registered_model_tag(state.model, KILLED, state.killed.why[:5000])
    elif state.killed is None and KILLED in tags:
        client.delete_registered_model_tag(state.model, KILLED)
    for version in client.search_model_versions(f"name = '{state.model}'"):
        known = state.versions.get(int(version.version))
        if known is not None and version.tags.get(STAGE) != known.stage:
            client.set_model_version_tag(state.model, str(known.version), STAGE, known.stage)


def is_there(settings: Settings) -> bool:
    """Whether MLflow can have anything. To ask a SQLite store that was never made would make it, in seconds."""
    file = settings.mlflow.removeprefix("sqlite:///")
    return file == settings.mlflow or Path(file).exists()


def show(state: ModelState, *, settings: Settings) -> None:
    """Projects if MLflow is there. The ledger has decided; what lags is brought up to date by the next look."""
    if not is_there(settings):
        return
    try:
        project(state, settings=settings)
    except RegistryUnavailable as error:
        _LOG.warning("MLflow does not show yet what was decided about %s: %s", state.model, error.message)


def look(models: Sequence[str], *, settings: Settings) -> dict[str, Seen]:
    """What MLflow shows, now; 2 ms a model. One that it does not know shows nothing.

    Raises:
        RegistryUnavailable: MLflow can't be reached.
    """
    from mlflow.exceptions import MlflowException

    found: dict[str, Seen] = {}
    with mlflow_store.session(settings) as client:
        for name in models:
            try:
                model: Any = client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                found[name] = Seen()
                continue
            aliases = {alias: int(version) for alias, version in model.aliases.items()}
            found[name] = Seen(aliases=aliases, projected=_projected(model.tags))
    return found


def edits(state: ModelState, seen: Seen) -> list[Edit]:
    """Aliases that somebody changed: neither as the ledger says, nor as the platform left them."""
    wanted = aliases_of(state)
    return [
        Edit(model=state.model, alias=alias, expected=wanted.get(alias), found=seen.aliases.get(alias))
        for alias in ALIASES
        if seen.aliases.get(alias) not in (wanted.get(alias), seen.projected.get(alias))
    ]


def lags(state: ModelState, seen: Seen) -> bool:
    """Whether MLflow shows an earlier state of the ledger, and nobody is to blame."""
    return not edits(state, seen) and {
        alias: version for alias, version in seen.aliases.items() if alias in ALIASES
    } != aliases_of(state)


def _projected(tags: Mapping[str, str]) -> dict[str, int]:
    with suppress(KeyError, ValueError, TypeError, AttributeError):
        return {str(alias): int(version) for alias, version in json.loads(tags[PROJECTED]).items()}
    return {}
