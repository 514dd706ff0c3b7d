"""The form of MLflow's scoring server: ``dataframe_split``, ``dataframe_records``, ``instances`` or ``inputs`` in,
``{"predictions": [{"probability": …, "decision": …}, …]}`` out, as ``mlflow models serve`` answers for our models.

Written after ``mlflow.pyfunc.scoring_server`` 3.17. Like the model that MLflow loads (``release/pyfunc_model.py``) it
takes what pandas makes of a frame: whole numbers written as floats, times without a zone, which are UTC, and ``NaN``
where a value is missing. All else is checked as strictly as in our own form. CSV and Parquet bodies are not read. What
MLflow's form has no place for (ids, versions, who answered) stands beside ``predictions``, one entry a row, where its
clients don't look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

import polars as pl

from pilotage.errors import InvalidRequest, PilotageError
from pilotage.runtime.answer import Answer
from pilotage.spec import RequestField
from serving.protocols import Parsed, Rendered, check_rows, decode, json_answer

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_FIX = f"Send one JSON object with one of: {', '.join(FORMS)}."
_NO_ZONE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)")
_MISSING = {"NaN": None}
"""What MLflow's client writes of a frame that is no JSON → what it means. Infinities are no values here."""
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status → the name that MLflow has for it."""


def parse(body: bytes, headers: Mapping[str, str], fields: Mapping[str, RequestField], *, largest: int) -> Parsed:  # noqa: ARG001
    """Reads the rows of a frame; see ``Codec``."""
    content = _decoded(body)
    if not isinstance(content, dict):
        raise InvalidRequest("The body is no object.", fix=_FIX)
    forms = [form for form in FORMS if form in content]
    if len(forms) != 1:
        raise InvalidRequest(f"The body has {' and '.join(forms) or 'none of the forms of a frame'}.", fix=_FIX)
    [form] = forms
    if content.get("params"):
        raise InvalidRequest("No model here takes params.", fix="Leave them out.", field="params")
    if unknown := content.keys() - {form, "params"}:
        name = min(unknown)[:100]
        raise InvalidRequest(f"There is no field {name!r} beside {form}.", fix=_FIX, field=name)
    data = content[form]
    rows = _split(data) if form == "dataframe_split" else _rows(form, data)
    check_rows(len(rows), largest)
    times = [name for name, field in fields.items() if isinstance(field.dtype, pl.Datetime)]
    integers = [name for name, field in fields.items() if field.dtype.is_integer()]
    for row in rows:
        for name in times:
            if isinstance(text := row.get(name), str) and (without := _NO_ZONE.fullmatch(text)):
                row[name] = f"{without[1]}T{without[2]}Z"
        for name in integers:
            if isinstance(number := row.get(name), float) and number.is_integer():
                row[name] = int(number)
    return Parsed(rows=rows, whole=True)


def render(
    parsed: Parsed,  # noqa: ARG001
    results: Sequence[Answer | PilotageError],
    *,
    model: str,
    version: int | None,  # noqa: ARG001
) -> Rendered:
    """Writes the predictions as the records of a frame; see ``Codec``."""
    answers: list[Answer] = []
    for row, result in enumerate(results):
        if isinstance(result, PilotageError):
            return refuse(result, row=row if len(results) > 1 else None)
        answers.append(result)
    return json_answer(
        {
            "predictions": [{"probability": answer.probability, "decision": answer.decision} for answer in answers],
            "model": model,
            "versions": [answer.version for answer in answers],
            "prediction_ids": [answer.prediction_id for answer in answers],
            "referred": [answer.referred for answer in answers],
            "answered_by": [answer.answered_by for answer in answers],
            "reasons": [answer.reasons for answer in answers],
            "logged": [answer.logged for answer in answers],
        }
    )


def refuse(error: PilotageError, *, status: int | None = None, row: int | None = None) -> Rendered:
    """Writes an error as MLflow does; a request that is wrong is 400 there."""
    code = status or (400 if isinstance(error, InvalidRequest) else error.http_status)
    where = "" if row is None else f"Row {row}: "
    name = _CODES.get(code, "BAD_REQUEST" if code < 500 else "INTERNAL_ERROR")
    return json_answer({"error_code": name, "message": f"{where}{error}"}, code)


def ping(ok: bool) -> Rendered:
    """What ``/ping`` and ``/health`` say."""
    return Rendered(status=200 if ok else 404, headers=(("content-type", "application/json"),), body=b"\n")


@cache
def mlflow_version() -> Rendered:
    """What ``/version`` says: MLflow's, of this installation; 404 if there is none, which serving does not need."""
    try:
        status, body = 200, installed("mlflow").encode()
    except PackageNotFoundError:
        status, body = 404, b""
    return Rendered(status=status, headers=(("content-type", "application/json"),), body=body)


def _decoded(body: bytes) -> Any:
    """What a body says.

    Raises:
        InvalidRequest: It is no JSON, but for ``NaN``.
    """
    if b"NaN" in body:
        # Written anew, since all but that is to be as strict as ever; what is no JSON for it is none below.
        with suppress(ValueError, KeyError, RecursionError):
            body = json.dumps(json.loads(body.decode(), parse_constant=_MISSING.__getitem__)).encode()
    return decode(body, fix=_FIX)


def _split(data: Any) -> list[dict[str, Any]]:
    """Rows of ``{"columns": […], "data": [[…], …]}``; an index is for the sender alone."""
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("data"), list)
        or data.keys() - {"columns", "data", "index"}
    ):
        raise InvalidRequest(
            "dataframe_split is no split frame.",
            fix='Send {"columns": […], "data": [[…], …]}.',
            field="dataframe_split",
        )
    columns = data.get("columns")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise InvalidRequest(
            "dataframe_split does not name its columns.",
            fix="Send columns as a list of names.",
            field="dataframe_split",
        )
    if len(set(columns)) != len(columns):
        raise InvalidRequest("dataframe_split names a column twice.", fix="Name it once.", field="dataframe_split")
    for number, row in enumerate(data["data"]):
        if not isinstance(row, list) or len(row) != len(columns):
            raise InvalidRequest(
                f"Row {number} of dataframe_split does not have {len(columns)} values.",
                fix="Send one value a column in each row.",
                field="dataframe_split",
            )
    return [dict(zip(columns, row, strict=True)) for row in data["data"]]


def _rows(form: str, data: Any) -> list[dict[str, Any]]:
    """Rows of a list of objects; ``inputs`` may also be one object, of a list a column or of one row's values."""
    if form == "inputs" and isinstance(data, dict):
        if not any(isinstance(column, list) for column in data.values()):
            return [dict(data)]
        lengths = {len(column) if isinstance(column, list) else -1 for column in data.values()}
        if len(lengths) != 1:
            raise InvalidRequest(
                "The columns of inputs are not equally long.", fix="Send one value a row in each.", field="inputs"
            )
        return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    if not isinstance(data, list):
        raise InvalidRequest(f"{form} is no list.", fix="Send a list of objects of fields.", field=form)
    for number, row in enumerate(data):
        if not isinstance(row, dict):
            raise InvalidRequest(
                f"Row {number} of {form} is no object.", fix="Send a list of objects of fields.", field=form
            )
    return data
