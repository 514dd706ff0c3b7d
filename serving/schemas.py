"""JSON Schemas of what the service reads and writes, made from the specs and the records.

They describe and do not check: a request goes to the predictor as it came, because what counts is the contract in the
bundle that answers, and its errors name field, value and fix. The routes are in ``openapi.py``.
"""

from __future__ import annotations

import ast
import inspect
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, WithJsonSchema, create_model

from pilotage.runtime import answer
from pilotage.spec import ModelSpec, RequestField
from serving.protocols import invocations, oip, outcomes
from serving.protocols.tensors import datatype_of

LONGEST_WHY = 1_000
"""Characters of a decision's reason: it is kept for good, and shown in one line."""
Schema = dict[str, Any]
_TYPES: dict[pl.DataType, Schema] = {
    pl.String(): {"type": "string"},
    pl.Int64(): {"type": "integer", "format": "int64"},
    pl.Float64(): {"type": "number", "format": "double"},
    pl.Boolean(): {"type": "boolean"},
    pl.Datetime("us", "UTC"): {"type": "string", "format": "date-time"},
}
ERROR: Schema = {
    "type": "object",
    "title": "Error",
    "required": ["error", "message", "fix", "field"],
    "properties": {
        "error": {"type": "string", "description": "Kind of the error.", "example": "InvalidRequest"},
        "message": {"type": "string", "description": "What is wrong.", "example": "distance='far' is a text."},
        "fix": {"type": "string", "description": "What to do.", "example": "Send an integer from 1 to 10000."},
        "field": {"type": ["string", "null"], "description": "The field at fault.", "example": "distance"},
    },
}


def ref(name: str) -> Schema:
    """Points to a schema of the page."""
    return {"$ref": f"#/components/schemas/{name}"}


def name_of(spec: ModelSpec) -> str:
    """``flight_delay`` → ``FlightDelay``."""
    return "".join(part.capitalize() for part in spec.name.split("_"))


def field_schema(field: RequestField) -> Schema:
    """One field of a request."""
    schema: Schema = {
        **_TYPES[field.dtype],
        "title": field.name,
        "description": field.description,
        "example": field.example,
    }
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    if field.maximum is not None:
        schema["maximum"] = field.maximum
    if field.one_of:
        schema["enum"] = list(field.one_of)
    if field.nullable:
        schema["type"] = [schema["type"], "null"]
        if field.one_of:
            schema["enum"].append(None)
    return schema


def example_of(spec: ModelSpec) -> dict[str, Any]:
    """A request that works."""
    return {field.name: field.example for field in spec.request}


def request_schema(spec: ModelSpec) -> Schema:
    """One request to a model."""
    return {
        "type": "object",
        "title": f"{name_of(spec)}Request",
        "description": f"One request to {spec.name}. {spec.title}.",
        "additionalProperties": False,
        "required": [field.name for field in spec.request if not field.nullable],
        "properties": {field.name: field_schema(field) for field in spec.request},
        "example": example_of(spec),
    }


def entity_schema(spec: ModelSpec) -> Schema:
    """What a prediction is about."""
    fields = [field for field in spec.request if field.name in spec.entity]
    return {
        "type": "object",
        "description": "What the prediction was about, as it was sent.",
        "additionalProperties": False,
        "required": [field.name for field in fields],
        "properties": {field.name: field_schema(field) for field in fields},
    }


def answer_schemas() -> dict[str, Schema]:
    """``Answer`` and what is in it, by name, with the words of their docstrings."""
    _, components = msgspec.json.schema_components([answer.Answer], ref_template="#/components/schemas/{name}")
    for name, schema in components.items():
        for field, words in _docstrings(getattr(answer, name)).items():
            if field in schema["properties"]:
                # Beside a reference, words are allowed since OpenAPI 3.1.
                schema["properties"][field]["description"] = words
        # What is left out has its default only where we build a record; an answer always has every field.
        schema["required"] = list(schema["properties"])
        for described in schema["properties"].values():
            described.pop("default", None)
    properties = components["Answer"]["properties"]
    for field in ("predicted_at", "state_through"):
        for choice in properties[field].get("anyOf", [properties[field]]):
            if choice.get("type") == "string":
                choice["format"] = "date-time"
    return components


def batch_schemas(spec: ModelSpec) -> tuple[Schema, Schema]:
    """Body and answer of ``/<model>/predict/batch``."""
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests"],
        "properties": {
            "requests": {
                "type": "array",
                "minItems": 1,
                "maxItems": spec.serving.largest_batch,
                "items": ref(f"{name_of(spec)}Request"),
            }
        },
        "example": {"requests": [example_of(spec)]},
    }
    one = {
        "oneOf": [
            {"type": "object", "required": ["answer"], "properties": {"answer": ref("Answer")}},
            {"type": "object", "required": ["error"], "properties": {"error": ref("Error")}},
        ]
    }
    answers = {"type": "array", "description": "One entry a row, in order.", "items": one}
    return body, {"type": "object", "required": ["answers"], "properties": {"answers": answers}}


