"""The Open Inference Protocol, version 2 (KServe, Triton): a tensor for each field, and one for each part of an answer.

What the protocol leaves open, and what is decided here:

- A field that may be null may be left out, which makes it null in every row. A single null is ``null`` in JSON data,
  NaN in a float, or ``true`` in a BOOL tensor ``<field>.null`` beside it (whose value in that row is then ignored).
- A time is BYTES, as ISO 8601 text in UTC.
- ``decision`` is BYTES, and one of "true", "false", "refer" (a person decides) and "none" (nobody could answer): as a
  BOOL, a client that does not look at ``referred`` would take a case for a person as a "no".
- The protocol has no place for the error of a row, so one bad row refuses the request, and says which.
- A version in the address is the one whose turn it is. If it fails, the fallback chain answers like anywhere else;
  ``version`` and ``answered_by`` say so.
- The body's ``id`` is given back and means nothing else. Clients count it from 1 in every process, so it can't be what
  makes a repeated request recognisable; the header ``x-request-id`` is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version as installed
from typing import Any

import msgspec

from pilotage.errors import InvalidRequest, PilotageError, UnknownModel
from pilotage.runtime.answer import Answer
from pilotage.spec import RequestField
from serving.protocols import Parsed, Rendered, check_rows, json_answer
from serving.protocols.tensors import Tensor, check_datatype, datatype_of, pack, rows_of, values

HEADER_LENGTH = "inference-header-content-length"
NULL = ".null"
"""Ending of the name of the tensor that says which values of a field are null."""
VERSION = re.compile("[1-9][0-9]*")
"""How an address names a version."""
_UNSUPPORTED = {
    **dict.fromkeys(
        ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "classification"),
        "Send the tensors themselves, without it.",
    ),
    "explain": "Ask without it, or POST /<model>/predict?explain=true.",
}
"""Parameters of which it would matter that nobody heeds them, and what to do instead."""
_encoder = msgspec.json.Encoder()


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON part of a request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Wanted] | None = None


_decoder = msgspec.json.Decoder(_Request)


def _decision(answer: Answer) -> str:
    if answer.referred:
        return "refer"
    return "none" if answer.decision is None else str(answer.decision).lower()


OUTPUTS: dict[str, tuple[str, Callable[[Answer], Any]]] = {
    "probability": ("FP64", lambda answer: answer.probability),
    "decision": ("BYTES", _decision),
    "referred": ("BOOL", lambda answer: answer.referred),
    "answered_by": ("BYTES", lambda answer: answer.answered_by),
    "version": ("INT64", lambda answer: answer.version or 0),
    "prediction_id": ("BYTES", lambda answer: answer.prediction_id),
    "reasons": ("BYTES", lambda answer: "; ".join(answer.reasons)),
    "logged": ("BOOL", lambda answer: answer.logged),
}
"""Name → datatype and value. ``version`` is 0 where no version answered; ``probability`` is then the rule's, or missing
(NaN, in JSON null)."""


def parse(body: bytes, headers: Mapping[str, str], fields: Mapping[str, RequestField], *, largest: int) -> Parsed:
    """Reads the tensors, and turns them into rows; see ``Codec``."""
    head, binary = _split(body, headers)
    try:
        request = _decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"The body is no inference request: {error}.",
            fix="Send the JSON of the Open Inference Protocol, version 2.",
        ) from None
    _refuse_unsupported(request)
    wanted = _wanted(request)
    if not request.inputs:
        raise InvalidRequest("The request has no inputs.", fix=f"Send one tensor for each of: {', '.join(fields)}.")
    count = rows_of(request.inputs[0])
    check_rows(count, largest)
    columns = _columns(request.inputs, binary, fields, count)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Parsed(rows=rows, whole=True, echo=(request.id, wanted))


def render(parsed: Parsed, results: Sequence[Answer | PilotageError], *, model: str, version: int | None) -> Rendered:
    """Writes the outputs that were asked for; see ``Codec``."""
    answers: list[Answer] = []
    for row, result in enumerate(results):
        if isinstance(result, PilotageError):
            return refuse(result, row=row if len(results) > 1 else None)
        answers.append(result)
    answered = {answer.version for answer in answers}
    # One name for all rows, where the protocol has room for one; each row's own is an output.
    shown = answered.pop() if len(answered) == 1 else version
    request_id, wanted = parsed.echo
    outputs, binary = [], []
    for name, as_bytes in wanted.items():
        datatype, value = OUTPUTS[name]
        column = [value(answer) for answer in answers]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(column)]}
        if as_bytes:
            binary.append(pack(datatype, column))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = column
        outputs.append(output)
    content: dict[str, Any] = {"model_name": model, "model_version": "" if shown is None else str(shown)}
    if request_id is not None:
        content["id"] = request_id
    content["outputs"] = outputs
    if not binary:
        return json_answer(content)
    head = _encoder.encode(content)
    return Rendered(
        status=200,
        headers=(("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(head)))),
        body=b"".join((head, *binary)),
    )


def refuse(error: PilotageError, *, status: int | None = None, row: int | None = None) -> Rendered:
    """Writes an error: ``{"error": "what, and what to do"}``."""
    where = "" if row is None else f"Row {row}: "
    return json_answer({"error": f"{where}{error}"}, status or error.http_status)


def check_version(model: str, asked: str, serving: Sequence[int]) -> int:
    """The version that an address names.

    Args:
        model: Its model.
        asked: As the address has it.
        serving: Versions that may be asked for.

    Raises:
        UnknownModel: It is not served.
    """
    for version in serving:
        if asked == str(version):
            return version
    there = ", ".join(map(str, serving)) or "none"
    raise UnknownModel(
        f"Version {asked[:20]!r} of {model} is not served; what is: {there}.",
        fix="Ask for one that is, or without a version for what is in production.",
        model=model,
    )


@cache
def server() -> Rendered:
    """What ``GET /v2`` says."""
    return json_answer(
        {"name": "pilotage", "version": installed("pilotage"), "extensions": ["binary_tensor_data"]},
    )


def health(kind: str, ok: bool) -> Rendered:
    """What ``/v2/health/live``, ``/v2/health/ready`` (``kind``) say; the protocol wants 4xx for a "no"."""
    return json_answer({kind: ok}, 200 if ok else 400)


def model_ready(model: str, ok: bool) -> Rendered:
    """What ``/v2/models/<model>/ready`` says."""
    return json_answer({"name": model, "ready": ok}, 200 if ok else 400)


def metadata(model: str, fields: Mapping[str, RequestField], serving: Sequence[int]) -> Rendered:
    """What ``GET /v2/models/<model>`` says: versions, and a tensor for each field and each part of the answer."""
    inputs = []
    for name, field in fields.items():
        about: dict[str, Any] = {"description": field.description, "optional": field.nullable}
        limits = {"minimum": field.minimum, "maximum": field.maximum, "one_of": list(field.one_of) or None}
        about |= {key: value for key, value in limits.items() if value is not None}
        inputs.append({"name": name, "datatype": datatype_of(field), "shape": [-1], "parameters": about})
    return json_answer(
        {
            "name": model,
            "versions": [str(version) for version in serving],
            "platform": "pilotage_lightgbm",
            "inputs": inputs,
            "outputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, (datatype, _) in OUTPUTS.items()],
        }
    )


def _split(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The JSON part and the binary part of a body."""
    length = headers.get(HEADER_LENGTH)
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(body)):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {length[:20]!r}; the body has {len(body)} bytes.",
            fix="Send the number of bytes of the JSON part.",
        )
    return body[: int(length)], body[int(length) :]


