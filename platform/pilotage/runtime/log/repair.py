"""Segments whose worker died: repaired without losing a record that was acknowledged, and sealed.

A segment whose lock can be taken has no worker. Its end may be half written, of which no caller was ever told that it
is logged: that is cut off and kept beside it; room is only cut off. Bytes in its middle that are no record are
something else, a disk or a hand that destroyed what had been there: the segment is kept as evidence, and what can be
read goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pilotage.errors import UnreadableFile
from pilotage.runtime.log.files import Files, RealFiles, begin_new, still_named, write_all, write_new
from pilotage.runtime.log.framing import scan, without_room
from pilotage.runtime.log.segments import (
    COMMITTED,
    DAMAGED,
    NEW,
    OPEN,
    SEALED,
    TORN,
    bounded,
    committed_length,
    is_header,
)

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What became of an orphan."""

    path: Path
    """The sealed segment; of an empty one, where it was."""
    outcome: Literal["sealed", "torn", "damaged", "empty"]
    records: int
    """That are in it."""
    lost_bytes: int = 0
    """Bytes taken out: half written at the end, or no record in the middle."""
    evidence: Path | None = None
    """Where they are kept."""


@dataclass(slots=True)
class _Content:
    """What a segment holds."""

    records: int = 0
    whole: int = 0
    """Bytes up to the end of the last complete submission; what comes after it was never acknowledged."""
    middle: list[tuple[int, int]] = field(default_factory=list)
    """Stretches before that which are no record."""
    acknowledged: bool = False
    """Whether a later commit proves that one of them had been on the disk."""


def adopt_orphans(
    folder: Path, *, report: Callable[[str], None], files: Files | None = None, quiet_s: float = 0.0
) -> list[Adopted]:
    """Repairs and seals the segments of dead workers; leaves those of living ones alone. Safe to run anywhere, anytime.

    Args:
        folder: ``settings.prediction_log``.
        report: Told what was found.
        files: The operating system.
        quiet_s: Only those that were last written this long ago, seconds. Whoever moves segments away gives the
            service's own workers this time to answer repeated requests from what their predecessor logged.
    """
    files = files or RealFiles()
    adopted: list[Adopted] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in (OPEN, NEW):
            continue
        try:
            if time.time() - path.stat().st_mtime < quiet_s:
                continue
            file = files.open(path)
        except FileNotFoundError:
            continue  # Sealed or moved since it was listed.
        try:
            # Opened by name, so it can have been sealed, or adopted by another process, before the lock was taken.
            if not files.lock(file) or not still_named(file, path):
                continue
            if path.suffix == NEW:
                files.remove(path)  # Nothing is acknowledged from a file of this name.
            else:
                adopted.append(_adopt(path, file, files=files, report=report))
        except (OSError, UnreadableFile) as error:
            report(f"prediction log: {path.name} has no worker, and could not be sealed: {error}")
        finally:
            with suppress(OSError):
                files.close(file)
    return adopted


def _adopt(path: Path, file: int, *, files: Files, report: Callable[[str], None]) -> Adopted:
    size = os.fstat(file).st_size
    content = _read(path)
    if content.middle:
        return _without_middle(path, content, size, files=files, report=report)
    with path.open("rb") as source:
        source.seek(content.whole)
        rest = without_room(source.read())
    torn = path.with_suffix(TORN) if rest else None
    if torn is not None:
        write_new(files, torn, rest)
    if content.records and content.whole < size:
        files.truncate(file, content.whole)
        files.sync(file)
    if torn is not None:
        report(
            f"prediction log: {path.name} ended in {len(rest)} bytes that were half written and never "
            f"acknowledged; they are kept in {torn.name}"
        )
    with suppress(FileNotFoundError):
        files.remove(path.with_suffix(COMMITTED))
    sealed = path.with_suffix(SEALED)
    if content.records:
        files.rename(path, sealed)
    else:
        files.remove(path)
    files.sync_folder(path.parent)
    return Adopted(
        path=sealed if content.records else path,
        outcome="empty" if not content.records else "torn" if torn else "sealed",
        records=content.records,
        lost_bytes=len(rest),
        evidence=torn,
    )


def _without_middle(
    path: Path, content: _Content, size: int, *, files: Files, report: Callable[[str], None]
) -> Adopted:
    """Seals what can be read. At every moment there is one segment of this name, open or sealed, never both."""
    damaged, sealed = path.with_suffix(DAMAGED), path.with_suffix(SEALED)
    clean = path.with_name(f"{path.stem}.clean{NEW}")
    with suppress(FileExistsError):  # From a repair that was interrupted here.
        files.link(path, damaged)
    file = begin_new(files, clean)
    try:
        start = copied = 0
        with path.open("rb") as source:
            for gap_start, gap_end in [*content.middle, (content.whole, size)]:
                source.seek(start)
                copied = _copy(source.read, gap_start - start, files, file, copied)
                start = gap_end
        files.sync(file)
        files.rename(clean, path)
        with suppress(FileNotFoundError):
            files.remove(path.with_suffix(COMMITTED))
        files.sync_folder(path.parent)
        files.rename(path, sealed)
        files.sync_folder(path.parent)
    finally:
        files.close(file)
    lost = sum(end - start for start, end in content.middle)
    report(
        f"prediction log: {path.name} IS DAMAGED: {lost} bytes, the first at {content.middle[0][0]}, are no record; "
        + ("acknowledged predictions are lost" if content.acknowledged else "acknowledged predictions may be lost")
        + f". {content.records} records are readable and go on; the segment as it was found is kept as {damaged.name}"
    )
    return Adopted(path=sealed, outcome="damaged", records=content.records, lost_bytes=lost, evidence=damaged)


def _read(path: Path) -> _Content:
    content = _Content()
    gaps: list[tuple[int, int]] = []
    unfinished = 0
    with path.open("rb") as file:
        for found in scan(bounded(file.read, committed_length(path))):
            if found.payload is None:
                gaps.append((found.start, found.end))
                continue
            if gaps and found.opens_commit:
                content.acknowledged = True
            if found.start == 0 and is_header(found.payload, path):
                content.whole = found.end
                continue
            unfinished += 1
            if not found.continues:
                content.records += unfinished
                content.whole, unfinished = found.end, 0
    content.middle = [gap for gap in gaps if gap[1] <= content.whole]
    return content


def _copy(read: Callable[[int], bytes], length: int, files: Files, target: int, at: int) -> int:
    """Copies so many bytes, to that byte of the target; gives where the next ones belong."""
    end = at + length
    while at < end and (data := read(min(end - at, _CHUNK))):
        write_all(files, target, data, at)
        at += len(data)
    return at
