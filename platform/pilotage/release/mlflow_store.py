"""The way to MLflow: opens the store safely, and turns whatever it raises into one error that names it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import PilotageError, RegistryUnavailable
from pilotage.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PATIENCE_S = 5.0
"""Seconds that a server gets to say that it is there; MLflow's own retries would take minutes."""
_CREATION_S = 120
"""Seconds to wait while another process creates the store; it takes 6 to 8."""
_one_at_a_time = threading.RLock()


@contextmanager
def session(settings: Settings) -> Iterator[MlflowClient]:
    """MLflow, pointed at the platform's store for tracking and for models, until the block ends.

    MLflow keeps its addresses in global state, so one thread at a time.

    Raises:
        RegistryUnavailable: It can't be reached, or failed in the block.
    """
    uri = settings.mlflow
    with _one_at_a_time:
        _knock(uri)
        _quiet()
        import mlflow

        tracking = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        registry = mlflow.get_registry_uri()
        follows = registry == mlflow.get_tracking_uri()
        try:
            with _named(uri):
                mlflow.set_tracking_uri(uri)
                mlflow.set_registry_uri(uri)
                _create(uri, settings)
                yield mlflow.MlflowClient(uri, uri)
        finally:
            mlflow.set_tracking_uri(tracking)
            # Empty: wherever the tracking store is. MLflow also leaves both in the environment.
            mlflow.set_registry_uri("" if follows else registry)
            if follows:
                mlflow.environment_variables.MLFLOW_REGISTRY_URI.unset()


def page(settings: Settings, path: str) -> str:
    """Address of a page in MLflow's UI, such as ``experiments/1/runs/ab12``."""
    return f"{settings.mlflow_ui.rstrip('/')}/#/{path}"


def experiment_id(client: MlflowClient, model: str, settings: Settings) -> str:
    """The experiment of a model; made when it is not there."""
    from mlflow.exceptions import MlflowException

    if known := client.get_experiment_by_name(model):
        return str(known.experiment_id)
    served = settings.mlflow.startswith("http")
    try:
        return str(
            client.create_experiment(
                model, artifact_location=None if served else (settings.mlflow_artifacts / model).as_uri()
            )
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (known := client.get_experiment_by_name(model)):
            return str(known.experiment_id)
        raise


def masked(uri: str) -> str:
    """A URI without its password."""
    if "://" not in uri or "@" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    return f"{scheme}://…@{rest.rsplit('@', 1)[1]}"


def _quiet() -> None:
    """No telemetry, no progress bars in logs, and nothing is ever unpickled. MLflow reads these when it is called."""
    import os

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def _knock(uri: str) -> None:
    """Asks a server whether it is there, before MLflow begins minutes of retries."""
    try:
        if uri.startswith(("http://", "https://")):
            import httpx

            httpx.get(f"{uri.rstrip('/')}/health", timeout=_PATIENCE_S).raise_for_status()
        elif not uri.startswith("sqlite"):
            import sqlalchemy as sa

            engine = sa.create_engine(uri)
            try:
                engine.connect().close()
            finally:
                engine.dispose()
    except Exception as error:
        raise _unavailable(uri, error) from error


def _create(uri: str, settings: Settings) -> None:
    """Creates a SQLite store under a lock: two processes that touch a fresh one at once corrupt it for good."""
    if not uri.startswith("sqlite:///"):
        return
    import mlflow
    from filelock import FileLock

    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    ready = file.with_name(f"{file.name}.ready")
    if ready.exists() and file.exists():
        return
    with FileLock(f"{file}.create.lock", timeout=_CREATION_S):
        mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)
        mlflow.MlflowClient(uri, uri).search_registered_models(max_results=1)
        settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
        ready.touch()


@contextmanager
def _named(uri: str) -> Iterator[None]:
    import requests
    import sqlalchemy as sa
    from filelock import Timeout
    from mlflow.exceptions import MlflowException

    try:
        yield
    except PilotageError:
        raise
    except (MlflowException, requests.RequestException, sa.exc.SQLAlchemyError, Timeout, OSError) as error:
        raise _unavailable(uri, error) from error


def _unavailable(uri: str, error: Exception) -> RegistryUnavailable:
    said: Any = str(error).strip().splitlines() or [type(error).__name__]
    return RegistryUnavailable(
        f"MLflow at {masked(uri)} can't be used: {said[0].replace(uri, masked(uri))[:300]}",
        fix="See that it runs (or correct PILOTAGE_MLFLOW_URI), then run the step again: nothing is registered twice.",
        uri=masked(uri),
    )
