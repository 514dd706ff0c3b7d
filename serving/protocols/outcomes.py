"""Outcomes: ``{"prediction_id": … | "entity": {…}, "label": true, "known_at": …}``, or ``{"outcomes": [{…}, …]}``.

An application tells what became of what was predicted. Only the form is checked here: whether there was such a
prediction, and which of several outcomes counts, is found out where outcomes meet predictions, because the truth may
well be told before the prediction is in the lake. All of a body is taken, or nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from pilotage.errors import InvalidRequest, PilotageError
from pilotage.runtime.answer import OutcomeRecord
from pilotage.runtime.contract import Contract
from pilotage.spec import RequestField
from serving.protocols import Rendered, check_rows, decode, error_record, json_answer

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a client's clock may be. A label can't be known in the future; a later one is a mistake."""
LARGEST = 1_000
"""Outcomes of one body."""
FIELDS = (
    RequestField(
        name="prediction_id",
        dtype=pl.String,
        description="Of the answer. This, or the entity.",
        example="0198c0f0-6b1e-7a31-9d6c-2f3f5f1d0a11",
        nullable=True,
    ),
    RequestField(name="label", dtype=pl.Boolean, description="What turned out to be true.", example=True),
    RequestField(
        name="known_at",
        dtype=pl.Datetime("us", "UTC"),
        description="When it became known, UTC; left out, it is now.",
        example="2013-02-28T14:02:00Z",
        nullable=True,
    ),
)
"""Fields of an outcome beside ``entity``."""
_CONTRACT = Contract(FIELDS)
_KNOWN = dict.fromkeys([*_CONTRACT.fields, "entity"])
_FIX = 'Send {"prediction_id": …, "label": true} or {"outcomes": [{…}, …]}.'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_canonical = msgspec.json.Encoder(order="sorted")


def parse(
    body: bytes,
    *,
    model: str,
    entity: Sequence[RequestField],
    caller: str,
    now: datetime,
    protect: Callable[[dict[str, Any]], dict[str, Any]] = lambda entity: entity,
) -> list[OutcomeRecord]:
    """Reads a body into what the log holds of it.

    Args:
        body: As it came.
        model: That the outcomes are about.
        entity: The request fields that name what is predicted.
        caller: Id of the API key.
        now: The time, UTC.
        protect: Turns an entity's values into what the log may hold of them: pseudonyms of personal ones.

    Raises:
        InvalidRequest: What is wrong, with ``field`` and, for several outcomes, ``row``.
        RequestTooLarge: There are too many.
    """
    content = decode(body, fix=_FIX)
    many = isinstance(content, dict) and "outcomes" in content
    if many and (content.keys() != {"outcomes"} or not isinstance(content["outcomes"], list)):
        raise InvalidRequest("outcomes is no list, or not alone.", fix=_FIX, field="outcomes")
    items: list[Any] = content["outcomes"] if many else [content]
    check_rows(len(items), LARGEST)
    key = Contract(entity)
    records = []
    for row, item in enumerate(items):
        try:
            records.append(_record(item, key, model=model, caller=caller, now=now, protect=protect))
        except InvalidRequest as error:
            if not many:
                raise
            details = {**error.details, "row": row}
            raise InvalidRequest(f"Outcome {row}: {error.message}", fix=error.fix, **details) from None
    return records


def render(records: Sequence[OutcomeRecord]) -> Rendered:
    """Writes the ids, in order; only once the records are on disk."""
    return json_answer({"outcome_ids": [record.outcome_id for record in records]}, 202)


def refuse(error: PilotageError, *, status: int | None = None) -> Rendered:
    """Writes an error; nothing of the body was taken."""
    return json_answer(error_record(error), status or error.http_status)


def _record(
    item: Any,
    key: Contract,
    *,
    model: str,
    caller: str,
    now: datetime,
    protect: Callable[[dict[str, Any]], dict[str, Any]],
) -> OutcomeRecord:
    if not isinstance(item, dict):
        raise InvalidRequest("An outcome is an object.", fix=_FIX)
    if unknown := item.keys() - _KNOWN.keys():
        name = min(unknown)[:100]
        raise InvalidRequest(f"There is no field {name!r}.", fix=f"Use only: {', '.join(_KNOWN)}.", field=name)
    prediction_id, label, known_at = _CONTRACT.row({name: value for name, value in item.items() if name != "entity"})
    entity = item.get("entity")
    if (prediction_id is None) == (entity is None):
        which = "both a prediction_id and an entity" if entity is not None else "neither a prediction_id nor an entity"
        raise InvalidRequest(f"The outcome has {which}.", fix="Send one of them.", field="prediction_id")
    if prediction_id == "":
        raise InvalidRequest("prediction_id is empty.", fix="Send the answer's prediction_id.", field="prediction_id")
    if known_at is not None and known_at > now + CLOCK_SKEW:
        raise InvalidRequest(
            f"known_at={known_at.isoformat()} is in the future.",
            fix="Send when the label became known, or leave known_at out.",
            field="known_at",
        )
    held = None
    if entity is not None:
        if not isinstance(entity, dict):
            names = ", ".join(key.fields)
            raise InvalidRequest("entity is no object.", fix=f"Send an object of: {names}.", field="entity")
        held = protect(dict(zip(key.fields, key.row(entity), strict=True)))
    # Without the caller, and without a time that was not sent: the same words again are the same outcome.
    said = _canonical.encode([model, prediction_id, held, label, known_at])
    return OutcomeRecord(
        outcome_id=f"o-{hashlib.sha256(said).hexdigest()[:32]}",
        model=model,
        prediction_id=prediction_id,
        entity=held,
        label=label,
        known_at=_micros(known_at or now),
        received_at=_micros(now),
        caller=caller,
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
