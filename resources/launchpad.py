"""A pydantic model of the engine → the Dagster config that the launchpad shows: same fields, words and defaults.

Dagster's config has no dates, no unions and no optional choices; they are text and open mappings there, and the
engine's own model checks them when the run starts.
"""

from __future__ import annotations

import types
import typing
from datetime import date
from typing import Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, create_model
from pydantic_core import PydanticUndefined, to_jsonable_python


def launchpad_config(model: type[BaseModel]) -> type[dg.Config]:
    """The Dagster config class of a model. Descriptions are the docstrings of its fields."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        annotation = _translate(field.annotation)
        if isinstance(default, BaseModel):
            default = annotation()
        elif default is not PydanticUndefined:
            default = to_jsonable_python(default)
        fields[name] = (
            annotation,
            Field(... if default is PydanticUndefined else default, description=field.description),
        )
    return create_model(f"{model.__name__}Launchpad", __base__=dg.Config, __doc__=model.__doc__, **fields)


def _translate(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _translate(arguments[0])
    if origin in (Union, types.UnionType):
        chosen = [item for item in arguments if item is not type(None)]
        inner = _translate(chosen[0]) if len(chosen) == 1 else Any
        return inner | None if type(None) in arguments and inner is not Any else inner
    if origin is dict:
        return dict[str, Any]
    if origin in (list, tuple):
        return list[_translate(arguments[0])]  # type: ignore[misc]
    if origin is Literal:
        return type(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return launchpad_config(annotation)
    return str if annotation is date else annotation
