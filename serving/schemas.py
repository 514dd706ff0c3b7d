"""What the OpenAPI page shows of a model's request and answer, made from its spec.

The models here describe and do not check: a request goes to the predictor as it came, because what counts is the
contract in the bundle that answers, and its errors name field, value and fix.
"""

from datetime import datetime
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, WithJsonSchema, create_model

from pilotage.spec import ModelSpec, RequestField

_TYPES = {
    pl.String(): {"type": "string"},
    pl.Int64(): {"type": "integer", "format": "int64"},
    pl.Float64(): {"type": "number", "format": "double"},
    pl.Boolean(): {"type": "boolean"},
    pl.Datetime("us", "UTC"): {"type": "string", "format": "date-time"},
}


class Body(BaseModel):
    """A request whose bytes are kept as they came. BentoML parses a body by ``model_validate_json`` of its type."""

    model_config = ConfigDict(extra="forbid")
    _raw: bytes = PrivateAttr(default=b"")

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **_: Any) -> "Body":
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
        field.name: (Annotated[Any, WithJsonSchema(_schema(field))], None if field.nullable else ...)
        for field in spec.request
    }
    name = "".join(part.capitalize() for part in spec.name.split("_")) + "Request"
    made: type[Body] = create_model(name, __base__=Body, __doc__=f"One request to {spec.name}. {spec.title}.", **fields)
    made.model_config["title"] = name
    made.model_config["json_schema_extra"] = {"example": {field.name: field.example for field in spec.request}}
    return made


def _schema(field: RequestField) -> dict[str, Any]:
    schema: dict[str, Any] = {
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
        schema["nullable"] = True
    return schema
