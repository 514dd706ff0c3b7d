"""Kills that hold on this host whatever the ledger does. Each is a note on the host's disk, until the ledger has it.

Who kills writes the note first; every worker of the host heeds it within half a second, and after a restart, too. So a
database that is down, or hangs, keeps nobody from stopping a model. Who records it is ``release/killing.py``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from uuid import uuid4

import msgspec

from pilotage.durable import sync_folder
from pilotage.runtime.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class KillNote:
    """One kill."""

    id: str
    model: str
    actor: str
    why: str
    at: datetime
    """Since when it holds, UTC."""

    @classmethod
    def of(cls, model: str, *, actor: str, why: str) -> Self:
        """One of now."""
        return cls(id=uuid4().hex, model=model, actor=actor, why=why, at=datetime.now(UTC))


class KillNotes:
    """``<service_state>/kills/<id>.<model>.json``, for all who run on this host."""

    def __init__(self, service_state: Path) -> None:
        self._folder = service_state / "kills"

    def write(self, note: KillNote) -> bool:
        """Lets no version of its model answer here from now on. Waits for the disk.

        Returns:
            Whether who and why are in it. On a full disk there is still room for its name, and that is what kills.

        Raises:
            OSError: There is no room for its name either, or no right to write there.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        work = self._folder / f"{note.id}.new"
        whole = True
        try:
            with work.open("wb") as file:
                file.write(msgspec.json.encode(note))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            whole = False
        work.replace(self._path(note))
        sync_folder(self._folder)
        return whole

    def read(self) -> list[KillNote]:
        """Those that are in force, the oldest first. One that is damaged still kills the model that its file names.

        Raises:
            OSError: The folder can't be read.
        """
        return sorted(self._all(), key=lambda note: note.at)

    def remove(self, note: KillNote) -> None:
        """Takes one away, whether it is there or not.

        Raises:
            OSError: It can't be.
        """
        self._path(note).unlink(missing_ok=True)

    def _path(self, note: KillNote) -> Path:
        return self._folder / f"{note.id}.{note.model}.json"

    def _all(self) -> Iterator[KillNote]:
        try:
            files = [path for path in self._folder.iterdir() if path.suffix == ".json"]
        except FileNotFoundError:
            return
        for path in files:
            id, _, model = path.stem.partition(".")
            try:
                note = msgspec.json.decode(path.read_bytes(), type=KillNote)
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError) as error:
                why = f"a note of its kill is damaged: {path} ({error})"
                yield KillNote(id=id, model=model, actor="unknown", why=why, at=datetime.now(UTC))
            else:
                if (note.id, note.model) == (id, model):
                    yield note


class HeededKills:
    """The notes that one process goes by. It heeds a new one at once. One that is gone it heeds until it has read the
    ledger after that, which then has the kill: in between nothing would keep the model from answering."""

    def __init__(self, notes: KillNotes | None) -> None:
        """Heeds nothing yet.

        Args:
            notes: ``None`` to heed none.
        """
        self._notes = notes
        self._heeded: dict[str, KillNote] = {}
        """Note's id → note. Replaced, never changed."""
        self._lock = threading.Lock()

    def look(self) -> bool:
        """Whether there are new ones.

        Raises:
            OSError: The folder can't be read; those that were heeded are in force still.
        """
        found = {note.id: note for note in self._notes.read()} if self._notes is not None else {}
        with self._lock:
            new = found.keys() - self._heeded.keys()
            self._heeded = {**found, **self._heeded}
        return bool(new)

    def gone(self) -> Collection[str]:
        """Which of those that are heeded were taken away, by id. To be asked before the ledger is read."""
        if not self._heeded or self._notes is None:
            return ()
        try:
            return self._heeded.keys() - {note.id for note in self._notes.read()}
        except OSError:
            return ()

    def let_go(self, ids: Collection[str]) -> None:
        """Heeds some no longer. To be called when the ledger was read."""
        with self._lock:
            self._heeded = {id: note for id, note in self._heeded.items() if id not in ids}

    def of(self, model: str) -> KillNote | None:
        """The one that holds for a model, the oldest of several."""
        held = [note for note in self._heeded.values() if note.model == model]
        return min(held, key=lambda note: note.at, default=None)

    def told(self, model: str) -> str | None:
        """That one holds for a model, in a sentence."""
        if (note := self.of(model)) is None:
            return None
        return f"killed on this host by {note.actor} ({note.at:%F %T} UTC), by a note on its disk"

    def applied(self, model: str, plan: Plan | None) -> Plan | None:
        """What to do for a model that the ledger gives this plan."""
        note = self.of(model)
        if note is None or (plan is not None and plan.killed is not None):
            return plan
        return Plan(
            model=model,
            sequence=plan.sequence if plan else 0,
            killed=note.why,
            problem=plan.problem if plan else None,
        )
