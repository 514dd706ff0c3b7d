"""Records of the prediction log as rows: the columns of ``predictions/…``, ``shadows/…``, ``outcomes/…`` and
``states/…``, and the type that each value gets.

A log record is JSON and says no types, and versions of a model may log other fields than their predecessors. No value
may be lost or guessed for it, and none may keep its segment from moving: a value that does not fit its column goes into
a column of its own (``feature_seats__string``). Where records come from and rows go is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import polars as pl

from pilotage.features.timeline import MOMENT
from pilotage.monitoring.log_lines import columns_of
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord, Record, ShadowRecord, StateRecord
from pilotage.spec import ModelSpec

DAY = "day"
ROOMS: dict[type[Record], str] = {
    PredictionRecord: "predictions",
    ShadowRecord: "shadows",
    OutcomeRecord: "outcomes",
    StateRecord: "states",
}
"""Kind of record → room of the lake; its table there has the model's name."""
STATE_VERSIONS = pl.List(pl.Struct({"table": pl.String(), "version": pl.Int64()}))

_TEXT, _WHOLE, _NUMBER, _FLAG = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()
FIXED: dict[type[Record], dict[str, pl.DataType]] = {
    PredictionRecord: {
        "prediction_id": _TEXT,
        "request_id": _TEXT,
        "model": _TEXT,
        "entity": _TEXT,
        "at": MOMENT,
        "moment": MOMENT,
        "version": _WHOLE,
        "routed_version": _WHOLE,
        "drawn_by": _WHOLE,
        "stage": _TEXT,
        "answered_by": _TEXT,
        "probability": _NUMBER,
        "decision": _FLAG,
        "referred": _FLAG,
        "reasons": pl.List(_TEXT),
        "latency_us": _WHOLE,
        "caller": _TEXT,
        "state": _TEXT,
    },
    ShadowRecord: {
        "prediction_id": _TEXT,
        "model": _TEXT,
        "version": _WHOLE,
        "at": MOMENT,
        "probability": _NUMBER,
        "decision": _FLAG,
        "referred": _FLAG,
        "error": _TEXT,
        "latency_us": _WHOLE,
    },
    OutcomeRecord: {
        "outcome_id": _TEXT,
        "model": _TEXT,
        "prediction_id": _TEXT,
        "entity": _TEXT,
        "label": _FLAG,
        "known_at": MOMENT,
        "received_at": MOMENT,
        "caller": _TEXT,
    },
    StateRecord: {"state": _TEXT, "model": _TEXT, "through": MOMENT, "versions": STATE_VERSIONS},
}
"""The columns that every row has. ``entity`` is JSON with sorted keys, so that equal entities are equal texts."""
IDENTITY: dict[type[Record], tuple[str, ...]] = {
    PredictionRecord: ("prediction_id",),
    ShadowRecord: ("prediction_id", "version"),
    # An outcome that is told again has the same id; who told it last, and when, counts where tellers differ.
    OutcomeRecord: ("outcome_id", "caller", "received_at"),
    StateRecord: ("state",),
}
"""What tells one record from another."""
_WHEN: dict[type[Record], str] = {PredictionRecord: "at", ShadowRecord: "at", OutcomeRecord: "received_at"}
"""The time whose UTC day a row belongs to. States have none: they are few, and asked for by name."""
_JSON_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_JSON_TYPES: dict[type, pl.DataType] = {str: _TEXT, int: _WHOLE, float: _NUMBER, bool: _FLAG}
_SPREAD = re.compile(rf"(request|feature)__?(.+?)(?:__(?:{'|'.join(_JSON_NAMES.values())}))?")
"""What ``_column`` and ``_placed`` call columns: whose, and of which name."""
_SORTED = msgspec.json.Encoder(order="sorted")
_EXACT = 2**53
"""Whole numbers up to here are doubles too."""


def when(kind: type[Record]) -> str | None:
    """The column that says when records of a kind were made; ``None`` for states."""
    return _WHEN.get(kind)


def entity_key(entity: Mapping[str, Any]) -> str:
    """An entity as text: equal for equal entities, whatever the order of their columns."""
    return _SORTED.encode(dict(entity)).decode()


def request_column(field: str) -> str:
    """The column of a request field."""
    return _column("request", field)


def feature_column(feature: str) -> str:
    """The column of a feature."""
    return _column("feature", feature)


def is_spread(column: str) -> bool:
    """Whether a column is of a request field or a feature, and not one that every row has."""
    return column not in FIXED[PredictionRecord] and _SPREAD.fullmatch(column) is not None


