"""Five hundred bundles that are not what was registered, and more that are: nobody dies of one, or is misled by it."""

from __future__ import annotations

import hashlib
import json
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pilotage.errors import BundleCorrupt
from pilotage.runtime.bundle import FILES, read_bundle
from pilotage.runtime.folder import MANIFEST
from pilotage.runtime.probe import admit
from pilotage.settings import PROJECT
from pilotage.testing.service import release_bundle
from tests.faults.checker import check
from tests.faults.crowd import Crowd
from tests.faults.world import World, until

HASHED, VOUCHED, SERVED = 500, 120, 12
"""How many: found by their hashes; with a manifest made anew, that the ledger vouches for; given to a service."""


def flip_bits(folder: Path, draw: random.Random) -> None:
    name = draw.choice((*FILES, MANIFEST))
    data = bytearray((folder / name).read_bytes())
    for _ in range(draw.choice((1, 1, 3, 50))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    (folder / name).write_bytes(data)


def truncate(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice((*FILES, MANIFEST))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def lengthen(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice((*FILES, MANIFEST))
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 5000)))


def swap_files(folder: Path, draw: random.Random) -> None:
    one, two = (folder / name for name in draw.sample((*FILES, MANIFEST), 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def remove_or_add(folder: Path, draw: random.Random) -> None:
    if draw.random() < 0.5:
        (folder / draw.choice((*FILES, MANIFEST))).unlink()
    else:
        (folder / f"extra-{draw.randrange(1000)}.txt").write_bytes(b"")


def link(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice((*FILES, MANIFEST))
    path.unlink()
    path.symlink_to(draw.choice(("/dev/zero", "/etc/hostname", "nowhere", ".")))


def huge_numbers(folder: Path, draw: random.Random) -> None:
    """Of the model's text: counts, indices, thresholds and leaves that no tree has."""
    path = folder / "model.txt"
    numbers = list(re.finditer(rb"(?<=[= ])-?[0-9][0-9.e+-]*", path.read_bytes()))
    data = path.read_bytes()
    for found in sorted(draw.sample(numbers, draw.choice((1, 2, 5))), key=lambda each: -each.start()):
        huge = draw.choice(
            (b"99999999", b"2147483647", b"-1", b"1e308", b"-2147483648", b"18446744073709551616", b"nan")
        )
        data = data[: found.start()] + huge + data[found.end() :]
    path.write_bytes(data)


def plain(path: Path) -> bytes:
    """What is in a file. A link may be to something without an end, which would fill this process's memory."""
    if not path.is_file() or path.is_symlink():
        raise OSError(f"{path.name} is no plain file")
    return path.read_bytes()


def rewrite_manifest(folder: Path) -> str:
    """Makes the manifest say what is there now, as somebody who may write the registry could."""
    manifest = json.loads(plain(folder / MANIFEST))
    for name in manifest["files"]:
        data = plain(folder / name)
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    (folder / MANIFEST).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    flip_bits, truncate, lengthen, swap_files, remove_or_add, link, huge_numbers,
)  # fmt: skip


def mutate(original: Path, folder: Path, draw: random.Random) -> str:
    """A copy with other bytes; says how it was made."""
    kind = draw.choice(MUTATIONS)
    while True:
        shutil.copytree(original, folder)
        kind(folder, draw)
        name = kind.__name__
        if draw.random() < 0.3:
            # With hashes that match, but not the one that the ledger remembers.
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                rewrite_manifest(folder)
                name = f"{name} with a new manifest"
        # A manifest that was damaged may be the right one again.
        if contents(folder) != contents(original):
            return name
        shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, bytes | str]:
    return {
        path.name: str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in sorted(folder.iterdir())
    }


@pytest.mark.timeout(600)
def test_whatever_is_done_to_a_bundle_it_is_not_the_one_that_the_ledger_remembers(
    world: World, draw: random.Random, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    original = world.bundles["tiny", 1]
    sha256 = read_bundle(original).sha256
    kinds: Counter[str] = Counter()
    for number in range(HASHED):
        folder = tmp_path / f"mutated-{number}"
        kind = mutate(original, folder, draw)
        kinds[kind] += 1
        with pytest.raises(BundleCorrupt):
            admit(folder, sha256=sha256)
        shutil.rmtree(folder)
    tell(f"{HASHED} mutated bundles, all refused by their hashes: {dict(kinds.most_common())}")


@pytest.mark.timeout(1800)
def test_a_damaged_model_that_the_ledger_vouches_for_is_refused_or_answers_as_it_should(
    world: World, draw: random.Random, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """Its hashes are right, so only the trial in a child process, and the golden rows, stand between it and clients."""
    original = world.bundles["tiny", 1]
    made: list[tuple[Path, str]] = []
    kinds: list[str] = []
    for number in range(VOUCHED):
        folder = tmp_path / f"vouched-{number}"
        shutil.copytree(original, folder)
        kind, how = ("huge numbers", huge_numbers) if draw.random() < 0.6 else ("bit flips", _flip_model)
        how(folder, draw)
        made.append((folder, rewrite_manifest(folder)))
        kinds.append(kind)

    before = _most_memory_mb()
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(_in_a_process, (made[::2], made[1::2])))
    told = [""] * VOUCHED
    told[::2], told[1::2] = (lines for lines, _ in halves)
    tell(
        f"{VOUCHED} damaged models with matching hashes: {dict(Counter(map(': '.join, zip(kinds, told, strict=True))))}"
    )
    tell(f"the largest trial took {max(most for _, most in halves):.0f} MB")
    odd = {str(folder): line for (folder, _), line in zip(made, told, strict=True)}
    assert {where: line for where, line in odd.items() if line not in ("refused", "admitted")} == {}
    assert _most_memory_mb() - before < 100, "nothing of them is read here"


@pytest.mark.timeout(900)
def test_a_bundle_that_would_fill_the_memory_is_refused_by_a_trial_that_may_not(
    world: World, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """Two hundred million golden rows, which take a file of half a megabyte, and 3 GB when they are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "vouched"
    shutil.copytree(world.bundles["tiny", 1], folder)
    shops = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000_000, dtype=np.int8)), pa.array(["north"]))
    rows = pa.table({"shop": shops})
    with pq.ParquetWriter(folder / "golden.parquet", rows.schema, compression="zstd") as file:
        for _ in range(20):
            file.write_table(rows, row_group_size=len(rows))
    sha256 = rewrite_manifest(folder)
    [told], most = _in_a_process([(folder, sha256)])
    size = (folder / "golden.parquet").stat().st_size
    tell(f"{size / 1e6:.1f} MB of golden rows are {told}; the trial took {most:.0f} MB")
    assert told == "refused"
    assert most < 2500


def _flip_model(folder: Path, draw: random.Random) -> None:
    path = folder / "model.txt"
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 20))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


_TRIAL = """
import resource, sys
from pathlib import Path
from pilotage.errors import BundleCorrupt
from pilotage.runtime.probe import admit
from pilotage.testing.bundles import tiny_rows
from tests.faults.models import SPECS
# What was admitted must survive requests that are no golden rows.
rows = [tiny_rows(SPECS["tiny"], rows=2000, seed=seed) for seed in range(5)]
for line in sys.stdin:
    folder, sha256 = line.split()
    try:
        bundle = admit(Path(folder), sha256=sha256)
    except BundleCorrupt:
        told = "refused"
    else:
        answers = [bundle.score(some.select(*bundle.view.request_types)) for some in rows]
        told = "admitted" if all(((0 <= p) & (p <= 1)).all() for p in answers) else "answers what is no probability"
    print(told, flush=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def _in_a_process(bundles: list[tuple[Path, str]]) -> tuple[list[str], float]:
    """What a process that admits them, one after another as a worker would, says of each; and the MB of its largest
    child. It is not this process: what is admitted is parsed where it was asked for."""
    done = subprocess.run(
        [sys.executable, "-c", _TRIAL],
        cwd=PROJECT,
        input="".join(f"{folder} {sha256}\n" for folder, sha256 in bundles),
        capture_output=True,
        text=True,
        check=False,
    )
    *told, most = done.stdout.splitlines() or [""]
    culprit = bundles[min(len(told), len(bundles) - 1)][0]
    assert done.returncode == 0, f"exit code {done.returncode} at {culprit}: {done.stderr[-500:]}"
    return told, float(most)


def _most_memory_mb() -> float:
    """The most that this process ever took."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.timeout(900)
def test_a_running_service_refuses_them_lives_and_answers_by_the_version_before(
    world: World, draw: random.Random, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    original = world.bundles["tiny", 1]
    remembered = read_bundle(original).sha256
    with world.serving() as serving, Crowd(serving.port, draw) as crowd:
        before = sorted(each["pid"] for each in serving.until_complete())
        for version in range(2, 2 + SERVED):
            folder = tmp_path / f"released-{version}"
            if version % 2:
                kind, sha256 = mutate(original, folder, draw), remembered
            else:
                # The ledger vouches for it, and LightGBM dies of it.
                shutil.copytree(original, folder)
                model = (folder / "model.txt").read_bytes().replace(b"num_leaves=5", b"num_leaves=99999999", 1)
                (folder / "model.txt").write_bytes(model)
                kind, sha256 = "vouched for", rewrite_manifest(folder)
            release_bundle(world.settings, "tiny", folder, sha256, version=version)
            until(
                serving.workers,
                lambda found, version=version: (
                    len(found) == 2
                    and all(
                        f"version {version} is refused" in str(m["problem"]) for w in found for m in w["models"][:1]
                    )
                ),
                what=f"version {version} ({kind}) refused",
            )
            crowd.until_more(20, answered_by="model", version=1)
        assert sorted(each["pid"] for each in serving.until_complete()) == before, "no worker died"
        crowd.stop()
    checked = check(world, crowd.seen)
    tell(f"{SERVED} released, all refused by both workers; {checked}")
    assert (checked.unlogged, checked.refused, checked.broken) == (0, {}, 0)
