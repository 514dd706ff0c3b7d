"""What ``pilotage up`` makes before it starts: MLflow's store, and the first champions of the sample data."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import click

from pilotage.cli import declared, home, servers, status
from pilotage.cli.runs import RESULT
from pilotage.errors import NotReleasable, RegistryUnavailable
from pilotage.settings import Settings

PLATFORM = "pilotage up"
"""The actor of first releases, so that nobody takes them for a person's decision."""

_STAND_IN = (
    "No person looked at it: `pilotage up` releases the model of its own sample data, to have something to show."
)


def create_store(settings: Settings) -> None:
    """Makes MLflow's store ready. A SQLite one appears whole, so that a start that was interrupted can begin again.

    Raises:
        RegistryUnavailable: It can't be reached, or it is broken and holds something.
    """
    from pilotage.release.mlflow_store import session

    home.prepare(settings)
    file = servers.store_file(settings)
    if file is None:
        with session(settings):
            return
    from filelock import FileLock

    # Not MLflow's own lock on the file, which ``session`` takes.
    with FileLock(f"{file}.setup.lock"):
        if file.exists():
            try:
                with session(settings):
                    return
            except Exception as error:
                # MLflow made it in place and was interrupted: its migrations can't be taken up half way. What they
                # raise then (SQLAlchemy's, Alembic's, sqlite's errors) depends on where that was.
                if not _holds_nothing(file):
                    raise RegistryUnavailable(
                        f"MLflow's store {file} can't be opened: {error}",
                        fix="Restore it from a backup, or move it away to begin with an empty one.",
                        file=str(file),
                    ) from error
                file.rename(file.with_name(f"{file.name}.broken"))
        staged = file.with_name(f"{file.name}.new")
        _clear(staged)
        with session(settings.model_copy(update={"mlflow_uri": f"sqlite:///{staged}"})):
            pass
        staged.replace(file)
        _clear(staged)
        # Not by another session: MLflow keeps a connection a URI, and that one may be to the broken file.
        servers.ready_mark(file).touch()


def _clear(staged: Path) -> None:
    """Removes what an attempt, finished or not, left beside the store."""
    for leftover in staged.parent.glob(f"{staged.name}*"):
        leftover.unlink()


def _holds_nothing(file: Path) -> bool:
    """Whether nothing was ever recorded in a SQLite store."""
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    try:
        return all(_rows(connection, table) == 0 for table in ("runs", "registered_models", "model_versions"))
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, table: str) -> int:
    try:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])  # noqa: S608 - our own names
    except sqlite3.OperationalError:
        return 0  # The table was not made yet.


def release_first(settings: Settings, model: str) -> None:
    """Promotes the newest version that passed its gate, if the model has no champion yet.

    Where the model's rule asks for a person, and names none, the platform's approval is recorded as what it is.

    Raises:
        NotReleasable: No version passed; says why the last candidate was refused.
        NotApproved: Its file names who must approve; nobody takes their place.
    """
    from pilotage.release import commands
    from pilotage.release.state import ApprovalRule

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
        rule = ApprovalRule.of(declared.model(model))
        if rule.needed and not rule.approvers:
            rule = ApprovalRule(needed=1, approvers=(PLATFORM,))
            commands.approve(model, version, settings=settings, actor=PLATFORM, why=_STAND_IN, rule=rule)
        release = commands.promote(
            model,
            version,
            settings=settings,
            actor=PLATFORM,
            why="first champion of the sample data",
            rule=rule,
            how="first version",
        ).champion
    if release is not None:
        click.echo(f"{RESULT}{json.dumps(status.in_production(release))}")
