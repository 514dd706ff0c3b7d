"""The last known plans on this host's own disk: with them and the cached bundles, a restart needs no ledger.

A kill is remembered here as well. Several workers write the file; the newest plan of each model stays.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pilotage.durable import replacing
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

    def write(self, plans: Mapping[str, Plan], *, at: datetime | None = None) -> dict[str, Plan]:
        """Replaces the file, whole or not at all. Waits for the disk, and a little for another worker.

        Args:
            plans: Model → its plan.
            at: When they were seen to be in force, UTC; ``None`` for now.

        Returns:
            What it holds now. Newer plans of another worker stay in it for a while.

        Raises:
            OSError: There is no room, or no right to write there, or another worker does not let go of it.
        """
        at = at or datetime.now(UTC)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            there = self._ahead(plans, at)
            # Another worker's were seen when it saw them, however often they are written here.
            now = LastKnown(at=there.at if there.plans else at, plans={**plans, **there.plans})
            self._replace(now)
        return now.plans

    def update(self, plan: Plan) -> Plan:
        """Takes up the plan of one model at once, before any worker has read it; those of the others stay as they are.

        Returns:
            The plan of this model that it holds now: another one, if that has a higher number.

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
            if plan.model in plans and plans[plan.model].sequence >= plan.sequence:
                return plans[plan.model]
            self._replace(LastKnown(at=now, plans={**plans, plan.model: plan}))
            return plan

    def identity(self) -> tuple[int, int, int] | None:
        """Tells the file from the one that replaces it; ``None`` if there is none.

        Raises:
            OSError: It can't be told.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _replace(self, known: LastKnown) -> None:
        with replacing(self._path) as aside:
            aside.write_bytes(msgspec.json.encode(known))

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

    def _ahead(self, plans: Mapping[str, Plan], at: datetime) -> LastKnown:
        """Plans of a worker that read the ledger later than this one did."""
        try:
            there = self.read()
        except ValueError:
            there = None
        if there is None or at - there.at > _AHEAD:
            return LastKnown(at=at, plans={})
        return LastKnown(at=there.at, plans={model: plan for model, plan in newer(there, plans) if model in plans})


class HostsPlans:
    """What the workers of this host have read, as its file has it. A worker whose own ledger says nothing goes by what
    another one read after it: what was decided holds for all of them, or else it would hold for a share of the
    requests."""

    def __init__(self, file: PlansFile | None) -> None:
        """Knows nothing yet.

        Args:
            file: ``None`` to know nothing ever.
        """
        self._file = file
        self._identity: tuple[int, int, int] | None = None
        self.known: LastKnown | None = None
        """What the file held at the last look."""

    def look(self) -> bool:
        """Whether it is another file than at the last look.

        Raises:
            ValueError: What is there is no such file.
            OSError: It can't be read.
        """
        identity = self._file.identity() if self._file is not None else None
        if identity == self._identity:
            return False
        self._identity, self.known = None, None
        self.known = self._file.read() if self._file is not None else None
        self._identity = identity
        return True

    def over(self, own: LastKnown | None) -> LastKnown | None:
        """The plans that a process goes by, with those that others read since.

        Args:
            own: Its own, and when it began to read them; ``None`` before the first.
        """
        if own is None or self.known is None or self.known.at <= own.at:
            return own
        return LastKnown(at=own.at, plans={**own.plans, **dict(newer(self.known, own.plans))})


def newer(known: LastKnown, plans: Mapping[str, Plan]) -> Iterator[tuple[str, Plan]]:
    """Those of some plans that are of a later event than others, by model."""
    for model, plan in known.plans.items():
        if model not in plans or plan.sequence > plans[model].sequence:
            yield model, plan
