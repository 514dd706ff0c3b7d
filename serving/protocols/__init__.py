"""What the codecs of the service share: a body's rows going in, an answer's bytes coming out.

Each module here is one protocol, as pure functions: ``parse`` reads a body, ``render`` writes the answer of its rows,
``refuse`` writes the answer of an error that concerns the whole request. Nothing here predicts, logs, or knows of a
connection: the gateway stands between ``parse`` and ``render``. Whether a row keeps the model's contract is for the
predictor to say; a codec says only whether the body keeps its protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from pilotage.errors import InvalidRequest, PilotageError, RequestTooLarge
from pilotage.runtime.answer import Answer
from pilotage.spec import RequestField

JSON = "application/json"
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A body, read."""

    rows: list[Any]
    """One entry a prediction, in the order of the answers; objects of fields as a JSON client would have sent them,
    not yet checked against the contract (an entry may even be no object: then its answer is the contract's error)."""
    whole: bool
    """Whether one bad row refuses all of them, because the protocol has no place for an error of a row. Nothing of a
    request with a bad row may then be logged as answered."""
    echo: Any = None
    """What ``render`` needs to know again; nobody else's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Lower-case names. ``content-length`` is the gateway's."""
    body: bytes


class Codec(Protocol):
    """What the modules ``batch``, ``oip`` and ``invocations`` are."""

    def parse(
        self, body: bytes, headers: Mapping[str, str], fields: Mapping[str, RequestField], *, largest: int
    ) -> Parsed:
        """Reads a body.

        Args:
            body: As it came.
            headers: Lower-case name → value.
            fields: The request fields of the version that will answer, in its order.
            largest: Rows that one request may have.

        Raises:
            InvalidRequest: The body does not keep the protocol.
            RequestTooLarge: It has too many rows.
        """

    def render(
        self, parsed: Parsed, results: Sequence[Answer | PilotageError], *, model: str, version: int | None
    ) -> Rendered:
        """Writes the answer.

        Args:
            parsed: What ``parse`` gave.
            results: One a row, in order.
            model: That was asked.
            version: Its champion's; ``None`` if there is none. Each row says which version answered it.
        """

    def refuse(self, error: PilotageError, *, status: int | None = None) -> Rendered:
        """Writes an error that concerns the whole request, the way the protocol's clients read one."""


def decode(body: bytes, *, fix: str = "Send one JSON object of fields.") -> Any:
    """Decodes JSON. Strict: no NaN, no infinity, no number that does not fit.

    Raises:
        InvalidRequest: It is no JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", fix=fix) from None


def json_answer(content: Any, status: int = 200) -> Rendered:
    """An answer as JSON; times in ISO 8601."""
    return Rendered(status=status, headers=(("content-type", JSON),), body=_encoder.encode(content))


def error_record(error: PilotageError) -> dict[str, Any]:
    """An error as our own JSON says it."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "fix": error.fix,
        "field": error.details.get("field"),
    }


def check_rows(count: int, largest: int) -> None:
    """Refuses a request of no rows, or of too many.

    Raises:
        InvalidRequest: There are none.
        RequestTooLarge: There are too many.
    """
    if count == 0:
        raise InvalidRequest("The request has no rows.", fix="Send at least one.")
    if count > largest:
        raise RequestTooLarge(
            f"The request has {count:,} rows; at most {largest:,} are answered at once.",
            fix=f"Send {largest:,} rows at a time.",
            rows=count,
            largest=largest,
        )
