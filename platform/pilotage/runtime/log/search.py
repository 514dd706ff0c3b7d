"""Finds predictions by the request they answered, in the segments that are still on this host."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilotage.runtime.answer import PredictionRecord
from pilotage.runtime.log.segments import decode, payloads, segments

_CLOCK_SLACK_S = 2.0
"""File times tick coarser than the clock."""


class Request(NamedTuple):
    """Names a request; the id alone is only its caller's."""

    caller: str
    model: str
    request_id: str


class _Brief(msgspec.Struct):
    """As much of a record as tells whether it is wanted."""

    kind: str = ""
    request_id: str = ""
    caller: str = ""
    model: str = ""
    at: int = 0


_BRIEF = msgspec.json.Decoder(_Brief)


def find_predictions(
    folder: Path, wanted: Collection[Request] | None, *, since: float
) -> dict[Request, tuple[PredictionRecord, ...]]:
    """The predictions of requests, those of one in the order they were logged; they are on the disk when it returns.

    Args:
        folder: ``settings.prediction_log``.
        wanted: The requests; ``None`` for all.
        since: Seconds since 1970; earlier records are not looked for.
    """
    found: dict[Request, list[PredictionRecord]] = {}
    for path in (each.path for each in segments(folder) if each.modified >= since - _CLOCK_SLACK_S):
        here = False
        try:
            for payload in payloads(path, damage=lambda _: None):
                brief = _BRIEF.decode(payload)
                request = Request(brief.caller, brief.model, brief.request_id)
                if brief.kind != "prediction" or (wanted is not None and request not in wanted):
                    continue
                record = decode(payload)
                if isinstance(record, PredictionRecord) and brief.at >= since * 1_000_000:
                    found.setdefault(request, []).append(record)
                    here = True
            if here:
                _sync(path)
        except FileNotFoundError:
            continue  # Moved into the lake meanwhile.
    return {request: tuple(records) for request, records in found.items()}


def _sync(path: Path) -> None:
    """Its worker may have died between write and sync, and what is answered from it counts as acknowledged."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # Sealed, hence synced.
    try:
        os.fsync(file)
    finally:
        os.close(file)