def _refuse_unsupported(request: _Request) -> None:
    parts = [request.parameters, *(each.parameters for each in (*request.inputs, *(request.outputs or ())))]
    for parameters in parts:
        for name, fix in _UNSUPPORTED.items():
            if (parameters or {}).get(name):
                raise InvalidRequest(f"The parameter {name} is not supported.", fix=fix, field=name)


def _wanted(request: _Request) -> dict[str, bool]:
    """Outputs to give → whether as bytes."""
    binary = _truth(request.parameters, "binary_data_output", default=False)
    if not request.outputs:
        return dict.fromkeys(OUTPUTS, binary)
    if unknown := [each.name for each in request.outputs if each.name not in OUTPUTS]:
        raise InvalidRequest(
            f"There is no output {unknown[0][:100]!r}.", fix=f"Use only: {', '.join(OUTPUTS)}.", field=unknown[0][:100]
        )
    return {each.name: _truth(each.parameters, "binary_data", default=binary) for each in request.outputs}


def _truth(parameters: Mapping[str, Any] | None, name: str, *, default: bool) -> bool:
    """A parameter that is true or false."""
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(
            f"The parameter {name} is {str(value)[:50]!r}.", fix="Send true or false, without quotes.", field=name
        )
    return value


def _columns(
    tensors: Sequence[Tensor], binary: bytes, fields: Mapping[str, RequestField], count: int
) -> dict[str, list[Any]]:
    """Field → its values, one a row."""
    columns: dict[str, list[Any]] = {}
    nulls: dict[str, tuple[Tensor, list[Any]]] = {}
    at = 0
    for tensor in tensors:
        size = tensor.binary_size
        if size is not None and at + size > len(binary):
            raise tensor.wrong(f"its {size} bytes are not all there", "Send the bytes of the tensors in their order.")
        raw = None if size is None else binary[at : at + size]
        at += size or 0
        if rows_of(tensor) != count:
            raise tensor.wrong(f"it has {rows_of(tensor)} rows, the first tensor {count}", "Send as many in each.")
        name = tensor.name.removesuffix(NULL)
        if tensor.name in columns or (tensor.name != name and name in nulls):
            raise tensor.wrong("it is there twice", "Send it once.")
        if name not in fields or (tensor.name != name and not fields[name].nullable):
            raise InvalidRequest(
                f"There is no field {tensor.name[:100]!r}.",
                fix=f"Use only: {', '.join(fields)}.",
                field=tensor.name[:100],
            )
        if tensor.name != name:
            if tensor.datatype != "BOOL":
                raise tensor.wrong(f"its datatype is {tensor.datatype[:20]!r}", "Send it as BOOL.")
            nulls[name] = (tensor, values(tensor, raw))
            continue
        check_datatype(tensor, fields[name])
        columns[name] = _without_nan(values(tensor, raw), fields[name])
    if at != len(binary):
        raise InvalidRequest(
            f"The binary part has {len(binary)} bytes, the tensors {at}.", fix="Send binary_data_size with each tensor."
        )
    for name, (tensor, mask) in nulls.items():
        if not all(isinstance(is_null, bool) for is_null in mask):
            raise tensor.wrong("it has values other than true and false", "Send booleans.")
        if name not in columns:
            raise tensor.wrong(f"there is no tensor {name} beside it", f"Send {name}, or neither.")
        columns[name] = [None if is_null else value for value, is_null in zip(columns[name], mask, strict=True)]
    return columns


def _without_nan(column: list[Any], field: RequestField) -> list[Any]:
    """Floats have no other null than NaN. Where null is not allowed NaN stays, and the contract refuses it."""
    if not field.nullable:
        return column
    return [None if isinstance(value, float) and value != value else value for value in column]  # noqa: PLR0124
