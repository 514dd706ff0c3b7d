"""The prediction log as tables: what was answered, what shadows would have answered, and what became of it.

Reads the lake together with the segments that are not in it yet, so an answer is here within the moment. How segments
get into the lake is in ``moving.py``; what outcomes amount to is in ``outcomes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import polars as pl

from pilotage.data.lake import Lake
from pilotage.monitoring.log_frames import DAY, FIXED, IDENTITY, ROOMS, declared_types, frame_of, when
from pilotage.monitoring.moving import MoveReport, move_log
from pilotage.monitoring.outcomes import label
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord, Record, ShadowRecord, StateRecord
from pilotage.runtime.log import Damage, payloads, segments
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

__all__ = ["MoveReport", "labelled", "move_log", "read_log", "read_outcomes", "read_shadows", "read_states"]

_SLIM: dict[type[Record], type[Any]] = {
    PredictionRecord: msgspec.defstruct(
        "Slim",
        [(name, kind) for name, kind in get_type_hints(PredictionRecord).items() if name in FIXED[PredictionRecord]],
        frozen=True,
        kw_only=True,
        tag_field="kind",
        tag="prediction",
    )
}
"""A prediction without its request and features, which take longest to read."""
_SLACK = timedelta(minutes=1)
"""How far the clock of a segment's folder may be off the clock of its records."""


def read_log(
    settings: Settings,
    model: str,
    *,
    lake: Lake,
    since: datetime | None = None,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    only: pl.Series | None = None,
    spec: ModelSpec | None = None,
) -> pl.DataFrame:
    """What was answered: one row per prediction, oldest first.

    Args:
        settings: Where the segments are.
        model: The model.
        lake: Where the moved ones are.
        since: Leaves out what was answered earlier (UTC).
        version: Only what this version answered.
        columns: Only these columns; reading a few of a long log is much cheaper than all.
        only: Only these predictions, by id.
        spec: Gives request fields and features their declared types before the first of them are in the lake.

    Returns:
        The columns of a ``PredictionRecord``, ``request_<field>`` and ``feature_<name>``.
    """
    return _read(PredictionRecord, settings, model, lake, since, version, columns, only, spec)


def read_shadows(
    settings: Settings,
    model: str,
    *,
    lake: Lake,
    since: datetime | None = None,
    version: int | None = None,
    only: pl.Series | None = None,
) -> pl.DataFrame:
    """What shadow versions would have answered: one row per prediction and version, oldest first; see ``read_log``."""
    return _read(ShadowRecord, settings, model, lake, since, version, only=only)


def read_outcomes(settings: Settings, model: str, *, lake: Lake, since: datetime | None = None) -> pl.DataFrame:
    """What became of predictions, as it was told: one row per telling, in the order in which they were received.

    What each amounts to is ``outcomes.resolve``'s to say.
    """
    return _read(OutcomeRecord, settings, model, lake, since)


def read_states(settings: Settings, model: str, *, lake: Lake) -> pl.DataFrame:
    """The online states that predictions were made with: one row per state, with the lake versions it was made of."""
    return _read(StateRecord, settings, model, lake)


def labelled(
    settings: Settings,
    model: str,
    *,
    lake: Lake,
    since: datetime | None = None,
    version: int | None = None,
    known_by: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """The predictions whose truth is known, ordered by when it became known. See ``outcomes.label``.

    Args:
        settings: Where the segments are.
        model: The model.
        lake: Where the moved ones are.
        since: Leaves out predictions that were answered earlier (UTC).
        version: Only what this version answered.
        known_by: Leaves out truth that became known later (UTC).
        columns: Only these columns of the predictions.
    """
    needed = None if columns is None else list(dict.fromkeys([*columns, "prediction_id", "entity", "moment"]))
    predictions = read_log(settings, model, lake=lake, since=since, version=version, columns=needed)
    return label(predictions, read_outcomes(settings, model, lake=lake), known_by=known_by)


def _read(
    kind: type[Record],
    settings: Settings,
    model: str,
    lake: Lake,
    since: datetime | None = None,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    only: pl.Series | None = None,
    spec: ModelSpec | None = None,
) -> pl.DataFrame:
    # The segments first: one that is moved meanwhile is then seen twice, the other way round it would not be seen.
    spread = columns is None or not set(columns) <= set(FIXED[kind])
    fresh = _unmoved(settings.prediction_log, kind if spread else _SLIM.get(kind, kind), model, since)
    table, moment = f"{ROOMS[kind]}/{model}", when(kind)
    types: dict[str, pl.DataType] = declared_types(spec) if spec else {}
    parts: list[pl.LazyFrame] = []
    if lake.exists(table):
        types |= dict(lake.schema(table))
        parts.append(lake.scan(table, first=since.astimezone(UTC).date() if since and moment else None))
    parts.append(frame_of(kind, fresh, types=types, spread=spread).lazy())
    log = pl.concat(parts, how="diagonal")
    if version is not None:
        log = log.filter(pl.col("version") == version)
    if only is not None:
        log = log.filter(pl.col("prediction_id").is_in(only.implode()))
    if moment is not None and since is not None:
        log = log.filter(pl.col(moment) >= since)
    log = log.unique(IDENTITY[kind], keep="first", maintain_order=True)
    log = log.sort([moment, *IDENTITY[kind]] if moment else list(IDENTITY[kind]))
    return (log.drop(DAY, strict=False) if columns is None else log.select(columns)).collect()


def _unmoved(folder: Path, kind: type[Any], model: str, since: datetime | None) -> list[Any]:
    """The records of a kind that are still in segments, sealed or being written."""
    records: list[Any] = []
    decode = msgspec.json.Decoder(kind).decode
    # Most payloads are of other models or kinds; to find that out by decoding them would take ten times as long.
    begins, names = b'{"kind":"%b"' % str(kind.__struct_config__.tag).encode(), b'"model":"%b"' % model.encode()
    done: set[str] = set()
    complete = False
    while not complete:
        complete = True
        for segment in segments(folder):
            if segment.path.name in done:
                continue
            try:
                old = since is not None and segment.modified < (since - _SLACK).timestamp()
                found = [
                    record
                    for payload in (() if old else payloads(segment.path, damage=_told_by_the_mover))
                    if payload.startswith(begins) and names in payload and (record := decode(payload)).model == model
                ]
            except FileNotFoundError:
                # Sealed under another name, or moved to the lake: look again for the one, the other is read there.
                complete = False
                continue
            done.add(segment.path.name)
            records += found
    return records


def _told_by_the_mover(_: Damage) -> None:
    """What is damaged is reported once, where it is moved; what can be read of it counts."""
