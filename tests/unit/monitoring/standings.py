"""Where alarms stand by their history alone: what the states that the book stores must agree with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pilotage.monitoring.alerts.alarm import Status
from pilotage.monitoring.alerts.alert import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an alarm stands, as its history tells it."""

    status: Status
    episode: int
    tier: Tier
    level: int
    acknowledged_by: str | None


def fold(history: Iterable[Mapping[str, Any]]) -> dict[int, Standing]:
    """The standing of every alarm, from its history alone.

    Args:
        history: Rows with ``alarm``, ``happened``, ``episode``, ``tier``, ``actor`` and ``ended``, in order.
    """
    standings: dict[int, Standing] = {}
    for row in history:
        number, happened = row["alarm"], row["happened"]
        if number is None or happened in ("delivered", "failed", "given_up", "silenced", "unsilenced", "dropped"):
            continue
        before = standings.get(number)
        if before is None or happened == "opened":
            before = Standing(status="open", episode=row["episode"], tier=row["tier"], level=0, acknowledged_by=None)
        status: Status = "ended" if row["ended"] else before.status
        match happened:
            case "worsened":
                before = replace(before, tier=row["tier"], level=0, acknowledged_by=None)
            case "escalated":
                before = replace(before, level=before.level + 1)
            case "acknowledged":
                before = replace(before, acknowledged_by=row["actor"])
        standings[number] = replace(before, status=status)
    return standings
