"""Tensors of the Open Inference Protocol: one column of a request, as JSON values or as raw bytes.

Only shapes, datatypes and bytes live here; what the columns mean is in ``oip.py``. Written after the protocol's text
and its binary tensor data extension (KServe, ``open-inference-protocol``; Triton, ``extension_binary_data``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from pilotage.errors import InvalidRequest
from pilotage.spec import RequestField

_LENGTH = struct.Struct("<I")
_NUMPY = {
    "BOOL": "?",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_WHOLE = frozenset((int,))
_IN_JSON: dict[str, frozenset[type]] = {
    "BYTES": frozenset((str,)),
    "BOOL": frozenset((bool,)),
    **dict.fromkeys(("FP16", "FP32", "FP64"), frozenset((int, float))),
}
"""Datatype → what its values are in JSON; of the others they are whole numbers."""
_INTEGERS = tuple(name for name in _NUMPY if "INT" in name)
_ACCEPTED: dict[pl.DataType, tuple[str, ...]] = {
    pl.String(): ("BYTES",),
    pl.Int64(): ("INT64", *(name for name in _INTEGERS if name != "INT64")),
    pl.Float64(): ("FP64", "FP32", "FP16", *_INTEGERS),
    pl.Boolean(): ("BOOL",),
    pl.Datetime("us", "UTC"): ("BYTES",),
}
"""Type of a field → datatypes that hold it without loss, the one that the metadata names first."""


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """An input as the JSON part of a request describes it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None

    @property
    def binary_size(self) -> int | None:
        """Bytes that it takes in the binary part; ``None`` if its values are in the JSON."""
        size = (self.parameters or {}).get("binary_data_size")
        if size is None:
            return None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self.wrong(f"binary_data_size={str(size)[:50]!r} is no size", "Send the number of its bytes.")
        return size

    def wrong(self, what: str, fix: str) -> InvalidRequest:
        """An error about this tensor."""
        name = self.name[:100]
        return InvalidRequest(f"Tensor {name!r}: {what}.", fix=fix, field=name)


def datatype_of(field: RequestField) -> str:
    """The datatype that the metadata names for a field."""
    return _ACCEPTED[field.dtype][0]


def check_datatype(tensor: Tensor, field: RequestField) -> None:
    """Refuses a datatype that can't hold the field's values.

    Raises:
        InvalidRequest: It can't.
    """
    accepted = _ACCEPTED[field.dtype]
    if tensor.datatype not in accepted:
        raise tensor.wrong(f"its datatype is {tensor.datatype[:20]!r}", f"Send it as {accepted[0]}.")


def rows_of(tensor: Tensor) -> int:
    """How many rows a tensor has.

    Raises:
        InvalidRequest: Its shape is neither [n] nor [n, 1].
    """
    if not (len(tensor.shape) == 1 or (len(tensor.shape) == 2 and tensor.shape[1] == 1)) or tensor.shape[0] < 0:
        raise tensor.wrong(f"its shape is {str(tensor.shape)[:50]}", "Send one value a row: shape [n] or [n, 1].")
    return tensor.shape[0]


def values(tensor: Tensor, raw: bytes | None) -> list[Any]:
    """The values of a tensor, one a row, as JSON would have them.

    Args:
        tensor: Its description.
        raw: Its bytes in the binary part; ``None`` if its values are in the JSON.

    Raises:
        InvalidRequest: They are not what the description says.
    """
    count = rows_of(tensor)
    if raw is not None:
        if tensor.data is not None:
            raise tensor.wrong("it has data in the JSON and in the binary part", "Send one of them.")
        return _texts(tensor, raw, count) if tensor.datatype == "BYTES" else _numbers(tensor, raw, count)
    if tensor.data is None:
        raise tensor.wrong("it has no data", "Send data, or the parameter binary_data_size and the bytes.")
    if len(tensor.shape) == 2 and all(isinstance(item, list) and len(item) == 1 for item in tensor.data):
        found = [item[0] for item in tensor.data]
    else:
        found = tensor.data
    if len(found) != count:
        raise tensor.wrong(f"it has {len(found)} values, its shape says {count}", "Send as many as the shape says.")
    _check_values(tensor, found)
    return found


def pack(datatype: str, column: Sequence[Any]) -> bytes:
    """The bytes of an output; a missing number is NaN."""
    if datatype == "BYTES":
        encoded = [value.encode() for value in column]
        return b"".join(part for value in encoded for part in (_LENGTH.pack(len(value)), value))
    if datatype == "FP64":
        column = [float("nan") if value is None else value for value in column]
    return np.array(column, dtype=_NUMPY[datatype]).tobytes()


def _check_values(tensor: Tensor, found: Sequence[Any]) -> None:
    """Refuses JSON values that are not of the tensor's datatype. Null is every datatype's."""
    there = [value for value in found if value is not None]
    kinds = _IN_JSON.get(tensor.datatype, _WHOLE)
    wrong = None
    if not kinds.issuperset(map(type, there)):
        wrong = next(value for value in there if type(value) not in kinds)
    elif kinds is _WHOLE and there:
        limits = np.iinfo(_NUMPY[tensor.datatype])
        wrong = next((value for value in (min(there), max(there)) if not limits.min <= value <= limits.max), None)
    if wrong is not None:
        raise tensor.wrong(f"{str(wrong)[:50]!r} is no {tensor.datatype}", "Send values of its datatype.")


def _numbers(tensor: Tensor, raw: bytes, count: int) -> list[Any]:
    dtype = np.dtype(_NUMPY[tensor.datatype])
    if len(raw) != count * dtype.itemsize:
        raise tensor.wrong(
            f"it has {len(raw)} bytes, its shape needs {count * dtype.itemsize}", "Send as many as the shape says."
        )
    if tensor.datatype == "BOOL" and raw.translate(None, b"\x00\x01"):
        raise tensor.wrong("it has bytes other than 0 and 1", "Send one byte a value, 0 or 1.")
    found: list[Any] = np.frombuffer(raw, dtype=dtype).tolist()
    return found


def _texts(tensor: Tensor, raw: bytes, count: int) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise tensor.wrong("its last value is cut off", "Send each value after its length, as four bytes.")
        try:
            found.append(raw[start:end].decode())
        except UnicodeDecodeError:
            raise tensor.wrong(f"value {len(found)} is no UTF-8", "Send texts as UTF-8.") from None
        at = end
    if len(found) != count:
        raise tensor.wrong(f"it has {len(found)} values, its shape says {count}", "Send as many as the shape says.")
    return found
