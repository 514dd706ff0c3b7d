"""Models and versions to decide about, without a bundle on disk, and with one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pilotage.release.audit import verify
from pilotage.release.events import Draft, Event, to_row
from pilotage.release.state import ApprovalRule

START = datetime(2024, 1, 1, tzinfo=UTC)


def registered(
    model: str,
    version: int,
    *,
    by: str = "trainer",
    rule: ApprovalRule | None = None,
    bundle: str = "",
    sha256: str = "",
) -> Draft:
    payload: dict[str, Any] = {
        "bundle": bundle or f"/bundles/{model}/{version}",
        "bundle_sha256": sha256 or f"{model}-{version}",
        "mlflow_run_id": f"run-{version}",
        "run_url": "http://127.0.0.1:3000/runs/1",
        "trained_at": START.isoformat(),
        "facts": {"rows": 10},
        **(rule.payload() if rule else {}),
    }
    return Draft(model=model, kind="registered", version=version, actor=by, cause="nightly", payload=payload)


def draft(kind: Any, version: int | None = None, *, model: str = "m", actor: str = "ada", **payload: Any) -> Draft:
    return Draft(model=model, kind=kind, version=version, actor=actor, cause=f"{kind} for a reason", payload=payload)


def canaried(version: int, share: float = 0.1, *, salt: str = "s", step: int = 0, segment: str | None = None) -> Draft:
    return draft("canaried", version, share=share, salt=salt, step=step, segment=segment)


def broken_link(events: Sequence[Event], key: bytes | None = None) -> int | None:
    """Number of the first event that is not as it was written, or does not follow the one before."""
    found = verify([to_row(event) for event in events], key=key, expects_head=False)
    return next((fault.sequence for fault in found.faults if fault.kind != "senseless"), None)
