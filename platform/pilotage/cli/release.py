"""``pilotage promote``, and the release of the first champions of the sample data."""

from __future__ import annotations

import getpass
import json

import click

from pilotage.cli import declared, home, status
from pilotage.cli.runs import RESULT
from pilotage.errors import NotReleasable
from pilotage.settings import Settings

PLATFORM = "pilotage up"
"""The actor of first releases, so that nobody takes them for a person's decision."""


def create_store(settings: Settings) -> None:
    """Makes MLflow's store ready, once."""
    from pilotage.release.registry import create_store

    home.prepare(settings)
    create_store(settings)


def promote(settings: Settings, model: str, version: int, *, why: str, actor: str | None) -> None:
    """Makes a version champion, in the name of the person at the keyboard."""
    from pilotage.release import promote

    declared.model(model)
    release = promote(model, version, settings=settings, actor=actor or getpass.getuser(), why=why)
    click.echo(f"{model} version {release.version} is in production, promoted by {release.actor}: {release.why}")


def release_first(settings: Settings, model: str) -> None:
    """Promotes the newest version that passed its gate, if the model has no champion yet.

    Raises:
        NotReleasable: No version passed; says why the last candidate was refused.
    """
    from pilotage.release import promote

    state = status.states(settings).get(model)
    release = state.champion if state else None
    if release is None:
        version = status.newest_releasable(state)
        if version is None:
            reasons = "; ".join(state.refused[-1].reasons) if state and state.refused else "none was registered"
            raise NotReleasable(
                f"{model} has no version that may be promoted: {reasons}.",
                fix=f"Look at its evaluation in the Dagster UI, change model or data, and: pilotage train {model}",
                model=model,
            )
        release = promote(model, version, settings=settings, actor=PLATFORM, why="first champion of the sample data")
    click.echo(f"{RESULT}{json.dumps(status.in_production(release))}")
