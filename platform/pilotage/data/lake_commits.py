"""How a commit to a Delta table is made: tried on the newest version, again after a conflict, with errors that have
names. Knows delta-rs; knows nothing of sources."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.errors import CommitConflict, LakeError, PilotageError, StorageFull

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

DAY = "day"
"""The partition column of every daily table, a ``pl.Date``."""

ATTEMPTS = 12
"""Commits that are tried before concurrent writers win for good; about ten seconds."""

CONFIGURATION = {
    # The commits say which files the rows came from, and auditors ask years later: never expire the log.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
}

_NO_SPACE = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")


_DRAWN = re.compile(r"\s*(\x1b\[[0-9;]*m|[↳│╰├─▶×╭])+\s*")
_LONGEST = 500
"""Characters of what a store said that are repeated."""


class _Conflict(Exception):
    """Another commit came in between: try again on the version that it made."""


def commit(
    table: str, open_table: Callable[[str], DeltaTable | None], write: Callable[[DeltaTable | None], int]
) -> int:
    """Runs ``write`` on the newest version of the table, and again after every conflict.

    Returns:
        What ``write`` returned: the version it made.

    Raises:
        CommitConflict: Other writers won every time.
        StorageFull: No room was left; nothing was committed.
        LakeError: Anything else that the store could not do.
    """
    from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    def once() -> int:
        try:
            return write(open_table(table))
        except PilotageError:
            raise
        except Exception as error:
            raise _named(error, table) from error

    retrying = Retrying(
        retry=retry_if_exception_type(_Conflict),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.02, max=2),
    )
    try:
        return retrying(once)
    except RetryError as error:
        raise CommitConflict(
            f"{table}: other writers won {ATTEMPTS} times in a row; nothing was written.",
            fix="Run it again when fewer runs write the same days.",
            table=table,
        ) from error


def properties(note: Mapping[str, str], transactions: list[Any] | None, *, creates: bool = False) -> CommitProperties:
    """The note and the marks that go into a commit.

    Args:
        creates: Whether the commit makes the table. delta-rs repeats a creation that another one preceded as an
            append, without looking at what that one wrote: rows would be there twice. So that is never repeated.
    """
    from deltalake import CommitProperties

    retries = {"max_commit_retries": 0} if creates else {}
    return CommitProperties(custom_metadata=dict(note), app_transactions=transactions, **retries)


def unbroken(days: Sequence[date]) -> list[tuple[date, date]]:
    """First and last day of each run of consecutive days, of sorted ones."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and (day - runs[-1][1]).days == 1:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def day_ranges(days: Sequence[date]) -> str:
    """Predicate of these sorted days; consecutive ones as one range, so that a year is no list of 365."""
    return " OR ".join(f"({DAY} >= '{first}' AND {DAY} <= '{last}')" for first, last in unbroken(days))


def onto_disk(folder: Path) -> None:
    """Returns when all that was written to the folder's filesystem is on the disk, whoever wrote it."""
    import ctypes

    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):  # Not Linux.
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise LakeError(
                f"What was committed to {folder} can't be put on the disk: {os.strerror(number)}.",
                fix="Look at the disk; the same write can be tried again.",
            )
    finally:
        os.close(handle)


def plain(error: Exception) -> str:
    """What a store says, in one line: delta-rs draws trees of causes, in colour."""
    return " ".join(_DRAWN.sub(": ", str(error)).split())[:_LONGEST]


def _named(error: Exception, table: str) -> Exception:
    from deltalake.exceptions import CommitFailedError, DeltaError

    text = str(error)
    if any(sign in text for sign in _NO_SPACE):
        return StorageFull(
            f"No room is left to write {table}; nothing was committed.",
            fix="Free space on the disk that holds the lake, then run it again.",
            table=table,
        )
    # Of two that create a table at once, the second writes into the first one's.
    created_meanwhile = isinstance(error, DeltaError | OSError) and "already exists" in text
    if isinstance(error, CommitFailedError) or created_meanwhile:
        return _Conflict(text)
    if isinstance(error, DeltaError | OSError):
        return LakeError(
            f"{table} can't be written: {plain(error)}", fix="Remove the cause and run it again; nothing was committed."
        )
    return error
