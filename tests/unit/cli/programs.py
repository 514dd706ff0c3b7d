"""Small real programs for the tests, and how to wait for what they do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

FOREVER = "import time\nwhile True: time.sleep(3600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def python(code: str) -> list[str]:
    """Command line of a Python program that starts quickly."""
    return [sys.executable, "-S", "-c", code]


def says_its_pid(path: Path, then: str = FOREVER) -> str:
    """Code that writes its process id to a file, whole, and goes on."""
    return (
        f"import os, pathlib; p = pathlib.Path({str(path)!r}); t = p.with_suffix('.tmp')\n"
        f"t.write_text(str(os.getpid())); t.rename(p)\n{then}"
    )


def family(folder: Path) -> str:
    """Code that starts a child in a session of its own, and says the ids of both."""
    child = says_its_pid(folder / "child")
    return f"import subprocess; subprocess.Popen({python(child)!r}, start_new_session=True)\n" + says_its_pid(
        folder / "parent"
    )


def until(condition: Callable[[], object], *, seconds: float = 30) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def pid_in(path: Path) -> int:
    until(path.exists)
    return int(path.read_text())


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
