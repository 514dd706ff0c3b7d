"""Which landed files nobody has taken up yet: a listing compared with what the lake holds. No file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pilotage.data.ingested import LandedFile
from pilotage.data.lake import Lake
from pilotage.data.raw import SOURCE_FILE
from pilotage.data.source import SourceSpec

Seen = Mapping[str, tuple[int, int]]
"""File name → size in bytes and modification time in nanoseconds, when it was taken up."""


def pending(spec: SourceSpec, files: Sequence[LandedFile], *, lake: Lake, seen: Seen) -> list[LandedFile]:
    """Those of the landed files that are new, or have changed, since they were last taken up.

    Args:
        seen: What the caller knows to be taken up. A file it does not know is looked for in the lake: one whose rows
            are there, and that has not changed since the lake's last commit, is not pending.
    """
    unknown = [file for file in files if seen.get(file.name) != (file.size, file.modified_ns)]
    if not unknown or not lake.exists(f"raw/{spec.name}"):
        return unknown
    held, since = _held(spec, lake)
    return [file for file in unknown if file.name not in held or file.name in seen or _time(file) > since]


def _held(spec: SourceSpec, lake: Lake) -> tuple[set[str], datetime]:
    """Names of the files whose rows the lake holds, and when it was last written."""
    table = f"raw/{spec.name}"
    names = lake.scan(table).select(SOURCE_FILE).unique().collect().to_series().to_list()
    newest = lake.history(table, limit=1)[0]["timestamp"]
    return set(names), newest if isinstance(newest, datetime) else datetime.fromtimestamp(newest / 1000, UTC)


def _time(file: LandedFile) -> datetime:
    return datetime.fromtimestamp(file.modified_ns / 1e9, UTC)
