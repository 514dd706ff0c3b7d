"""Is a bundle fit to serve? Checked in a child process first: a corrupt LightGBM text aborts whoever parses it.

    python -m pilotage.runtime.probe FOLDER SHA256

exits with 0 when every hash is right, everything parses, and every golden row gets its answer; otherwise it says why on
standard error.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pilotage.errors import BundleCorrupt, PilotageError
from pilotage.runtime.bundle import Bundle, read_bundle, verify_files, verify_golden
from pilotage.runtime.folder import RESTORE, as_corrupt
from pilotage.runtime.row import RowPath, verify_rows

_PATIENCE_S = 60.0
"""Seconds the child gets; it needs about one, and more on a machine that is busy."""


def admit(directory: Path, *, sha256: str | None = None) -> Bundle:
    """Reads a bundle, and lets nothing of a bad one reach this process.

    Hashes first, then all of it in a child process, then here. The child and this process read by the same SHA-256, so
    both see the same bytes.

    Raises:
        BundleCorrupt: It is not fit to serve; the message says why.
    """
    digest = verify_files(directory, sha256=sha256)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "pilotage.runtime.probe", str(directory), digest],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleCorrupt(f"Reading the bundle in {directory} does not come to an end.", fix=RESTORE) from None
    if child.returncode != 0:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        raise BundleCorrupt(
            f"The bundle in {directory} can't be served: a trial process ended with {how}"
            + (f", saying: {said[-1]}" if said else "."),
            fix=RESTORE,
        )
    bundle = read_bundle(directory, sha256=digest)
    _verify(bundle)
    return bundle


def main(folder: str, sha256: str) -> int:
    """The child's part. Its exit code is the answer."""
    with suppress(ImportError, ValueError, OSError):
        # An abort here is expected; it need not leave a core file.
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _verify(read_bundle(Path(folder), sha256=sha256))
    except PilotageError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def _verify(bundle: Bundle) -> None:
    """Every golden row gets its answer, and to the bit the same one alone as among others."""
    verify_golden(bundle)
    with as_corrupt(f"{bundle.model} {bundle.sha256[:12]}"):
        verify_rows(bundle, RowPath(bundle))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
