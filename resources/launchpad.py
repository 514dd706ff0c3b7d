"""A pydantic model of the engine → the Dagster config that the launchpad shows: same fields, words and defaults.

Dagster's config has no dates, no unions and no optional choices; they are text and open mappings there, and the
engine's own model checks them when the run starts.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
import typing
from datetime import date
from functools import cache
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, create_model
from pydantic_core import PydanticUndefined, to_jsonable_python


def launchpad_config(model: type[BaseModel]) -> type[dg.Config]:
    """The Dagster config class of a model. Descriptions are the docstrings below its fields."""
    fields: dict[str, Any] = {}
    told = _docstrings(model.__module__).get(model.__name__, {})
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        annotation = _translate(field.annotation)
        if isinstance(default, BaseModel):
            default = annotation()
        elif default is not PydanticUndefined:
            default = to_jsonable_python(default)
        fields[name] = (
            annotation,
            Field(... if default is PydanticUndefined else default, description=told.get(name)),
        )
    return create_model(f"{model.__name__}Launchpad", __base__=dg.Config, __doc__=model.__doc__, **fields)


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the docstring below it, of a module. (Pydantic's own way parses the module once a class.)"""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    told: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for field, text in pairwise(node.body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        told.setdefault(node.name, {})[name] = inspect.cleandoc(words)
    return told


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
