"""Fills a home's ledger as runs do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pilotage.release.events import Draft
from pilotage.release.ledger import SqlLedger
from pilotage.settings import Settings


def append(settings: Settings, draft: Draft) -> None:
    ledger = SqlLedger.of(settings)
    ledger.append(draft)
    ledger.close()


def registered(settings: Settings, model: str, version: int = 1, *, run: str = "r1", **changes: Any) -> None:
    payload = {
        "bundle": "/bundle",
        "bundle_sha256": f"{model}{version}",
        "mlflow_run_id": "1",
        "run_url": f"http://127.0.0.1:3000/runs/{run}",
        "trained_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "facts": {"rows": 10, "first": "2013-01-01", "last": "2013-02-28", "metrics": {"auc": 0.7}},
        **changes,
    }
    append(
        settings,
        Draft(model=model, kind="registered", version=version, actor="dagster", cause="bootstrap", payload=payload),
    )


def promoted(settings: Settings, model: str, version: int = 1) -> None:
    append(settings, Draft(model=model, kind="promoted", version=version, actor="ada", cause="better", payload={}))


def refused(settings: Settings, model: str, *reasons: str, run: str = "r1") -> None:
    payload = {
        "mlflow_run_id": "2",
        "run_url": f"http://127.0.0.1:3000/runs/{run}",
        "bundle_sha256": "cd",
        "reasons": list(reasons),
    }
    append(settings, Draft(model=model, kind="refused", actor="dagster", cause="manual", payload=payload))
