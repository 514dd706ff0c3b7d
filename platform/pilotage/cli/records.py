"""What the ledger has on record, in words: one name and one text a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pilotage.cli.console import utc

if TYPE_CHECKING:
    from pilotage.release.history import Decision, VersionRecord


def record(version: VersionRecord) -> Iterable[tuple[str, str]]:
    """What a version was made from, and by what."""
    from pilotage.cli.status import data_words

    facts = version.facts
    yield (
        "trained",
        f"{utc(version.trained_at)} ({version.trained_because}, {version.trained_by}), on {data_words(facts)}",
    )
    if tables := facts.get("lake_versions"):
        yield "read", pairs(tables)
    yield "code", f"git {facts.get('git_commit', 'not known')}, features {str(facts.get('feature_fingerprint'))[:16]}"
    yield "bundle", f"SHA-256 {version.bundle_sha256}"
    yield "runs", f"Dagster {version.run_url}, MLflow {version.mlflow_run_id}"


def decided(decisions: Iterable[Decision]) -> Iterable[tuple[str, str]]:
    """Decisions about one version."""
    for each in decisions:
        yield f"event {each.sequence}", f"{utc(each.at)} {each.kind.replace('_', ' ')} by {each.actor}: {each.why}"


def pairs(values: Mapping[str, Any]) -> str:
    """Names with their values."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, datetime):
        return utc(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