def spread_values(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What was logged of one prediction, by name, in whichever column it was put.

    Args:
        row: A row of the log.
        prefix: ``request`` for the fields of the request, ``feature`` for the features.
    """
    values: dict[str, Any] = {}
    for column, value in row.items():
        found = _SPREAD.fullmatch(column) if is_spread(column) else None
        if found is not None and found[1] == prefix and (value is not None or found[2] not in values):
            values[found[2]] = value
    return values


def declared_types(spec: ModelSpec) -> dict[str, pl.DataType]:
    """Column → type, for the request fields and features that a spec declares; pseudonyms are text."""
    from pilotage.features.rows import feature_schema

    types = {request_column(each.name): _TEXT if each.personal else each.dtype for each in spec.request}
    return types | {feature_column(name): dtype for name, dtype in feature_schema(spec).items()}


def frame_of(
    kind: type[Record], records: Sequence[Any], *, types: Mapping[str, pl.DataType] | None = None, spread: bool = True
) -> pl.DataFrame:
    """Rows of records of one kind and one model, in their order.

    Args:
        kind: The kind.
        records: The records, or lines of ``log_lines``.
        types: Types of request and feature columns, as they are in the lake or declared. A column that is not among
            them gets the type of its values; values that don't fit get a column of their own.
        spread: Whether request fields and features become columns; without them records need not hold them.
    """
    columns = [_fixed(name, dtype, list(map(attrgetter(name), records))) for name, dtype in FIXED[kind].items()]
    if kind is PredictionRecord and spread:
        known = types or {}
        columns += _spread("request", [record.request for record in records], known)
        columns += _spread("feature", [record.features for record in records], known)
    frame = pl.DataFrame(columns)
    moment = _WHEN.get(kind)
    return frame if moment is None else frame.with_columns(pl.col(moment).dt.date().alias(DAY))


def empty_frame(kind: type[Record]) -> pl.DataFrame:
    """No row, with the columns that every row has."""
    return frame_of(kind, [])


def column_as(frame: pl.DataFrame, column: str, dtype: pl.DataType) -> pl.Series:
    """The values of a request or feature column that are of a type, wherever they were put; others are null."""
    name = next((_JSON_NAMES[kind] for kind, known in _JSON_TYPES.items() if known == dtype), "string")
    places = [pl.repeat(None, pl.len(), dtype=dtype)]
    for place in (column, f"{column}__{name}"):
        found = frame.schema.get(place)
        if found == dtype:
            places.append(pl.col(place))
        elif dtype == _WHOLE and found == _NUMBER:  # Whole numbers that share a column with others; they are exact.
            places.append(pl.col(place).cast(dtype, strict=False))
        elif dtype == _NUMBER and found == _WHOLE:
            places.append(pl.col(place).cast(dtype))
        elif dtype == MOMENT and found == _TEXT:  # Nobody said that they are times.
            places.append(pl.col(place).str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False))
    return frame.select(pl.coalesce(reversed(places)).alias(column)).to_series()


def _fixed(name: str, dtype: pl.DataType, values: Sequence[Any]) -> pl.Series:
    if name == "entity":
        values = [None if value is None else entity_key(value) for value in values]
    elif name == "versions":
        values = [[{"table": t, "version": v} for t, v in sorted(value.items())] for value in values]
    elif name == "reasons":
        return _texts(name, values)
    if dtype == MOMENT:
        return pl.Series(name, values, dtype=pl.Int64()).cast(MOMENT)
    return pl.Series(name, values, dtype=dtype)


def _texts(name: str, values: Sequence[Sequence[str]]) -> pl.Series:
    """Lists of texts. Polars takes 20 µs to build each, and nearly all are empty."""
    frame = pl.DataFrame({name: pl.Series([[]], dtype=pl.List(_TEXT)).new_from_index(0, len(values))})
    told = [(index, list(value)) for index, value in enumerate(values) if value]
    if told:
        places, lists = zip(*told, strict=True)
        rows = pl.DataFrame(
            {"row": pl.Series(places, dtype=pl.UInt32()), "told": pl.Series(lists, dtype=pl.List(_TEXT))}
        )
        frame = frame.with_row_index("row").join(rows, on="row", how="left", maintain_order="left")
        frame = frame.select(pl.coalesce("told", name).alias(name))
    return frame.get_column(name)


def _column(prefix: str, name: str) -> str:
    plain = f"{prefix}_{name}"
    # No declared name begins with an underscore, so this one is free.
    return f"{prefix}__{name}" if plain in FIXED[PredictionRecord] else plain


def _spread(prefix: str, rows: Sequence[Any], known: Mapping[str, pl.DataType]) -> list[pl.Series]:
    names, values = columns_of(rows)
    columns: list[pl.Series] = []
    for column, found in zip((_column(prefix, name) for name in names), values, strict=True):
        columns += _placed(column, found, known.get(column))
    return columns


def _placed(column: str, values: Sequence[Any], known: pl.DataType | None) -> list[pl.Series]:
    """One series, where every value fits its type (the usual case); else one more for each kind that doesn't."""
    kinds = set(map(type, values))
    kinds.discard(type(None))
    if known == MOMENT and kinds == {str}:
        return _times(column, values)
    wanted = known or _common(kinds)
    if wanted is None:
        return []  # Nothing but nulls, and no type known: the column is not needed yet.
    fitting = {kind for kind in kinds if _fits(kind, values, wanted)}
    if fitting == kinds and len(kinds) < 2:
        return [pl.Series(column, values, dtype=wanted)]
    return [pl.Series(column, _only(values, fitting), dtype=wanted)] + [
        pl.Series(f"{column}__{_JSON_NAMES[kind]}", _only(values, {kind}), dtype=_JSON_TYPES[kind])
        for kind in sorted(kinds - fitting, key=_JSON_NAMES.__getitem__)
    ]


def _common(kinds: Iterable[type]) -> pl.DataType | None:
    found = set(kinds)
    if found == {int, float}:
        return _NUMBER
    return next((_JSON_TYPES[kind] for kind in _JSON_TYPES if kind in found), None)


def _fits(kind: type, values: Sequence[Any], wanted: pl.DataType) -> bool:
    if wanted == _NUMBER and kind is int:
        return all(-_EXACT <= value <= _EXACT for value in values if type(value) is int)
    return _JSON_TYPES[kind] == wanted


def _only(values: Sequence[Any], kinds: set[type]) -> list[Any]:
    return [value if type(value) in kinds else None for value in values]


def _times(column: str, values: Sequence[Any]) -> list[pl.Series]:
    """Texts as times; those that are none, such as pseudonyms, in a column of their own."""
    texts = pl.Series(column, values, dtype=_TEXT)
    times = texts.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    placed = [times]
    if times.null_count() > texts.null_count():
        placed.append(texts.set(times.is_not_null(), None).alias(f"{column}__string"))
    return placed
