"""The request contract of a ModelSpec as JSON. Features go through ``pilotage.features.definition``.

A bundle is served after the code has moved on, so it carries this instead of reading the model's file.
"""

from __future__ import annotations

from typing import Any

from pilotage.errors import BundleCorrupt
from pilotage.runtime.folder import RESTORE
from pilotage.spec import REQUEST_TYPES, RequestField

_DTYPES = {name: dtype for dtype, name in REQUEST_TYPES.items()}


def field_to_json(field: RequestField) -> dict[str, Any]:
    """A request field; its type by the JSON name."""
    return {
        **field.model_dump(exclude={"dtype"}),
        "dtype": REQUEST_TYPES[field.dtype],
        "one_of": list(field.one_of),
    }


def field_from_json(data: dict[str, Any]) -> RequestField:
    """What ``field_to_json`` wrote.

    Raises:
        BundleCorrupt: It names a type that no request has.
    """
    if data["dtype"] not in _DTYPES:
        raise BundleCorrupt(f"The contract names an unknown type {data['dtype']}.", fix=RESTORE)
    return RequestField(**{**data, "dtype": _DTYPES[data["dtype"]]})
