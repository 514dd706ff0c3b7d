"""What MLflow shows of the ledger: aliases, and tags of stages. A projection for people and tools; nothing reads it
back but the search for what somebody changed by hand.

What is projected is noted in a tag beside the aliases, before it is done, so that an alias which lags (MLflow was down
when the ledger decided, or went down in between) is not taken for one that somebody changed. An alias that somebody did
change is left as it is until ``reconcile.py`` has recorded it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
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
"""Tag of a registered model: the aliases that were projected last, as a JSON list; of two, if that was broken off."""
SEQUENCE = "pilotage.sequence"
"""Tag of a registered model: the last event of the ledger about it that is shown."""
KILLED = "pilotage.killed"
"""Tag of a registered model that is killed: why."""
STAGE = "stage"
"""Tag of a version."""

_LONGEST_TAG = 5_000
"""Characters that MLflow keeps of a tag."""
_WAIT_S = 30
"""Seconds to wait for another one that shows a state."""
_BROKEN_OFF = 20
"""Projections that were broken off, of which the note says what they may have set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What MLflow shows of a model."""

    known: bool = False
    """Whether there is such a model."""
    aliases: Mapping[str, int] = field(default_factory=dict)
    projected: tuple[Mapping[str, int], ...] = ({},)
    """The aliases that the platform may have set last."""
    sequence: int = 0
    """Of the last event about the model that is shown."""


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


def project(state: ModelState, *, settings: Settings, settled: Collection[str] = (), over_newer: bool = False) -> None:
    """Sets a model's aliases and tags in MLflow to what the ledger says.

    Args:
        state: What it says.
        settings: Where MLflow is.
        settled: Aliases that somebody changed by hand, and that are on record; others of these are left.
        over_newer: Whether to show it though MLflow shows a later event: the ledger was restored.

    Raises:
        RegistryUnavailable: MLflow can't be reached, or does not know the model.
    """
    from filelock import FileLock

    wanted = aliases_of(state)
    settings.home.mkdir(parents=True, exist_ok=True)
    with (
        mlflow_store.session(settings) as client,
        # Two that decided at once: the later state is shown last.
        FileLock(settings.home / f".aliases-{state.model}.lock", timeout=_WAIT_S),
    ):
        model = client.get_registered_model(state.model)
        seen = _seen(model)
        if seen.sequence > state.sequence and not over_newer:
            return
        by_hand = {edit.alias for edit in edits(state, seen)} - set(settled)
        if seen.projected != (wanted,):
            meanwhile = [each for each in seen.projected if each != wanted][-_BROKEN_OFF:]
            client.set_registered_model_tag(state.model, PROJECTED, json.dumps([*meanwhile, wanted]))
        for alias in ALIASES:
            if alias in by_hand:
                continue
            if alias in wanted and seen.aliases.get(alias) != wanted[alias]:
                client.set_registered_model_alias(state.model, alias, str(wanted[alias]))
            elif alias in seen.aliases and alias not in wanted:
                client.delete_registered_model_alias(state.model, alias)
        _tag(client, state, model.tags)
        if seen.projected != (wanted,):
            client.set_registered_model_tag(state.model, PROJECTED, json.dumps([wanted]))
        client.set_registered_model_tag(state.model, SEQUENCE, str(state.sequence))


def _tag(client: MlflowClient, state: ModelState, tags: Mapping[str, str]) -> None:
    if state.killed is not None and tags.get(KILLED) != (why := state.killed.why[:_LONGEST_TAG]):
        client.set_registered_model_tag(state.model, KILLED, why)
    elif state.killed is None and KILLED in tags:
        client.delete_registered_model_tag(state.model, KILLED)
    for version in client.search_model_versions(f"name = '{state.model}'"):
        known = state.versions.get(int(version.version))
        if known is not None and version.tags.get(STAGE) != known.stage:
            client.set_model_version_tag(state.model, str(known.version), STAGE, known.stage)


def is_there(settings: Settings) -> bool:
    """Whether MLflow can have anything. To ask a SQLite store that was never made would make it, in seconds."""
    file = _file(settings)
    return file is None or file.exists()


def written(settings: Settings) -> str | None:
    """When MLflow's store was last written to, as its file has it; ``None`` where it is a server's.

    The same again says that no alias has changed, without MLflow's client, which takes seconds to import.
    """
    if (file := _file(settings)) is None:
        return None
    times = []
    for each in (file, file.with_name(f"{file.name}-wal")):
        with suppress(FileNotFoundError):
            found = each.stat()
            times.append(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}")
    return ", ".join(times)


def _file(settings: Settings) -> Path | None:
    file = settings.mlflow.removeprefix("sqlite:///")
    return None if file == settings.mlflow else Path(file)


def show(state: ModelState, *, settings: Settings) -> None:
    """Projects if MLflow is there. The ledger has decided; what lags is brought up to date by the next look."""
    if not state.versions or not is_there(settings):
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
            found[name] = _seen(model)
    return found


def _seen(model: Any) -> Seen:
    return Seen(
        known=True,
        aliases={alias: int(version) for alias, version in model.aliases.items() if alias in ALIASES},
        projected=_projected(model.tags),
        sequence=_shown(model.tags),
    )


def edits(state: ModelState, seen: Seen) -> list[Edit]:
    """Aliases that somebody changed: neither as the ledger says, nor as the platform left them."""
    wanted = aliases_of(state)
    return [
        Edit(model=state.model, alias=alias, expected=wanted.get(alias), found=seen.aliases.get(alias))
        for alias in ALIASES
        if seen.aliases.get(alias) not in (wanted.get(alias), *(each.get(alias) for each in seen.projected))
    ]


def lags(state: ModelState, seen: Seen) -> bool:
    """Whether MLflow shows another state than the ledger's, and nobody is to blame."""
    if edits(state, seen):
        return False
    return seen.aliases != aliases_of(state) or (seen.known and seen.sequence != state.sequence)


def _projected(tags: Mapping[str, str]) -> tuple[Mapping[str, int], ...]:
    with suppress(KeyError, ValueError, TypeError, AttributeError):
        noted = json.loads(tags[PROJECTED])
        # Until there was a list, it was what one would hold.
        found = [noted] if isinstance(noted, dict) else noted
        return tuple({str(alias): int(version) for alias, version in each.items()} for each in found) or ({},)
    return ({},)


def _shown(tags: Mapping[str, str]) -> int:
    with suppress(KeyError, ValueError):
        return int(tags[SEQUENCE])
    return 0
