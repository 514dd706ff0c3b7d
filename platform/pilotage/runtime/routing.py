"""Which version answers a request: by a hash of what it is about, so that nobody flips between versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from pilotage.errors import DeclarationError, InvalidRequest
from pilotage.expressions import from_json
from pilotage.features.compiled import CompiledRow
from pilotage.runtime.contract import Contract
from pilotage.runtime.row import to_micros
from pilotage.spec import RequestField

_SPAN = float(2**64)
_NOWHERE = 1.0
"""Beyond every share."""
_encode = msgspec.json.Encoder().encode


class EntityHash:
    """Places entities on [0, 1)."""

    def __init__(self, entity: Sequence[str], fields: Mapping[str, RequestField]) -> None:
        """Chooses what to hash.

        Args:
            entity: Columns that identify what is predicted.
            fields: The request fields. Without an entity among them, the whole request is hashed.
        """
        names = [name for name in entity if name in fields] or list(fields)
        self._fields = [(name, fields[name].dtype) for name in names]

    def place(self, request: Mapping[str, Any], salt: str) -> float:
        """Where a request's entity lies, the same for every request about it and in every process.

        Args:
            request: As sent, before any check: what is no valid entity lies somewhere too.
            salt: Another salt shuffles the entities anew.
        """
        try:
            values = _encode([_same(request.get(name), dtype) for name, dtype in self._fields])
        except (ValueError, TypeError, OverflowError, AttributeError, RecursionError):
            # No contract takes it; the champion's says so.
            return _NOWHERE
        digest = hashlib.blake2b(values, digest_size=8, key=salt.encode()[:64]).digest()
        return int.from_bytes(digest, "big") / _SPAN


class Segment:
    """The only requests that a canary gets, told by an expression over request columns."""

    def __init__(self, segment: str, contract: Contract) -> None:
        """Reads the expression (JSON).

        Raises:
            DeclarationError: It is none, or holds code.
        """
        self._contract = contract
        self._compiled = CompiledRow({"segment": from_json(segment, name="segment")}, contract.schema)

    def takes(self, request: Mapping[str, Any]) -> bool:
        """Whether a request belongs to it; one that breaks the contract, or can't be told, does not."""
        try:
            values = self._contract.row(request)
            row = [to_micros(value) if isinstance(value, datetime) else value for value in values]
            return self._compiled(row)[0] is True
        except (InvalidRequest, DeclarationError):
            return False


def _same(value: Any, dtype: pl.DataType) -> Any:
    """One way to write a value that JSON lets clients write in several."""
    try:
        if dtype == pl.Float64:
            return float(value)
        if isinstance(dtype, pl.Datetime) and value is not None:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return moment.isoformat(timespec="microseconds")
    except (TypeError, ValueError, OverflowError):
        pass
    return value
