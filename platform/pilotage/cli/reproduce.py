"""``pilotage reproduce``: a registered version built again from its record, and compared."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilotage.cli.console import say
from pilotage.cli.decisions import AS_JSON, MODEL, VERSION
from pilotage.errors import ConfigError

if TYPE_CHECKING:
    from pilotage.governance.reproduce import Reproduction
    from pilotage.settings import Settings

DIFFERENT = 3
"""Exit code of a version that did not come out the same."""


@click.command(short_help="Build a registered version again, and compare.")
@MODEL
@VERSION
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Folder for what is built: the training set and the bundle. Default: it is thrown away.",
)
@AS_JSON
def reproduce(model: str, version: int, keep: Path | None, as_json: bool) -> None:
    """Build VERSION of MODEL again from its record, and compare it with what was registered, byte for byte.

    Nothing is registered or changed. Exit code 0: the same. 3: it came out different. 1: it can't be built again.
    """
    from pilotage.cli.console import print_json
    from pilotage.settings import Settings

    found = _built_again(Settings.load(), model, version, keep)
    if as_json:
        print_json({**asdict(found), "version": version, "same_rows": found.same_rows, "same": found.same})
    else:
        _show(found, version, keep)
    sys.exit(0 if found.same else DIFFERENT)


def _built_again(settings: Settings, name: str, number: int, keep: Path | None) -> Reproduction:
    """Builds a version again, and tells meanwhile how far it is.

    Raises:
        ConfigError: There is no such model, or the folder to keep it in is not empty.
        NotReleasable: There is no such version.
        NotReproducible: It can't be built again.
    """
    from pilotage.cli import declared
    from pilotage.cli.status import states
    from pilotage.data.lake import Lake
    from pilotage.governance.reproduce import reproduce as build_again
    from pilotage.monitoring.skew import bundles_of

    spec = declared.model(name)
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"{keep} is there already.", fix="Name a folder that does not exist yet, or an empty one.")
    state = states(settings).get(name)
    recorded = bundles_of(name, state, settings)(number)
    began = time.monotonic()
    with _folder(settings, keep) as folder:
        return build_again(
            spec,
            recorded,
            made=state.versions[number].facts if state is not None else {},
            lake=Lake(settings.lake),
            directory=folder,
            threads=settings.threads,
            progress=lambda text: say(f"[{time.monotonic() - began:6.1f} s] {text}", err=True),
        )


@contextmanager
def _folder(settings: Settings, keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=settings.home) as folder:
        yield Path(folder)


def _show(found: Reproduction, number: int, keep: Path | None) -> None:
    from pilotage.cli.console import out

    console = out()

    def line(name: str, words: str) -> None:
        console.print(f"  {name:<18} {words}", highlight=False, markup=False)

    rows = f"{found.rows:,} rows, SHA-256 {found.training_set_sha256[:16]}…"
    now = f"{found.rows_now:,} rows, SHA-256 {found.training_set_sha256_now[:16]}…"
    line("training set", f"the same {rows}" if found.same_rows else f"DIFFERENT: {now}, not the {rows}")
    for name, same in found.files.items():
        line(name, "the same" if same else "DIFFERENT")
    line(
        "answers",
        f"to {found.golden_rows} golden rows: "
        + ("the same" if not found.largest_difference else f"up to {found.largest_difference:.3g} apart"),
    )
    for each in found.libraries:
        line(each.name, f"{each.now or 'not installed'}, and {each.then} then")
    if keep is not None:
        line("kept in", str(keep))
    if found.same:
        console.print(f"[bold green]{found.model} version {number} comes out the same, byte for byte.[/]")
        return
    console.print(f"[bold red]{found.model} version {number} does not come out the same.[/]")
    console.print("What that can mean: docs/how-to/reproduce-a-version.md", highlight=False)
