"""Versions, the plans that give them roles, and a follower and a responder of them: all real but the ledger."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pilotage.pseudonyms import Pseudonyms
from pilotage.runtime.answer import PredictionRecord, Record
from pilotage.runtime.board import Admission
from pilotage.runtime.bundle import Bundle, read_bundle, verify_golden
from pilotage.runtime.drafts import Asked, AskedRows, Drafted
from pilotage.runtime.folder import MANIFEST, sha256_of
from pilotage.runtime.follower import Follower
from pilotage.runtime.log.segments import decode, encode
from pilotage.runtime.plan import Assignment, Plan, Role
from pilotage.runtime.responder import Many, Responder
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import ORDER, START, make_bundle, tiny_spec


def in_process(directory: Path, *, sha256: str | None = None) -> Bundle:
    """Checks a bundle as ``admit`` does, but without the child process, which takes a second."""
    bundle = read_bundle(directory, sha256=sha256)
    verify_golden(bundle)
    return bundle


_made: dict[tuple[str, int], Path] = {}
_folder = tempfile.TemporaryDirectory(prefix="pilotage-bundles-")


def bundle_of(spec: ModelSpec, seed: int) -> Path:
    """A bundle that is made once for all tests."""
    key = (f"{spec.request}{spec.name}{spec.features}{spec.serving}{spec.fallback}", seed)
    if key not in _made:
        folder = Path(_folder.name) / str(len(_made))
        make_bundle(folder, spec=spec, seed=seed)
        _made[key] = folder
    return _made[key]


class World:
    """A small platform in a folder."""

    def __init__(self, home: Path, *specs: ModelSpec) -> None:
        self.home = home
        self.specs = {spec.name: spec for spec in specs}
        self.plans: dict[str, Plan] = {}
        self.sequence = 0
        self.down = False
        self.said: list[str] = []
        self.follower = self.another_follower()
        self.kept: dict[str, Record] = {}
        self.responder = Responder(
            self.specs,
            self.follower,
            pseudonyms=Pseudonyms(b"0123456789abcdef"),
            encode=encode,
            keep=self._keep,
            report=lambda sentence, **_: self.said.append(sentence),
        )

    def another_follower(self, admission: Admission | None = None) -> Follower:
        """A follower of the same plans, as a restarted worker has one."""
        return Follower(
            tuple(self.specs),
            releases=self.read,
            bundles=self.home / "bundles",
            online=self.home / "online",
            report=self.said.append,
            remember=self.home / "service",
            policies={name: spec.serving for name, spec in self.specs.items()},
            admission=admission or in_process,
        )

    def read(self) -> dict[str, Plan]:
        if self.down:
            raise ConnectionError("no database")
        return dict(self.plans)

    def made(
        self, model: str, version: int, role: Role = "champion", *, damage: bool = False, **more: Any
    ) -> Assignment:
        """A version with a role, and its bundle in the registry; version numbers are seeds."""
        folder = self.home / "registry" / model / str(version)
        if not folder.exists():
            shutil.copytree(bundle_of(more.pop("spec", self.specs[model]), version), folder)
        sha256 = sha256_of((folder / MANIFEST).read_bytes())
        if damage:
            (folder / "model.txt").write_text("tree")
        return Assignment(
            version=version,
            role=role,
            bundle=str(folder),
            bundle_sha256=sha256,
            sequence=self.sequence + 1,
            since=START,
            trained_at=START,
            **more,
        )

    def decide(self, model: str, *, look: bool = True, **changes: Any) -> Plan:
        """Changes a model's plan, as an event of the ledger does, and has the follower look."""
        self.sequence += 1
        before = self.plans.get(model) or Plan(model=model, sequence=0)
        self.plans[model] = replace(before, sequence=self.sequence, **changes)
        if look:
            self.follower.look()
        return self.plans[model]

    def release(self, model: str, version: int, *, damage: bool = False, look: bool = True) -> Plan:
        """Makes a version champion; the one before becomes the previous one."""
        before = self.plans.get(model)
        previous = replace(before.champion, role="previous_champion") if before and before.champion else None
        return self.decide(model, look=look, champion=self.made(model, version, damage=damage), previous=previous)

    def answer(self, model: str, request: Any = None, **changes: Any) -> Drafted:
        """The answer to the usual order, with some fields changed."""
        sent = {**ORDER, **changes} if request is None else request
        return self.responder.answer(model, sent, request_id="r-1", caller="k-1")

    def answer_rows(self, model: str, rows: Sequence[Any], **more: Any) -> Many:
        """The answers to the rows of one request."""
        [many] = self.responder.answer_many(model, [batch(rows)], **more)
        return many

    def status(self, model: str) -> dict[str, Any]:
        [entry] = [entry for entry in self.follower.status() if entry["model"] == model]
        return entry

    def champion(self, model: str) -> int | None:
        board = self.follower.boards.get(model)
        return board.champion.version if board is not None and board.champion is not None else None

    def _keep(self, key: str, payload: bytes) -> bool:
        self.kept[key] = decode(payload)
        return True


def batch(rows: Sequence[Any], request_id: str = "r-1") -> AskedRows:
    """The rows of one request."""
    return AskedRows(Asked(rows, request_id, "k-1", time.perf_counter_ns()))


def record_of(drafted: Drafted) -> PredictionRecord:
    """What the log holds of an answer."""
    record = decode(drafted.payload)
    assert isinstance(record, PredictionRecord)
    return record


def world_of(home: Path, *names: str, **changes: Any) -> World:
    """A world of small models."""
    return World(home, *(tiny_spec(name, with_state=name.startswith("stateful"), **changes) for name in names))
