"""The last known plans on this host's own disk: with them and the shelf, a restart needs no ledger.

A kill is remembered here as well. Several workers write the file; the newest plan of each model stays.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pilotage.runtime.plan import Plan

_AHEAD = timedelta(seconds=10)
"""How long another worker's newer plan counts as newer: one that reads the ledger later writes it anyway. After that
the ledger itself must have gone back, by a restored backup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastKnown:
    """The plans, and when they were last seen to be in force (UTC)."""

    at: datetime
    plans: dict[str, Plan]


class PlansFile:
    """``<service_state>/plans.json``. Safe between the workers of a host."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plans.json"

    def read(self) -> LastKnown | None:
        """What was written last; ``None`` if nothing was.

        Raises:
            ValueError: What is there is no such file.
            OSError: It can't be read.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=LastKnown)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise ValueError(f"{self._path} holds no plans: {error}") from error

    def write(self, plans: Mapping[str, Plan]) -> None:
        """Replaces the file, whole or not at all.

        Raises:
            OSError: There is no room, or no right to write there.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            now = datetime.now(UTC)
            merged = {**plans, **self._ahead(plans, now)}
            work = self._path.with_suffix(f".{os.getpid()}")
            with work.open("wb") as file:
                file.write(msgspec.json.encode(LastKnown(at=now, plans=merged)))
                file.flush()
                os.fsync(file.fileno())
            work.replace(self._path)

    def _ahead(self, plans: Mapping[str, Plan], now: datetime) -> dict[str, Plan]:
        """Plans of a worker that read the ledger later than this one did."""
        try:
            there = self.read()
        except ValueError:
            return {}
        if there is None or now - there.at > _AHEAD:
            return {}
        return {
            model: plan
            for model, plan in there.plans.items()
            if model in plans and plan.sequence > plans[model].sequence
        }
