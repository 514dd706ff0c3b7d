"""What an operator is told when a step fails: what is wrong, where, and the fix, above Dagster's stack traces.

``plainly`` puts it into the run; ``what_failed`` reads it there, for alarms and for the ledger.
"""

import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import dagster as dg

from pilotage.errors import PilotageError
from pilotage.redaction import without_secrets
from pilotage.settings import PROJECT

DECLARATIONS = (PROJECT / "assets" / "models", PROJECT / "assets" / "sources")
"""Code that those who run the platform write: where an error comes through it, that is where to look."""
_MODULE = re.compile(r"^(dagster\._core\.definitions\.events\.Failure: |([A-Za-z_]\w*\.)+(?=\w+: ))")
"""Of an error's class, before its name. A step's failure begins with the name of what it raised."""
_LONGEST = 400
"""Characters of what a run said that are told, beside the fix."""

P = ParamSpec("P")
R = TypeVar("R")


def plainly(step: Callable[P, R]) -> Callable[P, R]:
    """Decorates a step, below ``dg.asset`` or ``dg.op``: what it raises becomes a ``dg.Failure`` in plain words."""
    if inspect.isgeneratorfunction(step):

        @wraps(step)
        def events(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            with _in_plain_words():
                yield from step(*args, **kwargs)

        return cast("Callable[P, R]", events)

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _in_plain_words():
            return step(*args, **kwargs)

    return run


@contextmanager
def _in_plain_words() -> Iterator[None]:
    try:
        yield
    except (dg.Failure, dg.RetryRequested, dg.DagsterError):
        raise
    except Exception as error:
        fix = error.fix if isinstance(error, PilotageError) else _mend(error)
        words = str(error) if isinstance(error, PilotageError) else f"{error} Fix: {fix}"
        name = type(error).__name__
        raise dg.Failure(f"{name}: {words}", metadata={"error": name, "fix": fix}, allow_retries=False) from error


def _mend(error: Exception) -> str:
    """What to do about an error that nobody foresaw."""
    frames = traceback.extract_tb(error.__traceback__)
    declared = [frame for frame in frames if Path(frame.filename).parent in DECLARATIONS]
    ours = [frame for frame in frames if _is_ours(frame.filename)]
    frame = (declared or ours or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path
    return f"Look at line {frame.lineno} of {name} (`{frame.line}`), mend it, and run it again."


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(PROJECT) and "site-packages" not in Path(file).parts


def what_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, in a line: the first step that did, and what its code said, not what Dagster says around it."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        error = entry.dagster_event.step_failure_data.error if entry.dagster_event else None
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        if error is not None:
            return f"{entry.step_key}: {_without_module(error.message)}"
    ends = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    return next((entry.dagster_event.message or "" for entry in reversed(ends) if entry.dagster_event), "")


def in_a_line(said: str) -> str:
    """What an error said, as an alarm tells it."""
    words, fix, what = without_secrets(" ".join(_without_module(said).split())).partition(" Fix: ")
    room = max(0, _LONGEST - len(what))
    return words[:room] + ("…" if len(words) > room else "") + fix + what


def _without_module(said: str) -> str:
    return _MODULE.sub("", said)
