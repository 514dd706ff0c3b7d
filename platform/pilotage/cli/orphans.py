"""What a leash leaves behind that is itself killed: its program dies with it, what that had started does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psutil

MARK = "LEASHED_PROGRAM"
"""Variable of a program's environment, and so of all that it starts, that says whose it is."""
_LEASH = "pilotage.cli.leash"


def end_orphans(wanted: Callable[[str], bool]) -> list[int]:
    """Kills the processes of programs whose leash is gone.

    Args:
        wanted: Told a mark, whether its orphans are to end.

    Returns:
        Their process ids.
    """
    found = [process for process in _marked(wanted) if not _held(process)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=2)
    return [process.pid for process in found]


def _marked(wanted: Callable[[str], bool]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        # Those of other people can't be read.
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK, "")
            if mark and wanted(mark):
                yield process


def _held(process: psutil.Process) -> bool:
    """Whether a leash holds it, or it is one: that ends all that it holds."""
    try:
        return any(_LEASH in each.cmdline() for each in (process, *process.parents()))
    except psutil.Error:
        return True  # It has ended, or changes just now.
