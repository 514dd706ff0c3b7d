"""The service's own log lines: warnings, errors and changes of state, as text or as one JSON object a line.

No line a request: requests are counted, and each prediction is in the prediction log. A line names the request it is
about by its id, and holds nothing else that a client sent: of a defect it has the kind and the place, not the
exception's words, which may quote a value.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Any, Literal

import msgspec

from pilotage.errors import InvalidRequest, PilotageError
from pilotage.redaction import without_secrets

NAME = "bentoml.pilotage"
"""The logger of everything that serving says."""
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered, where a line is about one and does not say it itself."""
_PERSONAL = frozenset({"value", "request", "features", "entity"})
"""Names of what may hold a client's values."""
_SELDOM_S = 10.0
"""Seconds between two lines about the same."""
_encoder = msgspec.json.Encoder(enc_hook=str)


class Seldom:
    """Says one sentence in a while, and how many it left out: what breaks, breaks for each request."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._not_before = 0.0
        self._left_out = 0

    def __call__(self, sentence: str, **more: Any) -> None:
        """Says it, perhaps.

        Args:
            sentence: To be said.
            more: Further arguments of whoever says it.
        """
        now = time.monotonic()
        if now < self._not_before:
            self._left_out += 1
            return
        self._not_before = now + _SELDOM_S
        self._say(f"{sentence} (and {self._left_out} more like it)" if self._left_out else sentence, **more)
        self._left_out = 0


_refused: dict[tuple[str, str | None], Seldom] = {}
"""Kind of error and model → who says that requests are refused for it."""


def set_up(log_format: Literal["text", "json"], *, stream: IO[str] | None = None) -> logging.Logger:
    """Sets up the service's logger in this process; again does no harm.

    As JSON, what BentoML and uvicorn say goes through the same formatter from now on.

    Args:
        log_format: ``Settings.log_format``.
        stream: Where lines go; default standard error.
    """
    logger = logging.getLogger(NAME)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Handler)]:
        logger.removeHandler(handler)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger.addHandler(handler)
    if log_format == "json":
        # In a worker uvicorn's logger and the root have the same handler.
        for other in logging.getLogger("bentoml").handlers:
            other.setFormatter(handler.formatter)
    logger.setLevel(logging.INFO)
    # BentoML's own handler would say it a second time.
    logger.propagate = False
    _refused.clear()
    return logger


def failure(
    error: BaseException, *, status: int, request: str | None = None, model: str | None = None, what: str = "request"
) -> None:
    """Says that something failed, if it is ours to mend: an answer under 500 is the client's, and is only counted.

    Of requests that are refused for the same (503, 504), one in a while is named.

    Args:
        error: What was raised.
        status: That it was answered with.
        request: Id of the request.
        model: That was asked.
        what: What failed.
    """
    if status < 500:
        return
    about = {"request_id": request, "model": model, "error": type(error).__name__}
    logger = logging.getLogger(NAME)
    if isinstance(error, PilotageError) and not isinstance(error, InvalidRequest):
        kind = type(error).__name__, model
        say = _refused.setdefault(kind, Seldom(logger.error)) if status in (503, 504) else logger.error
        say(str(error), extra={"about": about})
    else:
        logger.error("A %s failed.", what, exc_info=error, extra={"about": about})


class _Handler(logging.StreamHandler[Any]):
    """Ours, told apart from others'."""


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": without_secrets(record.getMessage()),
            "process": record.process,
        }
        line |= _about(record)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = _traceback(record)
        return _encoder.encode(line).decode()


class _Text(logging.Formatter):
    """``2026-01-05T09:12:44.102+00:00 WARNING message (request_id=…, model=…)``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; a traceback makes it several."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        about = ", ".join(f"{name}={value}" for name, value in _about(record).items())
        line = f"{at} {record.levelname} {without_secrets(record.getMessage())}" + (f" ({about})" if about else "")
        # A line break of a client's would let it write lines of its own.
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + _traceback(record)
        return line


def _about(record: logging.LogRecord) -> dict[str, Any]:
    """What a line is about: ``extra={"about": {…}}`` of the call, and the request's id."""
    about = getattr(record, "about", None) or {}
    found = {
        name: without_secrets(value) if isinstance(value, str) else value
        for name, value in about.items()
        if name not in _PERSONAL and value is not None
    }
    if "request_id" not in found and (current := request_id.get()) is not None:
        found = {"request_id": current, **found}
    return found


def _traceback(record: logging.LogRecord) -> str:
    """Where it went wrong, and the kinds of error, the first cause first."""
    parts: list[str] = []
    error = record.exc_info[1] if record.exc_info else None
    while error is not None and len(parts) < 10:
        parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(parts))
