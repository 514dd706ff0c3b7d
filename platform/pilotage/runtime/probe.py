"""Is a bundle fit to serve? Checked in a child process first: a corrupt LightGBM text aborts whoever parses it.

    python -m pilotage.runtime.probe FOLDER SHA256

exits with 0 when every hash is right, everything parses, and every golden row gets its answer; otherwise it says why on
standard error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pilotage.errors import BundleCorrupt, PilotageError
from pilotage.runtime.bundle import Bundle, read_bundle, verify_files, verify_golden
from pilotage.runtime.folder import RESTORE, as_corrupt
from pilotage.runtime.row import RowPath, verify_rows
from pilotage.runtime.tried import Tried

_MOST_CPU_S = 60
"""Seconds of processor time that the child may take; it needs about one, however busy the machine is."""
_PATIENCE_S = 300.0
"""Seconds until it is ended though it takes none. Twenty trials at once on a machine that had thirty other things to do
took more than a minute each, and a bundle is not corrupt because its machine is busy."""
_MOST_BYTES = 2 << 30
"""What the child may ask for beside its code; it needs a quarter of a gigabyte."""
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""On a machine of a hundred cores the stacks of as many threads would take the child's memory."""
_OUT_OF_CPU = getattr(signal, "SIGXCPU", 0)
_LAST_WORDS = 4096
"""Bytes of what the child said that are kept. A parser can complain for as long as it lives."""


def admit(directory: Path, *, sha256: str | None = None, tried: Tried | None = None) -> Bundle:
    """Reads a bundle that is fit to serve, and lets nothing of a bad one reach this process.

    The trial process and this one read by the same SHA-256, so both see the same bytes.

    Raises:
        BundleCorrupt: It is not fit to serve; the message says why.
    """
    bundle = read_bundle(directory, sha256=require_fit(directory, sha256=sha256, tried=tried))
    _verify(bundle)
    return bundle


def require_fit(directory: Path, *, sha256: str | None = None, tried: Tried | None = None) -> str:
    """Hashes first, then all of it in a child process: whatever the bytes make of the child, it ends, and takes no more
    memory than its share.

    Args:
        directory: The bundle.
        sha256: What its manifest's hash must be; ``None`` for any.
        tried: What came through its trial before, and need not have another; ``None`` for nothing.

    Returns:
        Its manifest's SHA-256.

    Raises:
        BundleCorrupt: It is not fit to serve; the message says why.
    """
    digest = verify_files(directory, sha256=sha256)
    if tried is not None and tried.knows(digest):
        return digest
    code, said = _try(directory, digest)
    if code is None:
        raise BundleCorrupt(f"Reading the bundle in {directory} took more than {_PATIENCE_S:g} seconds.", fix=RESTORE)
    if code != 0 and code == -_OUT_OF_CPU:
        raise BundleCorrupt(f"Reading the bundle in {directory} does not come to an end.", fix=RESTORE)
    if code != 0:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise BundleCorrupt(
            f"The bundle in {directory} can't be served: a trial process ended with {how}"
            + (f", saying: {said[-1]}" if said else "."),
            fix=RESTORE,
        )
    if tried is not None:
        tried.note(digest)
    return digest


def main(folder: str, sha256: str) -> int:
    """The child's part. Its exit code is the answer."""
    _confine()
    try:
        _verify(read_bundle(Path(folder), sha256=sha256))
    except PilotageError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def _try(directory: Path, digest: str) -> tuple[int | None, list[str]]:
    """The child's exit code, ``None`` if it was ended here, and the last lines that it said."""
    command = [sys.executable, "-m", "pilotage.runtime.probe", str(directory), digest]
    late = threading.Event()
    with subprocess.Popen(
        command,
        env={**os.environ, **_ONE_THREAD},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as child:

        def end() -> None:
            late.set()
            child.kill()

        watch = threading.Timer(_PATIENCE_S, end)
        watch.daemon = True
        watch.start()
        said = b""
        try:
            while child.stderr is not None and (more := child.stderr.read(65536)):
                said = (said + more)[-_LAST_WORDS:]
            code = child.wait()
        finally:
            watch.cancel()
    lines = said.decode(errors="replace").strip().splitlines()
    return (None if late.is_set() and code < 0 else code), lines


def _confine() -> None:
    """Bounds this process, so that a hostile bundle costs the worker beside it nothing.

    Of what a platform does not know, the parent's patience is left.
    """
    with suppress(ImportError):
        import resource

        for limit, most, last in (
            # An abort here is expected; it need not leave a core file.
            (resource.RLIMIT_CORE, 0, 0),
            # Not RLIMIT_AS: allocators and threads reserve several times what they use.
            (resource.RLIMIT_DATA, _MOST_BYTES, _MOST_BYTES),
            # At the second one the kernel no longer says why.
            (resource.RLIMIT_CPU, _MOST_CPU_S, _MOST_CPU_S + 5),
        ):
            with suppress(ValueError, OSError):
                resource.setrlimit(limit, (most, last))
    with suppress(OSError):
        # Where the machine has less than that, the kernel ends this process first, and never the worker.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _verify(bundle: Bundle) -> None:
    """Every golden row gets its answer, and to the bit the same one alone as among others."""
    verify_golden(bundle)
    with as_corrupt(f"{bundle.model} {bundle.sha256[:12]}"):
        verify_rows(bundle, RowPath(bundle))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
