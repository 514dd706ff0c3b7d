"""What a feature view is made of, as data: taken from a spec, written to JSON for a bundle, and read back from it.

Nothing is computed here. The fingerprint is the SHA-256 of the JSON, so it changes with anything that changes a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from pilotage import expressions
from pilotage.errors import DeclarationError
from pilotage.features.timeline import STATE_TYPES
from pilotage.spec import REQUEST_TYPES, AsOf, Latest, ModelSpec, Window

FORMAT = 1
"""Version of the JSON; readers refuse any other."""

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The request columns, the prediction moment, the as-of features and the row features of a model."""

    request: Mapping[str, pl.DataType]
    predicts_at: pl.Expr | None
    """The prediction moment (UTC) over request columns; ``None`` for data without a time."""
    asof: tuple[AsOf, ...]
    features: Mapping[str, pl.Expr]

    @classmethod
    def of(cls, spec: ModelSpec) -> Definition:
        """Takes the definition out of a spec."""
        return cls(
            request=spec.request_types(),
            predicts_at=spec.predicts_at,
            asof=spec.asof,
            features={feature.name: feature.expr for feature in spec.features},
        )

    def to_json(self) -> str:
        """Writes it as canonical JSON: the same text for the same definition, in any process.

        Raises:
            DeclarationError: An expression holds a Python function.
        """
        data = {
            "format": FORMAT,
            "request": [[name, REQUEST_TYPES[dtype]] for name, dtype in self.request.items()],
            "predicts_at": _write(self.predicts_at, "predicts_at"),
            "asof": [_write_asof(item) for item in self.asof],
            "features": [[name, _write(expr, f"feature {name}")] for name, expr in self.features.items()],
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Definition:
        """Reads what ``to_json`` wrote.

        Raises:
            DeclarationError: The text is no definition, has another format, or an expression in it holds code.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise DeclarationError(
                    f"The feature definition has format {data['format']!r}, not {FORMAT}.",
                    fix="Serve it with the version of Pilotage that wrote it.",
                )
            return cls(
                request={name: _REQUEST_TYPES[dtype] for name, dtype in data["request"]},
                predicts_at=_read(data["predicts_at"], "predicts_at"),
                asof=tuple(_read_asof(item) for item in data["asof"]),
                features={name: expressions.from_json(expr, name=f"feature {name}") for name, expr in data["features"]},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeclarationError(
                f"The feature definition can't be read: {type(error).__name__} {error}.",
                fix="Restore the file from the registry.",
            ) from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


_REQUEST_TYPES = {name: dtype for dtype, name in REQUEST_TYPES.items()}


def _write(expr: pl.Expr | None, name: str) -> str | None:
    return None if expr is None else expressions.to_json(expr, name=name)


def _read(text: str | None, name: str) -> pl.Expr | None:
    return None if text is None else expressions.from_json(text, name=name)


def _write_asof(item: AsOf) -> dict[str, Any]:
    shared = {"name": item.name, "source": item.source, "on": sorted(item.on.items()), "known_at": item.known_at}
    if isinstance(item, Latest):
        max_age = None if item.max_age is None else item.max_age // _MICROSECOND
        columns = [[column, str(dtype)] for column, dtype in item.columns.items()]
        return {"kind": "latest", **shared, "columns": columns, "max_age_us": max_age}
    where = f"as-of feature {item.name}"
    window = {"over_us": item.over // _MICROSECOND, "aggregate": item.aggregate}
    return {
        "kind": "window",
        **shared,
        **window,
        "value": _write(item.value, where),
        "where": _write(item.where, where),
    }


def _read_asof(data: dict[str, Any]) -> AsOf:
    shared = {"name": data["name"], "source": data["source"], "on": dict(data["on"]), "known_at": data["known_at"]}
    if data["kind"] == "latest":
        max_age = None if data["max_age_us"] is None else data["max_age_us"] * _MICROSECOND
        return Latest(**shared, columns={name: STATE_TYPES[dtype] for name, dtype in data["columns"]}, max_age=max_age)
    if data["kind"] == "window":
        where = f"as-of feature {data['name']}"
        return Window(
            **shared,
            over=data["over_us"] * _MICROSECOND,
            aggregate=data["aggregate"],
            value=_read(data["value"], where),
            where=_read(data["where"], where),
        )
    raise ValueError(f"as-of kind {data['kind']!r}")