def outcome_schemas(spec: ModelSpec) -> tuple[Schema, Schema]:
    """Body and answer of ``/<model>/outcomes``."""
    beside = {field.name: field_schema(field) for field in outcomes.FIELDS}
    one = {
        "type": "object",
        "additionalProperties": False,
        "required": ["label"],
        "properties": {**beside, "entity": {**entity_schema(spec), "type": ["object", "null"]}},
        "description": f"{spec.label.name}: {spec.label.description} Give the prediction_id or the entity.",
    }
    many = {
        "type": "object",
        "additionalProperties": False,
        "required": ["outcomes"],
        "properties": {"outcomes": {"type": "array", "minItems": 1, "maxItems": outcomes.LARGEST, "items": one}},
    }
    example = {name: field["example"] for name, field in beside.items()}
    answered = {
        "type": "object",
        "required": ["outcome_ids"],
        "properties": {
            "outcome_ids": {
                "type": "array",
                "items": {"type": "string"},
                "description": "One a sent outcome, in order; the same outcome again has the same id.",
            }
        },
    }
    return {"oneOf": [one, many], "example": example}, answered


def invocation_schemas(spec: ModelSpec) -> tuple[Schema, Schema]:
    """Body and answer of ``/<model>/invocations``."""
    rows = {"type": "array", "minItems": 1, "maxItems": spec.serving.largest_batch}
    records = {**rows, "items": ref(f"{name_of(spec)}Request")}
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}},
            "index": {"type": "array", "items": {}},
            "data": {**rows, "items": {"type": "array", "items": {}}},
        },
    }
    columns = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
    forms = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": records,
        "inputs": {"anyOf": [columns, records]},
    }
    body = {
        "oneOf": [
            {"type": "object", "additionalProperties": False, "required": [form], "properties": {form: forms[form]}}
            for form in invocations.FORMS
        ],
        "example": {"dataframe_records": [example_of(spec)]},
    }
    prediction = {
        "type": "object",
        "required": ["probability", "decision"],
        "properties": {
            "probability": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "decision": {"type": ["boolean", "null"]},
        },
    }
    each = {"type": "array", "items": {}, "description": "One entry a row."}
    return body, {
        "type": "object",
        "required": ["predictions"],
        "properties": {
            "predictions": {"type": "array", "items": prediction},
            "model": {"type": "string"},
            **dict.fromkeys(("versions", "prediction_ids", "referred", "answered_by", "reasons", "logged"), each),
        },
    }


def inference_schemas(spec: ModelSpec) -> tuple[Schema, Schema]:
    """Body and answer of ``/v2/models/<model>/infer``, where the values are JSON."""
    shape = {"type": "array", "items": {"type": "integer"}}
    base: Schema = {
        "name": {"type": "string"},
        "shape": shape,
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    }
    inputs = [
        {"name": field.name, "shape": [1], "datatype": datatype_of(field), "data": [field.example]}
        for field in spec.request
        if field.example is not None
    ]
    tensor = {"type": "object", "required": ["name", "shape", "datatype"], "properties": base}
    output = {"type": "object", "required": ["name"], "properties": {"name": {"enum": list(oip.OUTPUTS)}}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "minItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": output},
        },
        "example": {"inputs": inputs},
    }, {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": tensor},
        },
    }


class Body(BaseModel):
    """A request whose bytes are kept as they came. BentoML parses a body by ``model_validate_json`` of its type."""

    model_config = ConfigDict(extra="forbid")
    _raw: bytes = PrivateAttr(default=b"")

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **_: Any) -> Body:
        """Keeps the bytes; the contract reads them."""
        body = cls.model_construct()
        body._raw = json_data.encode() if isinstance(json_data, str) else bytes(json_data)
        return body

    @property
    def raw(self) -> bytes:
        """The body as it was sent."""
        return self._raw


class Answer(BaseModel):
    """A prediction."""

    model: str = Field(description="The model that answered.")
    version: int = Field(description="Its version; every answer and every log row carries it.")
    probability: float = Field(ge=0, le=1, description="Calibrated probability that the label is true.")
    decision: bool = Field(description="Whether acting as if the label were true is the cheaper choice.")
    label: str = Field(description="What is predicted.")
    entity: dict[str, Any] = Field(description="What the prediction is about, as it was sent.")
    predicted_at: datetime = Field(description="When, UTC.")
    state_through: datetime | None = Field(
        description="How far the history knew that the features were looked up in, UTC; null for a model without any."
    )


def request_model(spec: ModelSpec) -> type[Body]:
    """The type of a model's request."""
    fields: dict[str, Any] = {
        field.name: (Annotated[Any, WithJsonSchema(field_schema(field))], None if field.nullable else ...)
        for field in spec.request
    }
    name = f"{name_of(spec)}Request"
    made: type[Body] = create_model(name, __base__=Body, __doc__=f"One request to {spec.name}. {spec.title}.", **fields)
    made.model_config["title"] = name
    made.model_config["json_schema_extra"] = {"example": {field.name: field.example for field in spec.request}}
    return made


@cache
def _docstrings(record: type) -> dict[str, str]:
    """Field → the string under it. Kept, since to parse the source takes 15 ms."""
    body = ast.parse(inspect.getsource(record)).body[0]
    found: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, words in pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(words, ast.Expr)
            and isinstance(words.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(
                str(words.value.value).replace("``None``", "null").replace("``", "`").split()
            )
    return found
