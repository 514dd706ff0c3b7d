"""What the release room takes and gives: plain frozen records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a candidate comes from. Never secrets: all of it becomes tags that everybody can read."""

    run_id: str
    """Dagster run."""
    run_url: str
    git_commit: str
    cause: str
    """nightly, drift, performance, manual…"""
    actor: str
    """Who asked for it."""
    request: int | None = None
    """The request to retrain that it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The candidate passed its gate and is a version that may be released."""

    model: str
    version: int
    mlflow_run_id: str
    url: str
    """The version's page in MLflow."""
    bundle: str
    bundle_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The candidate did not pass its gate; its run is kept, and nothing else."""

    model: str
    mlflow_run_id: str
    url: str
    """The run's page in MLflow."""
    reasons: list[str]
