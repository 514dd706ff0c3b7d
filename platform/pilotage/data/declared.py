"""By which declaration of a source rows were read and validated.

With other columns, what has landed is read again by itself; with another ``prepare`` or contract, a person is told that
what was published means something else, and decides.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from datetime import date

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.lake_types import storable
from pilotage.data.raw import raw_name
from pilotage.data.source import SourceSpec

Slot = date | None
"""What a delivery replaces: its day, or the whole table."""

COMMITS = 100
"""Newest commits that are looked at first; older ones only if they are needed."""


def fingerprint(spec: SourceSpec) -> str:
    """Of the declared columns with their types, in any order."""
    columns = sorted((name, str(dtype)) for name, dtype in spec.columns.items())
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]


def rules(spec: SourceSpec) -> str:
    """Of what ``prepare`` makes of delivered columns, and the text of the contract: with others, a day validated before
    means something else than one validated now. Names of variables and comments in ``prepare`` change nothing,
    nor does the text of a Python function that it has Polars call."""
    delivered = pl.LazyFrame(schema={raw_name(name): dtype for name, dtype in spec.columns.items()})
    try:
        plan = spec.prepare(delivered).explain(optimized=False)
    except Exception:
        # It asks for what only real rows have, or is wrong: `pilotage check` and a validation say so, and the other
        # sources have nothing to do with it.
        plan = _text(spec.prepare)
    return hashlib.sha256(f"{plan}\n{_text(spec.contract)}".encode()).hexdigest()[:16]


def _text(function: Callable[..., object]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # Not written in a file.
        return getattr(function, "__qualname__", type(function).__name__)


def retyped(spec: SourceSpec, lake: Lake) -> bool:
    """Whether the raw table lacks a declared column, or has it with another type."""
    table = f"raw/{spec.name}"
    declared = pl.DataFrame(schema={raw_name(name): dtype for name, dtype in spec.columns.items()})
    there = lake.schema(table)
    return any(there.get(name) != dtype for name, dtype in storable(declared, table).schema.items())


def read_otherwise(spec: SourceSpec, lake: Lake, slots: Iterable[Slot]) -> set[Slot]:
    """Those of the slots whose rows were read by another declaration than today's.

    The commits say by which. Of one that does not, today's is assumed, unless the table has other columns.
    """
    wanted = set(slots)
    known = _known(spec, lake, wanted)
    today = fingerprint(spec)
    assumed = "" if retyped(spec, lake) else today
    return {slot for slot in wanted if (known.get(slot) or assumed) != today}


def _known(spec: SourceSpec, lake: Lake, wanted: set[Slot]) -> dict[Slot, str | None]:
    """Slot → fingerprint that its newest commit notes, for those that have one."""
    limit = COMMITS
    while True:
        commits = lake.history(f"raw/{spec.name}", limit)
        known: dict[Slot, str | None] = {}
        for commit in commits:
            for file in json.loads(commit.get("files") or "[]"):
                day = file.get("day")
                known.setdefault(date.fromisoformat(day) if day else None, commit.get("columns"))
        if wanted <= known.keys() or len(commits) < limit:
            return known
        limit *= 10
