"""The bundles that a serving process keeps on its own disk: ``<bundles>/<model>/<version>/``.

A copy is complete and right or it is not there, whoever else copies at the same time.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from pilotage.errors import BundleCorrupt
from pilotage.runtime.bundle import FILES, verify_files
from pilotage.runtime.folder import MANIFEST, publish_folder, read_verified


def fetch(source: Path, *, sha256: str, bundles: Path, model: str, version: int) -> Path:
    """Copies a bundle to this disk, if it is not there, and gives its folder.

    Args:
        source: The bundle's folder in the registry.
        sha256: Of its manifest, as the ledger remembers it.
        bundles: ``settings.bundles``.
        model: The model.
        version: The version.

    Raises:
        BundleCorrupt: The source is missing or is not what the ledger remembers.
    """
    place = bundles / model / str(version)
    if place.exists():
        with suppress(BundleCorrupt):
            verify_files(place, sha256=sha256)
            return place
    if source.absolute() == place.absolute():
        verify_files(source, sha256=sha256)
    _, contents, _ = read_verified(source, FILES, sha256=sha256)
    if place.exists():
        # What lies there is damaged. Rename first: a reader sees the old folder or the new one.
        discarded = place.with_name(f".{place.name}.damaged.{os.getpid()}.{os.urandom(4).hex()}")
        with suppress(FileNotFoundError):
            place.rename(discarded)
            shutil.rmtree(discarded, ignore_errors=True)
    try:
        publish_folder(place, {**contents, MANIFEST: (source / MANIFEST).read_bytes()})
    except OSError:
        # Another worker was faster.
        if not place.exists():
            raise
    verify_files(place, sha256=sha256)
    return place
