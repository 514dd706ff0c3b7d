"""Many requests in one body: ``{"requests": [{…}, …]}`` → ``{"answers": [{"answer": {…}} | {"error": {…}}, …]}``.

Each row stands alone: one that breaks the contract gets its error, and the others their answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pilotage.errors import InvalidRequest, PilotageError
from pilotage.runtime.answer import Answer
from pilotage.runtime.answered import AnsweredRows
from pilotage.runtime.results import Joined
from pilotage.spec import RequestField
from serving.protocols import JSON, Parsed, Rendered, check_rows, decode, error_record, json_answer

_FIX = 'Send {"requests": [{…}, …]}.'
_ANSWER = b'{"answer":%b}'
_encode = msgspec.json.Encoder().encode


def parse(body: bytes, headers: Mapping[str, str], fields: Mapping[str, RequestField], *, largest: int) -> Parsed:  # noqa: ARG001
    """Reads the rows; see ``Codec``."""
    content = decode(body, fix=_FIX)
    if not isinstance(content, dict) or not isinstance(content.get("requests"), list):
        raise InvalidRequest("The body has no list of requests.", fix=_FIX, field="requests")
    if unknown := content.keys() - {"requests"}:
        name = min(unknown)[:100]
        raise InvalidRequest(f"There is no field {name!r} beside requests.", fix=_FIX, field=name)
    rows: list[Any] = content["requests"]
    check_rows(len(rows), largest)
    return Parsed(rows=rows, whole=False)


def render(
    parsed: Parsed,  # noqa: ARG001
    results: Sequence[Answer | PilotageError],
    *,
    model: str,  # noqa: ARG001
    version: int | None,  # noqa: ARG001
) -> Rendered:
    """Writes one entry a row, in order. The status is 200, whatever the rows got."""
    parts = results.parts if isinstance(results, Joined) else [results]
    entries = b",".join(entry for part in parts for entry in _entries(part))
    return Rendered(status=200, headers=(("content-type", JSON),), body=b'{"answers":[%b]}' % entries)


def refuse(error: PilotageError, *, status: int | None = None) -> Rendered:
    """Writes an error of the whole body."""
    return json_answer(error_record(error), status or error.http_status)


def _entries(results: Sequence[Answer | PilotageError]) -> Iterable[bytes]:
    """The JSON of each row's answer or error."""
    if not isinstance(results, AnsweredRows):
        return [_refused(each) if isinstance(each, PilotageError) else _ANSWER % _encode(each) for each in results]
    answers = results.as_json(_ANSWER)
    if not results.errors:
        return answers
    rest = iter(answers)
    errors = map(results.errors.get, range(len(results)))
    return [next(rest) if error is None else _refused(error) for error in errors]


def _refused(error: PilotageError) -> bytes:
    return b'{"error":%b}' % _encode(error_record(error))
