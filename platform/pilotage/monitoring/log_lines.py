"""Segments of the prediction log, decoded as rows want them: field by field, and not as a dictionary an answer.

The answers of one version name the same request fields and features in the same order. So a class is made for each such
list of names, and JSON is decoded straight into it, in half the time; the values of a batch are put into it as they
are. Where answers of several versions are mixed, and names differ, objects are decoded as they come. All ways give the
same values: nothing is typed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import astuple, fields

from pilotage.runtime.answer import BatchRecord, OutcomeRecord, PredictionRecord, Record, ShadowRecord, StateRecord
from pilotage.runtime.log import Damage, lines

Lines = dict[tuple[type[Record], str], list[Any]]
"""Kind and model → records; of predictions, ``request`` and ``features`` are ``Named`` values or dictionaries."""


class Named(msgspec.Struct, gc=False):
    """Values of one JSON object; each class that is made of it knows their names."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(each.encode_name for each in fields(cls))


def _as_line() -> type[msgspec.Struct]:
    told: list[Any] = []
    for each in fields(PredictionRecord):
        kind = msgspec.Raw if each.name in ("request", "features") else each.type
        told.append((each.name, kind) if each.required else (each.name, kind, each.default))
    return msgspec.defstruct("PredictionLine", told, tag_field="kind", tag="prediction", kw_only=True, gc=False)


PredictionLine: Any = _as_line()
"""A prediction whose request and features are still JSON, or ``Named`` values."""
_LINES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    PredictionLine | BatchRecord | ShadowRecord | OutcomeRecord | StateRecord
)
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_OBJECTS: msgspec.json.Decoder[list[dict[str, Any]]] = msgspec.json.Decoder(list[dict[str, Any]])
_OBJECTS_OR_NONE: msgspec.json.Decoder[list[dict[str, Any] | None]] = msgspec.json.Decoder(list[dict[str, Any] | None])
_NULL = b"null"


def read_lines(path: Path, *, damage: Callable[[Damage], None] | None = None) -> Lines:
    """The records of a segment by kind and model, in their order. See ``pilotage.runtime.log.lines``.

    Raises:
        UnreadableFile: It is of another format; or it is damaged, and ``damage`` was not given.
        FileNotFoundError: It is gone.
        msgspec.MsgspecError: A line is no record.
    """
    found: Lines = {}
    for line in map(_LINES.decode, lines(path, damage=damage)):
        if isinstance(line, BatchRecord):
            found.setdefault((PredictionRecord, line.model), []).extend(_of_batch(line))
            continue
        kind = type(line)
        found.setdefault((PredictionRecord if kind is PredictionLine else kind, line.model), []).append(line)
    for (kind, _), some in found.items():
        if kind is PredictionRecord:
            written = [line for line in some if isinstance(line.request, msgspec.Raw)]
            requests = _decoded([line.request for line in written], or_none=False)
            features = _decoded([line.features for line in written], or_none=True)
            for line, request, feature in zip(written, requests, features, strict=True):
                line.request, line.features = request, feature
    return found


def _of_batch(batch: BatchRecord) -> Iterator[Any]:
    request, features = _class(batch.request_names), _class(batch.feature_names)
    return batch.each(
        PredictionLine, request=lambda values: request(*values), features=lambda values: features(*values)
    )


def columns_of(rows: Sequence[Any]) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """Names and values of the columns of some objects, in the order in which they first come.

    Args:
        rows: ``Named`` values, dictionaries, or ``None``; what one of them does not have is null.
    """
    kinds = set(map(type, rows)) - {type(None)}
    if len(kinds) == 1 and issubclass(kind := kinds.pop(), Named):
        empty = kind()
        return kind.names(), zip(*(astuple(empty if row is None else row) for row in rows), strict=True)
    objects = [_as_object(row) for row in rows]
    names = list(objects[0]) if objects else []
    if all(list(row) == names for row in objects):
        return names, zip(*(row.values() for row in objects), strict=True)
    names = list(dict.fromkeys(name for row in objects for name in row))  # Of several versions.
    return names, ([row.get(name) for row in objects] for name in names)


def _as_object(row: Any) -> dict[str, Any]:
    if isinstance(row, Named):
        return dict(zip(row.names(), astuple(row), strict=True))
    return row or {}


def _decoded(raw: Sequence[bytes], *, or_none: bool) -> list[Any]:
    whole = b"[" + b",".join(raw) + b"]"
    first = next((each for each in raw if bytes(each) != _NULL), None)
    if first is not None:
        try:
            return _decoder(tuple(_OBJECT.decode(first)), or_none).decode(whole)
        except msgspec.ValidationError:
            pass  # Not all of them have these names.
    return list((_OBJECTS_OR_NONE if or_none else _OBJECTS).decode(whole))


@lru_cache(maxsize=64)
def _decoder(names: tuple[str, ...], or_none: bool) -> msgspec.json.Decoder[list[Any]]:
    kind: Any = _class(names)
    return msgspec.json.Decoder(list[kind | None] if or_none else list[kind])


@lru_cache(maxsize=64)
def _class(names: tuple[str, ...]) -> type[Named]:
    # A name may be no name to Python, such as a keyword.
    places = {f"v{place}": name for place, name in enumerate(names)}
    made: Any = msgspec.defstruct(
        "Values",
        [(place, Any, None) for place in places],
        bases=(Named,),
        rename=places,
        forbid_unknown_fields=True,
        gc=False,
    )
    return cast(type[Named], made)
