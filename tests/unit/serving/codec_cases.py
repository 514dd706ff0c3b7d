"""What the tests of the protocols share: the fields of a small model, and answers to it."""

from datetime import UTC, datetime
from typing import Any

from pilotage.runtime.answer import Answer
from pilotage.spec import RequestField
from pilotage.testing.bundles import tiny_spec

SPEC = tiny_spec()
FIELDS: dict[str, RequestField] = {field.name: field for field in SPEC.request}
NOW = datetime(2024, 1, 3, 12, tzinfo=UTC)


def answer(number: int = 0, **changes: Any) -> Answer:
    """An answer of version 3."""
    fields: dict[str, Any] = {
        "prediction_id": f"p-{number}",
        "model": "tiny",
        "version": 3,
        "stage": "champion",
        "answered_by": "model",
        "probability": 0.25,
        "decision": False,
        "referred": False,
        "label": "late",
        "entity": {"order_id": "A-7"},
        "predicted_at": NOW,
        "state_through": None,
    }
    return Answer(**{**fields, **changes})
