"""The parts of a ModelSpec that serving needs, as JSON: request contract, as-of features, row features.

A bundle is served after the code has moved on, so it carries these instead of reading the model's file. Expressions
go through ``pilotage.expressions``, which refuses anything that could run code.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from pilotage.errors import BundleCorrupt, DeclarationError
from pilotage.expressions import from_json, to_json
from pilotage.spec import AsOf, Feature, Latest, RequestField, Window

_DTYPES: dict[str, pl.DataType] = {
    str(dtype): dtype
    for dtype in (
        pl.String(),
        pl.Boolean(),
        pl.Int8(),
        pl.Int16(),
        pl.Int32(),
        pl.Int64(),
        pl.Float32(),
        pl.Float64(),
        pl.Date(),
        pl.Datetime("us", "UTC"),
    )
}


def dtype_name(dtype: pl.DataType) -> str:
    """The name of a type in a bundle.

    Raises:
        DeclarationError: Serving has no such type.
    """
    if str(dtype) not in _DTYPES:
        raise DeclarationError(f"A column of type {dtype} can't be served.", fix=f"Use one of: {', '.join(_DTYPES)}.")
    return str(dtype)


def dtype_of(name: str) -> pl.DataType:
    """The type that ``dtype_name`` named."""
    if name not in _DTYPES:
        raise BundleCorrupt(f"The bundle names an unknown type {name}.", fix="Restore it from the registry.")
    return _DTYPES[name]


def field_to_json(field: RequestField) -> dict[str, Any]:
    """A request field; its dtype by name."""
    return {**field.model_dump(exclude={"dtype"}), "dtype": dtype_name(field.dtype), "one_of": list(field.one_of)}


def field_from_json(data: dict[str, Any]) -> RequestField:
    return RequestField(**{**data, "dtype": dtype_of(data["dtype"])})


def asof_to_json(item: AsOf) -> dict[str, Any]:
    """An as-of feature; times in seconds, expressions as Polars JSON."""
    common = {"name": item.name, "source": item.source, "on": dict(item.on), "known_at": item.known_at}
    if isinstance(item, Latest):
        return {
            "kind": "latest",
            **common,
            "max_age_s": None if item.max_age is None else item.max_age.total_seconds(),
            "columns": {name: dtype_name(dtype) for name, dtype in item.columns.items()},
        }
    return {
        "kind": "window",
        **common,
        "over_s": item.over.total_seconds(),
        "aggregate": item.aggregate,
        "value": None if item.value is None else to_json(item.value, name=f"asof {item.name}.value"),
        "where": None if item.where is None else to_json(item.where, name=f"asof {item.name}.where"),
    }


def asof_from_json(data: dict[str, Any]) -> AsOf:
    name = data["name"]
    common = {key: data[key] for key in ("name", "source", "on", "known_at")}
    if data["kind"] == "latest":
        return Latest(
            **common,
            max_age=None if data["max_age_s"] is None else timedelta(seconds=data["max_age_s"]),
            columns={column: dtype_of(dtype) for column, dtype in data["columns"].items()},
        )
    return Window(
        **common,
        over=timedelta(seconds=data["over_s"]),
        aggregate=data["aggregate"],
        value=None if data["value"] is None else from_json(data["value"], name=f"asof {name}.value"),
        where=None if data["where"] is None else from_json(data["where"], name=f"asof {name}.where"),
    )


def feature_to_json(feature: Feature) -> dict[str, Any]:
    """A row feature; its expression as Polars JSON."""
    expr = to_json(feature.expr, name=f"feature {feature.name}")
    return {"name": feature.name, "expr": expr, "description": feature.description, "unit": feature.unit}


def feature_from_json(data: dict[str, Any]) -> Feature:
    return Feature(**{**data, "expr": from_json(data["expr"], name=f"feature {data['name']}")})
