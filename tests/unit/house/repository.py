"""The project's own files, as git would hand them to somebody else."""

import subprocess
from functools import cache
from pathlib import Path

from pilotage.settings import PROJECT

SKIPPED = {".git", ".venv", ".pilotage", "__pycache__", "build", "dist", "secrets"}


@cache
def files() -> tuple[Path, ...]:
    """Tracked and new files; without git (an unpacked archive), everything that is not made by a tool."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [PROJECT / name for name in listed.stdout.split("\0") if name]
    else:
        found = [path for path in PROJECT.rglob("*") if not SKIPPED & set(path.relative_to(PROJECT).parts)]
    return tuple(sorted(path for path in found if path.is_file()))


def texts(*suffixes: str) -> dict[str, str]:
    """Path in the project → text, of every text file, or of those with one of the suffixes."""
    found = {}
    for path in files():
        if suffixes and path.suffix not in suffixes:
            continue
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(PROJECT).as_posix()] = data.decode()
    return found
