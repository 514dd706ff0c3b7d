"""The folder that holds all state: made ready, and locked while ``pilotage up`` runs on it.

What the lake, MLflow and Dagster keep in it is theirs; here are only the folders, the configuration that we write, and
the lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import ConfigError
from pilotage.settings import PREFIX, Settings

if TYPE_CHECKING:
    from filelock import BaseFileLock

QUIET: Mapping[str, str] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONUNBUFFERED": "1",
    # A run over many days writes its events by the hundred, not one by one.
    "DAGSTER_EVENT_BATCH_SIZE": "500",
    # Several processes share few cores here. Spinning OpenMP threads made two trainings at once five times slower.
    "OMP_WAIT_POLICY": "passive",
}
"""Variables for everything we start: nothing reports home, nothing unpickles, nothing spins."""


def logs(settings: Settings) -> Path:
    """Folder of the log files, one a program and one a step."""
    return settings.home / "logs"


def dagster_mark(settings: Settings) -> Path:
    """What ``pilotage up`` leaves beside Dagster's databases once they are complete."""
    return settings.dagster_home / "store.ready"


def variables(settings: Settings) -> dict[str, str]:
    """Environment variables for a program that works on this home, on top of our own."""
    # Programs run in the checkout, so a home that was given relative to our folder must reach them absolute.
    return {**QUIET, f"{PREFIX}HOME": str(settings.home), "DAGSTER_HOME": str(settings.dagster_home)}


def make(settings: Settings) -> None:
    """Makes the home if it is not there, for this user alone: it will hold data of people, and secrets.

    One that somebody made has the mode that they gave it.
    """
    if not settings.home.exists():
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)


def prepare(settings: Settings) -> None:
    """Makes the folders and ``dagster.yaml``; leaves what is there.

    Raises:
        ConfigError: The home can't be written.
    """
    try:
        make(settings)
        for folder in (settings.landing, settings.dagster_home, settings.reports, logs(settings)):
            folder.mkdir(parents=True, exist_ok=True)
        target = settings.dagster_home / "dagster.yaml"
        if not target.exists():
            text = files("pilotage.cli").joinpath("templates/dagster.yaml").read_text(encoding="utf-8")
            staged = target.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(text, encoding="utf-8")
            staged.replace(target)
    except OSError as error:
        raise ConfigError(
            f"{settings.home} can't be set up: {error.strerror}: {error.filename}.",
            fix=f"Make it writable, or choose another folder by {PREFIX}HOME.",
            home=str(settings.home),
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A ``pilotage up`` that runs, or ran, on a home."""

    pid: int
    started_at: str
    """ISO 8601, UTC."""
    addresses: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    """Whether it has reached "serving"."""


class HomeLock:
    """One ``pilotage up`` a home. The operating system drops the lock when its process ends, however it ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._note = settings.home / "up.json"
        self._lock: BaseFileLock | None = None
        self.unclean = False
        """After ``take``: the instance before did not end in order, so its programs may still be ending."""

    def take(self, *, patience: float = 1.0) -> Instance | None:
        """Takes the lock.

        Args:
            patience: Seconds to wait for it; somebody who only looks (``is_up``) holds it for a moment.

        Returns:
            The instance that holds it, or ``None`` if it is ours now.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._settings.home / "up.lock")
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            return self.running() or Instance(pid=0, started_at="")
        self._lock = lock
        self.unclean = self._note.exists()
        return None

    def running(self) -> Instance | None:
        """What the instance that holds the lock says of itself."""
        try:
            return Instance(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # It took the lock a moment ago, or is ending.

    def describe(self, *, addresses: Mapping[str, str], ready: bool = False) -> None:
        """Writes down what runs here, for a second start and for ``pilotage status``."""
        known: Any = self.running()
        started = known.started_at if known and known.pid == os.getpid() else datetime.now(UTC).isoformat()
        instance = Instance(pid=os.getpid(), started_at=started, addresses=dict(addresses), ready=ready)
        staged = self._note.with_suffix(".tmp")
        staged.write_text(json.dumps(asdict(instance), indent=2), encoding="utf-8")
        staged.replace(self._note)

    def release(self, *, clean: bool = True) -> None:
        """Gives the lock back, after everything has stopped."""
        if self._lock is not None:
            if clean:
                self._note.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


def is_up(settings: Settings) -> Instance | None:
    """The instance that runs on this home now, if any. Takes nothing and waits for nothing."""
    if not (settings.home / "up.lock").exists():
        return None
    lock = HomeLock(settings)
    held = lock.take(patience=0)
    lock.release(clean=False)
    return held
