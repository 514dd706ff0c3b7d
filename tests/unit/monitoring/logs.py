"""Records and segments of a prediction log, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pilotage.features.state import microseconds
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord, Record, ShadowRecord, StateRecord
from pilotage.runtime.log import encode
from pilotage.runtime.log.framing import frame
from pilotage.runtime.log.segments import Header, name_of

START = datetime(2024, 3, 1, 23, 59, tzinfo=UTC)
"""A minute before midnight: the second of two predictions is of another day."""


def at(seconds: float) -> int:
    """Microseconds of so long after ``START``."""
    return microseconds(START + timedelta(seconds=seconds))


def prediction(number: int, **changes: Any) -> PredictionRecord:
    """A prediction of the model ``tiny``, 40 seconds after the one before it."""
    fields: dict[str, Any] = {
        "prediction_id": f"p{number:05d}",
        "request_id": f"r{number:05d}",
        "model": "tiny",
        "entity": {"order_id": f"A-{number}"},
        "at": at(40 * number),
        "moment": None,
        "version": 1,
        "stage": "champion",
        "answered_by": "model",
        "probability": 0.25,
        "decision": False,
        "referred": False,
        "reasons": (),
        "latency_us": 180,
        "caller": "key-1",
        "request": {"order_id": f"A-{number}", "amount": 10.0 + number, "ordered_at": "2024-01-01T10:00:00Z"},
        "features": {"amount": 10.0 + number, "courier": None},
        "state": None,
        "routed_version": 1,
    }
    return PredictionRecord(**{**fields, **changes})


def shadow(number: int, **changes: Any) -> ShadowRecord:
    """What version 2 would have answered to the prediction with this number."""
    fields: dict[str, Any] = {
        "prediction_id": f"p{number:05d}",
        "model": "tiny",
        "version": 2,
        "at": at(40 * number),
        "probability": 0.5,
        "decision": True,
        "referred": False,
        "error": None,
        "latency_us": 90,
    }
    return ShadowRecord(**{**fields, **changes})


def outcome(number: int, **changes: Any) -> OutcomeRecord:
    """The truth about the prediction with this number, an hour later."""
    fields: dict[str, Any] = {
        "outcome_id": f"o{number:05d}",
        "model": "tiny",
        "prediction_id": f"p{number:05d}",
        "entity": None,
        "label": True,
        "known_at": at(3600 + number),
        "received_at": at(3601 + number),
        "caller": "key-1",
    }
    return OutcomeRecord(**{**fields, **changes})


def state(name: str = "s1", *, through: int | None = None, versions: dict[str, int] | None = None) -> StateRecord:
    return StateRecord(state=name, model="tiny", through=through, versions=versions or {"validated/stock": 3})


def write_segment(
    folder: Path, records: Sequence[Record], *, number: int = 1, worker: str = "w1", sealed: bool = True
) -> Path:
    """A segment as a worker leaves it: each record a commit of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name_of(worker, START + timedelta(minutes=number), number) + (".sealed" if sealed else ".open"))
    header = encode(Header(worker=worker, at=at(0)))
    path.write_bytes(frame([[header]]) + b"".join(frame([[encode(record)]]) for record in records))
    return path
