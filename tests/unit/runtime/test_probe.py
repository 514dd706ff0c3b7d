"""The trial of a bundle is bounded in time and memory, and so is what is read before it."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.errors import BundleCorrupt
from pilotage.runtime import probe
from pilotage.testing.bundles import make_bundle, tiny_spec


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "tiny", make_bundle(tmp_path / "tiny", spec=tiny_spec())


def test_a_trial_that_is_never_over_is_ended_and_the_bundle_refused(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PATIENCE_S", 0.01)
    with pytest.raises(BundleCorrupt, match="took more than"):
        probe.admit(made[0], sha256=made[1])


def test_a_trial_that_computes_without_an_end_is_ended_by_the_kernel() -> None:
    endless = "from pilotage.runtime import probe; probe._MOST_CPU_S = 1; probe._confine()\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", endless], check=False)
    assert done.returncode == -signal.SIGXCPU


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound what a process allocates")
def test_a_trial_can_not_take_the_memory_of_the_machine() -> None:
    hungry = "from pilotage.runtime import probe; probe._confine(); bytearray(probe._MOST_BYTES)"
    done = subprocess.run([sys.executable, "-c", hungry], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "MemoryError")


@pytest.mark.parametrize("size", [10**15, -2, True, "12", None, float("inf")])
def test_a_size_that_no_file_of_a_bundle_has_is_refused_before_it_is_read(made: tuple[Path, str], size: object) -> None:
    folder = made[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.txt"]["bytes"] = size
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(BundleCorrupt, match=r"model\.txt can't have"):
        probe.admit(folder, sha256=hashlib.sha256(text).hexdigest())


def test_a_manifest_without_a_bottom_is_a_corrupt_bundle(made: tuple[Path, str]) -> None:
    text = b'{"files":' + b"[" * 400_000
    (made[0] / "manifest.json").write_bytes(text)
    with pytest.raises(BundleCorrupt):
        probe.admit(made[0], sha256=hashlib.sha256(text).hexdigest())
