"""The last known plans on this host's own disk: with them and the cached bundles, a restart needs no ledger.

A kill is remembered here as well. Several workers write the file; the newest plan of each model stays.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pilotage.runtime.plan import Plan

_AHEAD = timedelta(seconds=10)
"""How long another worker's newer plan counts as newer: one that reads the ledger later writes it anyway. After that
the ledger itself must have gone back, by a restored backup."""
_WAIT_S = 2.0
"""How long to wait for another worker that writes the file. One that is stopped may have it for ever."""
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class LastKnown:
    """The plans, and when they were last seen to be in force (UTC)."""

    at: datetime
    plans: dict[str, Plan]


class PlansFile:
    """``<service_state>/plans.json``. Safe between the workers of a host."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plans.json"

    def is_there(self) -> bool:
        """Whether a worker of this host ever followed plans."""
        return self._path.exists()

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

    def write(self, plans: Mapping[str, Plan], *, at: datetime | None = None) -> None:
        """Replaces the file, whole or not at all. Waits for the disk, and a little for another worker.

        Args:
            plans: Model → its plan.
            at: When they were seen to be in force, UTC; ``None`` for now.

        Raises:
            OSError: There is no room, or no right to write there, or another worker does not let go of it.
        """
        at = at or datetime.now(UTC)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._replace(LastKnown(at=at, plans={**plans, **self._ahead(plans, at)}))

    def update(self, plan: Plan) -> None:
        """Takes up the plan of one model at once, before any worker has read it; those of the others stay as they are.

        Raises:
            OSError: As for ``write``.
        """
        with self._alone():
            now = datetime.now(UTC)
            try:
                there = self.read()
            except ValueError:
                # Workers write all of them anew when they have read this one.
                there = None
            plans = there.plans if there is not None else {}
            if plan.model not in plans or plans[plan.model].sequence < plan.sequence:
                self._replace(LastKnown(at=now, plans={**plans, plan.model: plan}))

    def _replace(self, known: LastKnown) -> None:
        work = self._path.with_suffix(f".{os.getpid()}")
        with work.open("wb") as file:
            file.write(msgspec.json.encode(known))
            file.flush()
            os.fsync(file.fileno())
        work.replace(self._path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._path.with_suffix(".lock")
        deadline = time.monotonic() + _WAIT_S
        with path.open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"another worker holds {path}") from None
                time.sleep(_LOOK_S)
            yield

    def _ahead(self, plans: Mapping[str, Plan], at: datetime) -> dict[str, Plan]:
        """Plans of a worker that read the ledger later than this one did."""
        try:
            there = self.read()
        except ValueError:
            return {}
        if there is None or at - there.at > _AHEAD:
            return {}
        return {
            model: plan
            for model, plan in there.plans.items()
            if model in plans and plan.sequence > plans[model].sequence
        }
